"""Vectors of new nodes against propagation with them, written out."""

import numpy as np
import pytest
import torch

from recsys.graph.fold_in import mean_messages
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.propagation import Adjacency

WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
GRAPH = InteractionGraph(
    3, 4, torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 2, 2]), WEIGHTS
)  # fmt: skip
ROWS = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))


def dense(weighted: bool) -> torch.Tensor:
    """D^-1/2 A D^-1/2; item 3 has no edge."""
    whole = torch.zeros(7, 7)
    whole[GRAPH.user, GRAPH.item + 3] = WEIGHTS if weighted else 1.0
    whole = whole + whole.T
    roots = whole.sum(1).clamp(min=1e-9).rsqrt()
    return roots[:, None] * whole * roots[None]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("num_layers", "first"), [(1, 0), (3, 0), (2, 1), (3, 2), (3, 3)])
def test_messages_of_neighbours_make_the_vector_but_for_its_own_row(weighted, num_layers, first):
    """z_u = e_u / (K + 1) + sum_i w_ui m_i / sqrt(d_u), exactly, for nodes in the graph."""
    graph = GRAPH if weighted else InteractionGraph(3, 4, GRAPH.user, GRAPH.item)
    operator = dense(weighted)
    layers = [ROWS]
    for _ in range(num_layers):
        layers.append(operator @ layers[-1])
    wanted = torch.stack(layers[first:]).mean(0)
    own = ROWS / (num_layers + 1) if first == 0 else torch.zeros_like(ROWS)
    messages = mean_messages(Adjacency.bipartite(graph), ROWS, num_layers, first)
    matrix = torch.from_numpy(graph.matrix().toarray())
    degrees = matrix.sum(1, keepdim=True)
    torch.testing.assert_close(matrix @ messages[3:] / degrees.sqrt() + own[:3], wanted[:3])
    degrees = matrix.sum(0).clamp(min=1e-9)[:, None]
    torch.testing.assert_close(matrix.T @ messages[:3] / degrees.sqrt() + own[3:], wanted[3:])
    assert not messages[6].any(), "an item without users passes nothing on"


def test_without_layers_nothing_is_passed_on():
    assert not mean_messages(Adjacency.bipartite(GRAPH), ROWS, 0).any()


def test_new_users_are_where_propagation_with_them_puts_them():
    """The check of 300 users removed from Gowalla, small: cosine to propagating with them."""
    random = np.random.default_rng(3)
    tastes = random.integers(0, 4, 300)
    seen = random.random((300, 80)) < np.where(tastes[:, None] == np.arange(80) % 4, 0.5, 0.05)
    pairs = torch.from_numpy(seen).nonzero()
    whole = InteractionGraph(300, 80, pairs[:, 0], pairs[:, 1])
    old = pairs[pairs[:, 0] < 280]
    part = InteractionGraph(280, 80, old[:, 0], old[:, 1])
    rows = torch.randn(380, 8, generator=torch.Generator().manual_seed(1)) * 0.1
    rows[280:300] = 0  # nobody has trained the rows of new users
    full = Adjacency.bipartite(whole).propagate(rows, 3)[280:300]
    messages = mean_messages(
        Adjacency.bipartite(part), torch.cat([rows[:280], rows[300:]]), 3
    )[280:]  # fmt: skip
    history = torch.from_numpy(seen[280:]).float()
    found = history @ messages / history.sum(1, keepdim=True).sqrt()
    assert torch.cosine_similarity(found, full).min() > 0.99
    assert 0.9 < float(found.norm() / full.norm()) < 1.1
