"""What trained filters share: look-ups of a batch in every storage, scores, linear propagation."""

from __future__ import annotations

from typing import ClassVar, Literal

import pytest
import torch
from torch.nn import functional

from recsys.cf_graph import LinearModel, RankedPairModel
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.errors import ConfigError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.negatives import SamplingConfig
from recsys.losses.direct_au import direct_au
from recsys.losses.ranking import batch_scores
from recsys.types import PairBatch

USER, ITEM = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 0, 2, 3])
GRAPH = InteractionGraph(3, 5, USER, ITEM)


class Pairs(RankedPairModel):
    """Matrix factorization."""

    class Config(RankedPairModel.Config):
        """Same options."""

    def loss(self, batch):
        rows = self.look_up_batch(batch)
        return self.pair_loss(rows, rows, batch)


class Linear(LinearModel):
    """Sum of layers from the first."""

    class Config(LinearModel.Config):
        """Same options."""

    first_layer: ClassVar[int] = 1
    combine: ClassVar[Literal["mean", "sum"]] = "sum"


def pairs(**options) -> Pairs:
    made = Pairs(Pairs.Config(embedding_dim=4, **options), GRAPH)
    made.reset_parameters(1)
    return made


def dense() -> torch.Tensor:
    whole = torch.zeros(8, 8)
    whole[USER, ITEM + 3] = 1
    whole = whole + whole.T
    root = whole.sum(1).clamp(min=1).rsqrt()
    return root[:, None] * whole * root[None]


@pytest.mark.parametrize("how", ["dense", "sparse", "compressed"])
def test_rows_of_a_batch_are_those_of_the_tables(how):
    plan = {"scheme": {"kind": "hash", "num_buckets": 3}, "exact_rows": 0}
    model = pairs(compression=plan if how == "compressed" else None)
    if how == "sparse":
        model.embeddings.attach_optimizer(EmbeddingOptimizerConfig(kind="adam", mode="sparse"))
    users, items = model.look_up(torch.tensor([2, 0, 2]), torch.tensor([4, 4]))
    torch.testing.assert_close(users, model.rows()[[2, 0, 2]])
    torch.testing.assert_close(items, model.rows()[[7, 7]])


def test_row_gradients_give_the_step_of_whole_ones():
    """SGD moves what a batch looks up, by the same in both modes."""
    batch = PairBatch(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([2, 4]))
    found = {}
    for mode in ("dense", "sparse"):
        model = pairs(l2=0.1)
        config = EmbeddingOptimizerConfig(kind="sgd", mode=mode, learning_rate=0.5)
        tables = model.embeddings.attach_optimizer(config)
        model.loss(batch).backward()
        tables.step()
        found[mode] = model.rows().detach()
    torch.testing.assert_close(found["sparse"], found["dense"])
    moved = (found["dense"] != pairs().rows()).any(1).nonzero()[:, 0]
    assert moved.tolist() == [0, 2, 4, 5, 6, 7]


def test_scores_of_shared_negatives():
    """User 2 knows item 0, so it is no negative; the loss is that of the others."""
    model = pairs(l2=0.0)
    user, item, shared = torch.tensor([1, 2]), torch.tensor([1, 2]), torch.tensor([0, 4, 3])
    known = torch.tensor([[1, 1], [0, 2]])
    batch = PairBatch(user, item, shared, known=known)
    rows = model.rows().detach()
    positive, negatives = batch_scores(model.look_up_batch(batch), batch)
    wanted = rows[user] @ rows[shared + 3].T
    torch.testing.assert_close(positive, (rows[user] * rows[item + 3]).sum(1))
    assert negatives[1, 0] == negatives[1, 2] == -torch.inf
    torch.testing.assert_close(
        negatives[[0, 0, 0, 1], [0, 1, 2, 1]], wanted.flatten()[[0, 1, 2, 4]]
    )
    loss = model.loss(batch)
    differences = (wanted - positive[:, None])[[0, 0, 0, 1], [0, 1, 2, 1]]
    torch.testing.assert_close(loss, functional.softplus(differences).sum() / 6)
    loss.backward()
    (table,) = model.embeddings.table_parameters()
    assert table.grad is not None and table.grad.isfinite().all()


