"""BGCN against its equations, written out with dense matrices; its second stage."""

from typing import ClassVar

import pytest
import torch
from torch.nn import functional

from recsys.errors import ConfigError
from recsys.graph.bundle_negatives import HardPairLoader
from recsys.models.bundle.bgcn import BGCN
from recsys.testing.bundle import BundleModelConformance, dense_matrices, mean_of, small_bundles
from recsys.types import PairBatch

BATCH = PairBatch(torch.tensor([0, 2, 0]), torch.tensor([1, 2, 0]), torch.tensor([[2], [0], [3]]))


class TestSuite(BundleModelConformance):
    model = BGCN
    config = BGCN.Config(embedding_dim=8, rates={}, hard_from=2)
    learning_rate = 0.02
    # Hard negatives are those that look right, and a cold bundle is never anything but a negative.
    cold_config: ClassVar = {"hard_from": None}


def model(**options):
    made = BGCN(BGCN.Config(embedding_dim=6, rates={}, **options), small_bundles())
    made.reset_parameters(1)
    return made


def squares():
    """Both operators, self-loops and likeness of bundles in them."""
    dense = dense_matrices(small_bundles())
    items = torch.eye(8)
    items[:3, 3:], items[3:, :3] = dense["ui"], dense["ui"].T
    bundles = torch.eye(7)
    bundles[:3, 3:], bundles[3:, :3] = dense["ub"], dense["ub"].T
    content = functional.normalize(dense["bi"], dim=1)
    bundles[3:, 3:] = content @ content.T
    found = []
    for whole in (items, bundles):
        root = whole.sum(1).rsqrt()
        found.append(root[:, None] * whole * root)
    return found, mean_of(dense["bi"])


def layers(square, rows, linears):
    found, parts = rows, [rows]
    for linear in linears:
        found = torch.cat([functional.leaky_relu(linear(square @ found), 0.01), found], 1)
        parts.append(functional.normalize(found, dim=1))
    return torch.cat(parts, 1)


def test_vectors_loss_and_gradient_are_those_of_the_equations():
    made = model(l2=0.4)
    loss = made.loss(BATCH)
    loss.backward()
    (table,) = made.embeddings.table_parameters()
    rows = made.rows_of("user", "item", "content").detach().requires_grad_()
    (items, bundles), mean = squares()
    linears = made.layers
    ui = layers(items, torch.cat([rows[:3], rows[7:]]), linears["ui"])
    ub = layers(bundles, rows[:7], linears["ub"])
    bundles_by_items = functional.normalize(mean @ ui[3:], dim=1)
    both = torch.cat([torch.cat([ui[:3], bundles_by_items]), ub], 1)
    user, good, bad = both[BATCH.user], both[BATCH.item + 3], both[BATCH.negatives[:, 0] + 3]
    wanted = functional.softplus((user * bad).sum(1) - (user * good).sum(1)).mean()
    squares_of = sum(part.square().sum() for part in (user, good, bad))
    wanted = wanted + 0.4 * 0.5 * squares_of / 3
    torch.testing.assert_close(loss, wanted)
    weights = [linears["ui"][1].weight, linears["ub"][0].bias]
    found = torch.autograd.grad(wanted, [rows, *weights])
    gradient = table.grad
    mine = torch.cat([gradient[2:5], gradient[7:11], gradient[13:18]])
    torch.testing.assert_close(mine, found[0])
    for weight, expected in zip(weights, found[1:]):
        torch.testing.assert_close(weight.grad, expected)
    torch.testing.assert_close(torch.cat(made.eval().vectors()), both.detach())


def test_negatives_are_hard_from_an_epoch_on():
    loader = model(hard_from=2).loader(batch_size=3, seed=1)
    assert isinstance(loader, HardPairLoader) and loader.first_epoch == 2
    assert not isinstance(model().loader(), HardPairLoader)
    direct = model(hard_from=0, ranking_loss={"kind": "direct_au"})
    with pytest.raises(ConfigError, match="no use for negatives"):
        direct.loader()
