"""SimpleX against its equations, written out user by user."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.negatives import SamplingConfig
from recsys.models.graph import simplex
from recsys.models.graph.simplex import SimpleX
from recsys.testing.embedding_model import EmbeddingModelConformance, tiny_graph
from recsys.types import PairBatch

USER, ITEM = torch.tensor([0, 2, 2]), torch.tensor([1, 3, 0])
BATCHES = {
    "own": PairBatch(USER, ITEM, torch.tensor([[2, 4], [1, 4], [4, 4]])),
    "known": PairBatch(USER, ITEM, torch.tensor([2, 4]), known=torch.tensor([[1, 2], [0, 0]])),
}
AGGREGATIONS = ["mean", "self_attention", "user_attention", "none"]


class TestMean(EmbeddingModelConformance):
    model = SimpleX
    config = SimpleX.Config(embedding_dim=8, margin=0.3, negative_weight=5)
    sampling = SamplingConfig(num_negatives=50, shared=True)


class TestAttention(EmbeddingModelConformance):
    model = SimpleX
    config = SimpleX.Config(
        embedding_dim=8, margin=0.3, negative_weight=5, aggregation="user_attention"
    )
    sampling = SamplingConfig(num_negatives=20)


class TestMatrixFactorization(EmbeddingModelConformance):
    model = SimpleX
    config = SimpleX.Config(embedding_dim=8, margin=0.3, negative_weight=5, aggregation="none")
    sampling = SamplingConfig(num_negatives=50, shared=True)


def model(graph: InteractionGraph | None = None, **options) -> SimpleX:
    options = {"embedding_dim": 6, "init_std": 1.0, "dropout": 0.0, **options}
    made = SimpleX(SimpleX.Config(**options), graph or tiny_graph())
    made.reset_parameters(1)
    return made


def equations(found: SimpleX, rows: torch.Tensor) -> torch.Tensor:
    """All vectors, from the equations of the class."""
    histories, items, mixed = {0: [0, 1], 1: [1], 2: [0, 2, 3]}, rows[3:], []
    for user, seen in histories.items():
        own, rest = rows[user], items[seen]
        kind = found.config.aggregation
        if kind == "none":
            mixed.append(own)
            continue
        shares = torch.full((len(seen),), 1 / len(seen))
        if kind != "mean":
            keys = torch.tanh(rest @ found.key.weight.T + found.key.bias)
            query = own if kind == "user_attention" else found.query.weight[0]
            shares = (keys @ query).softmax(0)
        pooled = (shares[:, None] * rest).sum(0) @ found.value.weight.T
        mixed.append(0.3 * own + 0.7 * pooled)
    whole = torch.cat([torch.stack(mixed), items])
    return whole / whole.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("negatives", ["own", "known"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_loss_and_gradients_are_those_of_the_equations(aggregation, negatives):
    batch = BATCHES[negatives]
    found = model(aggregation=aggregation, gamma=0.3, margin=-0.2, negative_weight=4.0, l2=0.1)
    loss = found.loss(batch)
    (table,) = found.embeddings.table_parameters()
    weights = [p for name, p in found.named_parameters() if "embeddings" not in name]
    gradient, *others = torch.autograd.grad(loss, [table, *weights])

    rows = found.rows().detach().requires_grad_()
    vectors = equations(found, rows)
    torch.testing.assert_close(found.encode(), vectors)
    cosines, wanted = vectors[:3] @ vectors[3:].T, torch.zeros(())
    assert batch.negatives is not None
    for place, (u, i) in enumerate(zip(USER.tolist(), ITEM.tolist())):
        drawn = batch.negatives if batch.negatives.ndim == 1 else batch.negatives[place]
        far = [(cosines[u, n] + 0.2).clamp(min=0) for n in drawn.tolist()]
        if negatives == "known" and place > 0:
            far[0] = torch.zeros(())
        wanted = wanted + 1 - cosines[u, i] + 4.0 / 2 * sum(far)
    used = torch.cat([USER, ITEM + 3, batch.negatives.flatten() + 3])
    wanted = (wanted + 0.1 * 0.5 * rows[used].square().sum()) / 3
    torch.testing.assert_close(loss, wanted)
    mine, *theirs = torch.autograd.grad(wanted, [rows, *weights])
    torch.testing.assert_close(torch.cat([gradient[2:5], gradient[7:12]]), mine)
    torch.testing.assert_close(others, theirs)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_vectors_do_not_depend_on_blocks(monkeypatch, aggregation):
    found = model(aggregation=aggregation).eval()
    whole = found.encode()
    monkeypatch.setattr(simplex, "_USERS_AT_ONCE", 2)
    torch.testing.assert_close(found.encode(), whole)


def test_long_histories_are_cut():
    """User 0 has 10 items of which 4 stay, always the same; user 1 has none, user 2 has 3."""
    user = torch.tensor([0] * 10 + [2] * 3)
    item = torch.cat([torch.arange(10), torch.tensor([1, 5, 9])])
    graph = InteractionGraph(3, 10, user, item)
    position, seen = model(graph, max_history=4).histories(torch.tensor([2, 1, 0]))
    assert position.tolist() == [0, 0, 0, 2, 2, 2, 2]
    assert seen[:3].tolist() == [1, 5, 9] and len(set(seen[3:].tolist())) == 4
    again = model(graph, max_history=4).histories(torch.tensor([0]))[1]
    assert torch.equal(again, seen[3:]) and again.tolist() != [0, 1, 2, 3]
    assert model(graph, max_history=4).eval().encode().isfinite().all()


def test_a_step_touches_rows_of_the_batch_and_its_histories():
    """User 0 has seen items 0 and 1; the negative is 4."""
    found = model(margin=-1.0)
    before = found.rows().detach().clone()
    config = EmbeddingOptimizerConfig(kind="adam", mode="sparse", learning_rate=0.1)
    tables = found.embeddings.attach_optimizer(config)
    found.loss(PairBatch(torch.tensor([0]), torch.tensor([1]), torch.tensor([[4]]))).backward()
    tables.step()
    moved = (found.rows().detach() != before).any(1).nonzero()[:, 0].tolist()
    assert moved == [0, 3, 4, 7]


def test_dropout_is_for_training():
    found = model(dropout=0.5)
    torch.manual_seed(0)
    losses = {float(found.loss(BATCHES["own"]).detach()) for _ in range(5)}
    assert len(losses) > 1
    wanted = model().loss(BATCHES["own"])
    torch.testing.assert_close(found.eval().loss(BATCHES["own"]), wanted)
    assert functional.cosine_similarity(*found.vectors()[0][:2], dim=0) <= 1
