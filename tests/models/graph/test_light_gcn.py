"""LightGCN against its equations, written out with dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recsys.errors import ConfigError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.models.graph.light_gcn import LightGCN
from recsys.testing.embedding_model import EmbeddingModelConformance
from recsys.types import PairBatch

USER, ITEM = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 0, 2, 3])


class TestSuite(EmbeddingModelConformance):
    model = LightGCN
    config = LightGCN.Config(embedding_dim=8)


def graph() -> InteractionGraph:
    """Three users, five items, the last without a user."""
    return InteractionGraph(3, 5, USER, ITEM)


def dense() -> torch.Tensor:
    """D^-1/2 A D^-1/2."""
    whole = torch.zeros(8, 8)
    whole[USER, ITEM + 3] = 1
    whole = whole + whole.T
    root = whole.sum(1).clamp(min=1).rsqrt()
    return root[:, None] * whole * root[None]


def model(**options) -> LightGCN:
    """With start values of seed 1."""
    made = LightGCN(LightGCN.Config(embedding_dim=6, **options), graph())
    made.reset_parameters(1)
    return made


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_vectors_are_the_mean_of_the_layers(num_layers):
    found = model(num_layers=num_layers).eval()
    rows = found.rows().detach()
    layers = [rows]
    for _ in range(num_layers):
        layers.append(dense() @ layers[-1])
    wanted = sum(layers) / len(layers)
    users, items = found.vectors()
    torch.testing.assert_close(torch.cat([users, items]), wanted)
    torch.testing.assert_close(found.scores(torch.tensor([2, 0])), (users @ items.T)[[2, 0]])


def test_loss_and_gradient_are_those_of_the_equations():
    found = model(num_layers=2, l2=0.3)
    batch = PairBatch(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([[2, 4], [1, 4]]))
    loss = found.loss(batch)
    (table,) = found.embeddings.table_parameters()
    (gradient,) = torch.autograd.grad(loss, table)

    rows = found.rows().detach().requires_grad_()
    operator = dense()
    vectors = (rows + operator @ rows + operator @ operator @ rows) / 3
    user, item = vectors[batch.user], vectors[batch.item + 3]
    others = vectors[batch.negatives + 3]
    difference = (user[:, None] * others).sum(-1) - (user * item).sum(-1, keepdim=True)
    used = torch.cat([batch.user, batch.item + 3, batch.negatives.flatten() + 3])
    wanted = functional.softplus(difference).mean() + 0.3 * 0.5 * rows[used].square().sum() / 2
    torch.testing.assert_close(loss, wanted)
    wanted.backward()
    mine = torch.cat([gradient[2:5], gradient[7:12]])  # PAD and OOV come before users and items
    torch.testing.assert_close(mine, rows.grad)
    assert gradient[[0, 1, 5, 6]].abs().sum() == 0


def test_a_batch_without_negatives_is_refused():
    with pytest.raises(ConfigError, match=r"learns from negatives .* `sampling.negatives`"):
        model().loss(PairBatch(USER, ITEM))


def test_vectors_are_forgotten_when_training_goes_on():
    found = model().eval()
    before = found.scores(torch.tensor([0]))
    with torch.no_grad():
        found.train().embeddings.table_parameters()[0].mul_(2)
    torch.testing.assert_close(found.eval().scores(torch.tensor([0])), before * 4)


# ------------------------------------------------------------------------- drawn neighbours


def gradient_of(found: LightGCN, batch: PairBatch) -> tuple[float, torch.Tensor]:
    loss = found.loss(batch)
    (table,) = found.embeddings.table_parameters()
    return float(loss), torch.autograd.grad(loss, table)[0]


def test_one_layer_of_drawn_neighbours_is_right_on_average():
    """The loss is nearly linear for small rows, so its mean gradient is that of the whole graph."""
    whole = model(num_layers=1, l2=0.3, init_std=1e-3)
    drawn = model(num_layers=1, l2=0.3, init_std=1e-3, fanouts=(2,))
    batch = PairBatch(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([[2, 4], [1, 4]]))
    torch.manual_seed(3)
    mean = torch.stack([gradient_of(drawn, batch)[1] for _ in range(700)]).mean(0)
    wanted = gradient_of(whole, batch)[1]
    assert (mean - wanted).abs().max() < 0.08 * wanted.abs().max()


def test_a_step_touches_the_rows_of_the_drawn_nodes_alone():
    found = model(num_layers=2, fanouts=(1, 1))
    torch.manual_seed(0)
    _, gradient = gradient_of(found, PairBatch(torch.tensor([1]), torch.tensor([1]),
                                               torch.tensor([[4]])))  # fmt: skip
    touched = gradient.abs().sum(1).nonzero()[:, 0].tolist()
    assert 3 in touched and 11 in touched, "the user (after PAD, OOV) and the item without users"
    assert set(touched) <= {2, 3, 7, 8, 11}, "item 1 has users 0 and 1, who have items 0 and 1"


def test_vectors_are_those_of_the_whole_graph():
    torch.testing.assert_close(model(num_layers=2, fanouts=(1, 1)).eval().vectors(),
                               model(num_layers=2).eval().vectors())  # fmt: skip


def test_every_layer_has_its_fanout():
    with pytest.raises(ValueError, match=r"expected 3, one for each of num_layers, got 2"):
        LightGCN.Config(fanouts=(5, 5))


class TestDrawn(EmbeddingModelConformance):
    model = LightGCN
    config = LightGCN.Config(embedding_dim=8, num_layers=2, fanouts=(5, 3))
