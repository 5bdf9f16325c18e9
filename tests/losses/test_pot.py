"""Node compactness: by hand, against the paper's general bound, against every way to drop edges."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.losses.pot import (
    compactness_directions,
    compactness_loss,
    drop_budget,
    node_compactness,
    pot_score,
    worst_compactness,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def symmetric(adjacency: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2, 0 for isolated nodes."""
    degrees = adjacency.sum(1)
    root = torch.where(degrees > 0, degrees.clamp(min=1).rsqrt(), 0.0)
    return root[:, None] * adjacency * root


def random_graph(num_users: int, num_items: int, seed: int) -> Tensor:
    edges = torch.rand(num_users, num_items, generator=torch.Generator().manual_seed(seed)) < 0.6
    size = num_users + num_items
    adjacency = torch.zeros(size, size, dtype=torch.float64)
    adjacency[:num_users, num_users:] = edges.double()
    return adjacency + adjacency.T


def test_compactness_is_the_own_similarity_minus_the_mean_of_the_others():
    first, second = normal(4, 3), normal(4, 3, seed=1)
    scaled = second / second.norm(dim=1, keepdim=True)
    for row in range(4):
        others = [first[row] @ scaled[other] for other in range(4) if other != row]
        expected = first[row] @ scaled[row] - sum(others) / 3
        torch.testing.assert_close(node_compactness(first, second)[row], expected)


def crown_score(adjacency, features, weights, directions, slope):
    """The published score: two layers, PReLU of a slope, relaxed between its bounds.

    Bounds by intervals, as the paper's code has them; every quantity that depends on bounds is a
    line through them, which for slope 1 must come out as the identity.
    """
    first, second = weights
    hidden = adjacency @ features @ first
    upper, lower = hidden.abs() + 1.0, -hidden.abs() - 1.0  # any bounds that straddle 0
    alpha = (upper - slope * lower) / (upper - lower)
    beta = (slope - 1) * upper * lower / (upper - slope * lower)
    to_second = (alpha * directions) @ second.T
    to_first = (alpha * to_second) @ first.T
    scores = []
    for node in range(len(features)):
        inner = adjacency @ (features @ to_first[node]) + (alpha * beta * to_second).sum(1)
        scores.append((adjacency @ inner)[node] + (alpha * beta * directions).sum(1)[node])
    return torch.stack(scores)


def test_the_published_bound_collapses_to_the_score():
    """Without weights and with a slope of 1 it is the compactness of A A X itself."""
    adjacency = symmetric(random_graph(3, 4, seed=0))
    features, other_view = normal(7, 5), normal(7, 5, seed=1)
    eye = torch.eye(5, dtype=torch.float64)
    directions = compactness_directions(other_view)
    found = node_compactness(adjacency @ adjacency @ features, other_view)
    torch.testing.assert_close(found, crown_score(adjacency, features, (eye, eye), directions, 1.0))
    relaxed = crown_score(adjacency, features, (eye, eye), directions, 0.25)
    assert (relaxed - found).abs().max() > 0.01, "a real activation does not collapse"


def brute_force(adjacency, vectors, directions, budgets, base):
    """Drops every set of at most q edges at every node, and computes its layer anew."""
    worst = []
    for node in range(len(adjacency)):
        neighbours = adjacency[node].nonzero()[:, 0].tolist()
        values = []
        for count in range(int(budgets[node]) + 1):
            for gone in itertools.combinations(neighbours, count):
                left = adjacency.clone()
                left[node, list(gone)] = 0
                left[list(gone), node] = 0
                values.append((symmetric(left) @ vectors)[node] @ directions[node] + base[node])
        worst.append(min(values))
    return torch.stack(worst)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7])