def test_negatives_are_needed():
    with pytest.raises(ConfigError, match=r"Pairs learns from negatives .* `sampling.negatives`"):
        pairs().loss(PairBatch(USER, ITEM))


def test_pair_scores_look_up_what_is_asked_for():
    model = pairs()
    items = torch.tensor([[0, 4], [3, 3]])
    rows = model.rows().detach()
    wanted = torch.einsum("bd,bpd->bp", rows[[2, 0]], rows[items + 3])
    torch.testing.assert_close(model.pair_scores(torch.tensor([2, 0]), items), wanted)


def test_layers_that_count():
    model = Linear(Linear.Config(embedding_dim=4, num_layers=3), GRAPH).eval()
    rows, operator = model.rows().detach(), dense()
    wanted = operator @ rows + operator @ operator @ rows + operator @ operator @ operator @ rows
    torch.testing.assert_close(model.encode(), wanted)
    torch.testing.assert_close(operator @ model.passed_on(rows), wanted)
    with pytest.raises(ConfigError, match="num_layers: expected at least 1 for Linear, got 0"):
        Linear(Linear.Config(num_layers=0), GRAPH)


def test_messages_make_the_vector_of_a_node():
    """Of one layer nothing is left out: the sum over neighbours is the vector."""
    model = Linear(Linear.Config(embedding_dim=4, num_layers=1), GRAPH).eval()
    users, _ = model.vectors()
    torch.testing.assert_close(model.folded_in(GRAPH.matrix()), users)


def test_tables_of_other_widths_are_refused():
    with pytest.raises(ConfigError, match=r"tables\.item\.embedding_dim: expected 4.* got 8"):
        pairs(tables={"item": {"embedding_dim": 8}})
    pairs(tables={"item": {"embedding_dim": 4, "init": {"std": 0.5}}})


def test_a_loss_without_negatives_has_none_drawn():
    model = Linear(Linear.Config(ranking_loss={"kind": "direct_au"}, num_layers=1, l2=0.5), GRAPH)
    model.reset_parameters(1)
    (batch,) = model.loader(SamplingConfig(by="edge"), batch_size=6)
    assert batch.negatives is None
    rows = model.rows()
    vectors = dense() @ rows
    user, item = vectors[batch.user], vectors[batch.item + 3]
    both = torch.cat([rows[batch.user], rows[batch.item + 3]])
    wanted = direct_au(user, item, 1.0) + 0.5 * 0.5 * both.square().sum() / 6
    torch.testing.assert_close(model.loss(batch), wanted)
    with pytest.raises(ConfigError, match="negatives: expected none, as ranking_loss direct_au"):
        model.loader(SamplingConfig(negatives="popularity"))


def test_the_loss_is_chosen_with_its_negatives():
    model = pairs(ranking_loss={"kind": "softmax", "temperature": 0.5}, l2=0.0)
    (batch,) = model.loader(SamplingConfig(negatives="in_batch", shared=True), batch_size=6)
    rows = functional.normalize(model.rows(), dim=1)
    scores, total = rows[:3] @ rows[3:].T / 0.5, 0.0
    for user, item in zip(batch.user.tolist(), batch.item.tolist()):
        seen = ITEM[user == USER].tolist()
        others = [other for other in batch.item.tolist() if other not in seen]
        total += torch.stack([scores[user, n] for n in [item, *others]]).logsumexp(0)
        total -= scores[user, item]
    torch.testing.assert_close(model.loss(batch), total / 6)
    with pytest.raises(ConfigError, match="learns from negatives and the batches have none"):
        model.loss(PairBatch(USER, ITEM))
