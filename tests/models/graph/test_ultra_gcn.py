"""UltraGCN against its equations, written out with dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.graph import item_similarity
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.negatives import SamplingConfig
from recsys.models.graph.ultra_gcn import UltraGCN
from recsys.testing.embedding_model import EmbeddingModelConformance, tiny_graph
from recsys.types import PairBatch

USER, ITEM = torch.tensor([0, 2, 2]), torch.tensor([1, 3, 0])
BATCHES = {
    "own": PairBatch(USER, ITEM, torch.tensor([[2, 4], [1, 4], [4, 4]])),
    "shared": PairBatch(USER, ITEM, torch.tensor([2, 4])),
    "known": PairBatch(USER, ITEM, torch.tensor([2, 4]), known=torch.tensor([[1, 2], [0, 0]])),
}


class TestSuite(EmbeddingModelConformance):
    model = UltraGCN
    config = UltraGCN.Config(
        embedding_dim=8, negative_weight=10, item_weight=0.1, l2=0.01, init_std=0.1
    )
    sampling = SamplingConfig(num_negatives=20, reject=False)
    learning_rate = 0.05


class TestShared(EmbeddingModelConformance):
    model = UltraGCN
    config = UltraGCN.Config(
        embedding_dim=8, negative_weight=10, item_weight=0.1, l2=0.001, l2_of="batch", init_std=0.1
    )
    sampling = SamplingConfig(num_negatives=50, shared=True)
    learning_rate = 0.05


def model(graph: InteractionGraph | None = None, **options) -> UltraGCN:
    made = UltraGCN(UltraGCN.Config(embedding_dim=6, **options), graph or tiny_graph())
    made.reset_parameters(1)
    return made


def dense_pairs(graph: InteractionGraph) -> torch.Tensor:
    pairs = torch.zeros(graph.num_users, graph.num_items)
    pairs[graph.user, graph.item] = 1
    return pairs


def omega(graph: InteractionGraph, with_itself: bool) -> torch.Tensor:
    """As the official code has it, dense."""
    counts = dense_pairs(graph).T @ dense_pairs(graph)
    if not with_itself:
        counts.fill_diagonal_(0)
    total = counts.sum(1)
    left = (total + 1).sqrt() / total.clamp(min=1)
    return counts * left[:, None] / (total + 1).sqrt()[None]


@pytest.mark.parametrize("with_itself", [True, False])
@pytest.mark.parametrize("entries", [1, 1 << 25])
def test_neighbours_are_the_largest_of_the_dense_matrix(monkeypatch, with_itself, entries):
    monkeypatch.setattr(item_similarity, "_BLOCK_ENTRIES", entries)
    cells = torch.rand(30, 20, generator=torch.Generator().manual_seed(0)) < 0.15
    cells[:, 7] = False  # nobody has it
    user, item = cells.nonzero().T
    graph = InteractionGraph(30, 20, user.contiguous(), item.contiguous())
    numbers, weights = model(graph, num_neighbors=4, with_itself=with_itself).neighbors()
    dense = omega(graph, with_itself)
    wanted, _ = dense.topk(4)
    torch.testing.assert_close(weights.sort(descending=True).values, wanted)
    torch.testing.assert_close(dense.gather(1, numbers) * (weights > 0), weights)
    assert weights[7].sum() == 0
    for row, weight in zip(numbers.tolist(), weights):
        chosen = [number for number, w in zip(row, weight) if w > 0]
        assert len(set(chosen)) == len(chosen)


@pytest.mark.parametrize("negatives", ["own", "shared", "known"])
@pytest.mark.parametrize("l2_of", ["all", "batch"])
def test_loss_and_gradient_are_those_of_the_equations(negatives, l2_of):
    batch = BATCHES[negatives]
    found = model(
        w1=0.1, w2=0.2, w3=0.3, w4=0.4, negative_weight=5.0, item_weight=0.6, num_neighbors=2,
        l2=0.7, l2_of=l2_of, init_std=1.0,
    )  # fmt: skip
    loss = found.loss(batch)
    (table,) = found.embeddings.table_parameters()
    (gradient,) = torch.autograd.grad(loss, table)

    graph, rows = tiny_graph(), found.rows().detach().requires_grad_()
    users, items = dense_pairs(graph).sum(1), dense_pairs(graph).sum(0)
    beta = (users + 1).sqrt()[:, None] / users[:, None] / (items + 1).sqrt()[None]
    scores, whole = rows[:3] @ rows[3:].T, omega(graph, True)
    wanted, used = torch.zeros(()), {*USER.tolist()}
    for place, (u, i) in enumerate(zip(USER.tolist(), ITEM.tolist())):
        others = batch.negatives if batch.negatives.ndim == 1 else batch.negatives[place]
        wanted = wanted - (0.1 + 0.2 * beta[u, i]) * functional.logsigmoid(scores[u, i])
        for at, n in enumerate(others.tolist()):
            known = negatives == "known" and place > 0 and at == 0
            term = (0.3 + 0.4 * beta[u, n]) * functional.logsigmoid(-scores[u, n])
            wanted = wanted - 5.0 / 2 * term * (not known)
            used.add(3 + n)
        for j in whole[i].argsort(descending=True, stable=True)[:2].tolist():
            wanted = wanted - 0.6 * whole[i, j] * functional.logsigmoid(scores[u, j])
            used.add(3 + j)
        used.add(3 + i)
    part = rows if l2_of == "all" else rows[sorted(used)]
    wanted = (wanted + 0.7 * 0.5 * part.square().sum()) / 3
    torch.testing.assert_close(loss, wanted)
    wanted.backward()
    torch.testing.assert_close(torch.cat([gradient[2:5], gradient[7:12]]), rows.grad)


def test_a_step_touches_the_rows_of_the_batch_alone():
    """With l2_of=batch and row gradients: user 1 stays, and so do items nobody spoke of."""
    found = model(num_neighbors=1, l2=0.1, l2_of="batch", init_std=1.0)
    before = found.rows().detach().clone()
    config = EmbeddingOptimizerConfig(kind="adam", mode="sparse", learning_rate=0.1)
    tables = found.embeddings.attach_optimizer(config)
    found.loss(PairBatch(torch.tensor([0]), torch.tensor([1]), torch.tensor([4]))).backward()
    tables.step()
    moved = (found.rows().detach() != before).any(1).nonzero()[:, 0].tolist()
    assert moved == [0, 4, 7]


def test_weights_of_edges_do_not_count():
    graph = tiny_graph()
    heavy = InteractionGraph(3, 5, graph.user, graph.item, torch.full((6,), 9.0))
    for mine, other in zip(model(graph).neighbors(), model(heavy).neighbors()):
        assert torch.equal(mine, other)