def test_the_worst_case_is_that_of_all_edge_drops(seed, rate):
    adjacency = random_graph(4, 6, seed)
    vectors = normal(10, 3, seed=seed)
    directions = compactness_directions(normal(10, 3, seed=seed + 100))
    base = (vectors * directions).sum(1) / 2
    budgets = drop_budget(adjacency.sum(1).long(), rate)
    node, neighbour = adjacency.nonzero().T
    weight = symmetric(adjacency)[node, neighbour]
    contributions = weight * (vectors[neighbour] * directions[node]).sum(1)
    found = worst_compactness(contributions, node, budgets, base)
    torch.testing.assert_close(found, brute_force(adjacency, vectors, directions, budgets, base))
    whole = (symmetric(adjacency) @ vectors * directions).sum(1) + base
    assert (found <= whole + 1e-12).all()
    if rate == 0.0:
        torch.testing.assert_close(found, whole)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), max_size=12),
    st.lists(st.integers(0, 12), min_size=4, max_size=4),
    st.sampled_from([0.0, 0.5, 1.0]),
)
@settings(max_examples=150, deadline=None)
def test_equals_sorting_node_by_node(edges, budgets, power):
    nodes = torch.tensor([node for node, _ in edges], dtype=torch.int64)
    values = torch.tensor([float(value) for _, value in edges])
    found = worst_compactness(values, nodes, torch.tensor(budgets), renormalize=power)
    for node in range(4):
        own = sorted((float(v) for n, v in edges if n == node), reverse=True)
        choices = [
            sum(own[s:]) * (len(own) / (len(own) - s)) ** power if s < len(own) else 0.0
            for s in range(min(budgets[node], len(own)) + 1)
        ]
        assert found[node].item() == pytest.approx(min(choices), abs=1e-5)


def test_budget_by_hand():
    """t = 4, 1, -2: dropping 4 leaves -1, times sqrt(3/2); with 1 too -2, times sqrt 3."""
    shares, nodes = torch.tensor([1.0, 4.0, -2.0]), torch.zeros(3, dtype=torch.int64)
    for budget, expected in ((0, 3.0), (1, -math.sqrt(1.5)), (2, -2 * math.sqrt(3))):
        found = worst_compactness(shares, nodes, torch.tensor([budget]))
        assert found.item() == pytest.approx(expected)


def test_losses():
    """f = ln 3 and 0: -ln(3/4) and -ln(1/2)."""
    loss = compactness_loss(torch.tensor([math.log(3), 0.0]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    first, second = normal(4, 3), normal(4, 3, seed=1)
    expected = (
        compactness_loss(node_compactness(first, second))
        + compactness_loss(node_compactness(second, first))
    ) / 2
    torch.testing.assert_close(pot_score(first, second), expected)


def test_large_scores_are_finite():
    loss = compactness_loss(torch.tensor([-1e5, 1e5]))
    assert loss.item() == 5e4


def test_gradients():
    torch.autograd.gradcheck(
        pot_score, (normal(4, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_())
    )
    nodes = torch.tensor([0, 1, 0, 2, 0, 1])
    budgets, base = torch.tensor([2, 1, 0, 3]), normal(4, seed=1).requires_grad_()
    torch.autograd.gradcheck(
        lambda t, b: worst_compactness(t, nodes, budgets, b), (normal(6).requires_grad_(), base)
    )


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"at least two nodes \(N, D\), got \(1, 3\)"):
        node_compactness(torch.zeros(1, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"two views of one shape, got \(2, 3\) and \(3, 3\)"):
        node_compactness(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"`rate`: expected a share, from 0 to 1, got 1\.5"):
        drop_budget(torch.tensor([1]), 1.5)
    one = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"got \(1,\), \(2,\), \(1,\) and None"):
        worst_compactness(torch.zeros(1), torch.zeros(2), one)
    with pytest.raises(ValueError, match="positions from 0 to 0, got 3 to 3"):
        worst_compactness(torch.zeros(1), one + 3, one)
    with pytest.raises(ValueError, match="`renormalize`: expected a power of at least 0"):
        worst_compactness(torch.zeros(1), one, one, renormalize=-1.0)
