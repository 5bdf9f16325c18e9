"""SGL against its equations, written out with dense matrices; its views."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recsys.graph.interaction_graph import InteractionGraph
from recsys.losses.info_nce import info_nce
from recsys.losses.pot import pot_score
from recsys.models.graph.sgl import SGL
from recsys.testing.embedding_model import EmbeddingModelConformance, dense_operator, tiny_graph
from recsys.types import PairBatch

BATCH = PairBatch(torch.tensor([0, 2, 2]), torch.tensor([1, 3, 0]), torch.tensor([[2], [1], [4]]))


class TestSuite(EmbeddingModelConformance):
    model = SGL
    config = SGL.Config(embedding_dim=8, num_layers=2, contrast_weight=0.005)


class TestWalk(EmbeddingModelConformance):
    model = SGL
    config = SGL.Config(
        embedding_dim=8, num_layers=2, contrast_weight=0.005, view="walk", contrast_among="batch"
    )


def model(graph: InteractionGraph | None = None, **options) -> SGL:
    made = SGL(SGL.Config(embedding_dim=6, **options), graph or tiny_graph())
    made.reset_parameters(1)
    return made


def large(seed: int = 0) -> InteractionGraph:
    """A third of all pairs of 40 users and 30 items."""
    cells = torch.rand(40, 30, generator=torch.Generator().manual_seed(seed)) < 0.33
    user, item = cells.nonzero().T
    return InteractionGraph(40, 30, user.contiguous(), item.contiguous())


@pytest.mark.parametrize(
    ("view", "kappa"), [("edge", 0.0), ("edge", 0.4), ("node", 0.0), ("walk", 0.0)]
)
def test_loss_and_gradient_are_those_of_the_equations(view, kappa):
    pot = {"kappa": kappa} if kappa else None
    options = {"num_layers": 2, "l2": 0.3, "contrast_weight": 0.7, "dropout": 0.4}
    found = model(view=view, pot=pot, **options)
    found.begin_epoch(2, seed=7)
    loss = found.loss(BATCH)
    (table,) = found.embeddings.table_parameters()
    (gradient,) = torch.autograd.grad(loss, table)

    rows = found.rows().detach().requires_grad_()
    operator = dense_operator(tiny_graph())
    vectors = (rows + operator @ rows + operator @ operator @ rows) / 3
    views = []
    for one, two in found.views():
        first = one.to_dense() @ rows
        views.append((rows + first + two.to_dense() @ first) / 3)
    users, items = BATCH.user, BATCH.item + 3
    used = torch.cat([users, items, BATCH.negatives.flatten() + 3])
    user, item, other = vectors[used].split(3)
    wanted = functional.softplus((user * other).sum(1) - (user * item).sum(1)).mean()
    wanted = wanted + 0.3 * 0.5 * rows[used].square().sum() / 3
    for nodes, kind in ((users, slice(0, 3)), (items, slice(3, 8))):
        one, two = views
        plain = info_nce(one[nodes], two[nodes], 0.2, among=two[kind])
        once = nodes.unique()
        wanted = wanted + 0.7 * ((1 - kappa) * plain + kappa * pot_score(one[once], two[once]))
    torch.testing.assert_close(loss, wanted)
    wanted.backward()
    torch.testing.assert_close(torch.cat([gradient[2:5], gradient[7:12]]), rows.grad)


@pytest.mark.parametrize("view", ["edge", "node", "walk"])
def test_views_are_normalized_parts_of_the_graph(view):
    found = model(large(), view=view, dropout=0.3)
    whole = found.adjacency.to_dense() > 0
    shares = []
    for operators in found.views():
        assert len(operators) == 3
        for operator in operators:
            dense = operator.to_dense()
            present = (dense > 0).float()
            root = present.sum(1).clamp(min=1).rsqrt()
            torch.testing.assert_close(dense, root[:, None] * present * root[None])
            assert torch.equal(dense, dense.T) and not (present.bool() & ~whole).any()
            shares.append(float(present.sum() / whole.sum()))
            if view == "node":
                gone = (present.sum(1) == 0).float().mean()
                assert 0.15 < gone < 0.45
    assert sum(shares) / len(shares) == pytest.approx(0.49 if view == "node" else 0.7, abs=0.1)
    assert len({round(share, 9) for share in shares}) == (6 if view == "walk" else 2)


def test_views_are_those_of_the_seed_and_the_epoch():
    def edges(epoch: int, seed: int) -> list[torch.Tensor]:
        found = model(large())
        found.begin_epoch(1, 1)
        found.views()
        found.begin_epoch(epoch, seed)
        torch.rand(3)
        return [view[0].to_dense() for view in found.views()]

    first, again, later, other = edges(4, 2), edges(4, 2), edges(5, 2), edges(4, 3)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], later[0]) and not torch.equal(first[0], other[0])


def test_views_stay_for_a_whole_epoch_evaluations_in_between():
    found = model(large())
    found.begin_epoch(0, 0)
    views = found.views()
    found.eval().vectors()
    assert found.train().views() is views


def test_without_layers_views_are_the_rows():
    found = model(num_layers=0)
    rows = found.rows().detach()
    assert all(torch.equal(found.of_view(rows, view), rows) for view in found.views())
