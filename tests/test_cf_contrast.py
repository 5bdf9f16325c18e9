"""The contrastive part: which nodes, against which, how often; and the bounds of POT."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional

from recsys.cf_contrast import ContrastiveModel
from recsys.graph.interaction_graph import InteractionGraph
from recsys.losses.info_nce import info_nce
from recsys.losses.pot import compactness_directions, compactness_loss, drop_budget, pot_score
from recsys.types import PairBatch

USER = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
ITEM = torch.tensor([0, 1, 3, 1, 2, 0, 2, 3, 4])
GRAPH = InteractionGraph(3, 5, USER, ITEM)
BATCH = PairBatch(torch.tensor([2, 0, 2]), torch.tensor([4, 1, 0]), torch.tensor([[2], [4], [1]]))


class Model(ContrastiveModel):
    """Has no loss of its own."""

    class Config(ContrastiveModel.Config):
        """Same options."""


def model(**options) -> Model:
    made = Model(Model.Config(embedding_dim=4, contrast_weight=0.5, **options), GRAPH)
    made.reset_parameters(1)
    return made


def views() -> torch.Tensor:
    return torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))


def test_each_node_of_the_batch_once():
    first, second = views()
    found = model().contrastive_loss(first, second, BATCH, first)
    users, items = [0, 2], [3, 4, 7]
    wanted = sum(info_nce(first[part], second[part], 0.2) for part in (users, items))
    torch.testing.assert_close(found, 0.5 * wanted)


def test_against_all_of_a_kind_and_as_often_as_they_occur():
    """With the negatives, items are 4 1 0 2 4 1."""
    first, second = views()
    found = model(contrast_among="all").contrastive_loss(
        first, second, BATCH, first, counted=True, with_negatives=True
    )
    users, items = torch.tensor([2, 0, 2]), torch.tensor([4, 1, 0, 2, 4, 1]) + 3
    wanted = info_nce(first[users], second[users], 0.2, among=second[:3]) + info_nce(
        first[items], second[items], 0.2, among=second[3:]
    )
    torch.testing.assert_close(found, 0.5 * wanted)


def test_pot_is_a_plug_in():
    first, second = views()
    found = model(pot={"kappa": 0.3}).contrastive_loss(first, second, BATCH, first)
    parts = [(first[part], second[part]) for part in ([0, 2], [3, 4, 7])]
    wanted = sum(0.7 * info_nce(one, two, 0.2) + 0.3 * pot_score(one, two) for one, two in parts)
    torch.testing.assert_close(found, 0.5 * wanted)


def worst(rows: torch.Tensor, node: int, direction: torch.Tensor, budget: int) -> torch.Tensor:
    """The least product over all ways to drop edges of one node, written out.

    One layer: the mean of the own row and the sum over neighbours, degrees of which stay.
    """
    whole = torch.zeros(8, 8)
    whole[USER, ITEM + 3] = 1
    whole = whole + whole.T
    degrees, values = whole.sum(1), []
    neighbours = whole[node].nonzero()[:, 0].tolist()
    for dropped in range(budget + 1):
        for gone in itertools.combinations(neighbours, dropped):
            left = [n for n in neighbours if n not in gone]
            parts = [rows[n] / ((degrees[node] - dropped) * degrees[n]).sqrt() for n in left]
            values.append(((rows[node] + torch.stack(parts).sum(0)) / 2 * direction).sum())
    return torch.stack(values).min()


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_budget_is_the_exact_worst_case(rate):
    made = model(num_layers=1, pot={"kappa": 1.0, "mode": "budget", "rate": rate})
    rows, (first, second) = made.rows(), views()
    found = made.contrastive_loss(first, second, BATCH, rows)
    wanted = torch.zeros(())
    for nodes in ([0, 2], [3, 4, 7]):
        degrees = torch.tensor([3, 2, 4, 2, 2, 2, 2, 1])[nodes]
        budgets = drop_budget(degrees, rate).tolist()
        for view in (first, second):
            directions = compactness_directions(view[nodes])
            bounds = [worst(rows, *case) for case in zip(nodes, directions, budgets)]
            wanted = wanted + compactness_loss(torch.stack(bounds)) / 2
    torch.testing.assert_close(found, 0.5 * wanted)
    (table,) = made.embeddings.table_parameters()
    grads = [torch.autograd.grad(loss, table)[0] for loss in (found, 0.5 * wanted)]
    torch.testing.assert_close(*grads)


def test_budget_looks_at_so_many_nodes():
    """Two of the items, chosen at random; all users."""
    pot = {"kappa": 1.0, "mode": "budget", "num_nodes": 2}
    made, (first, second) = model(num_layers=1, pot=pot), views()
    rows = made.rows().detach()
    torch.manual_seed(0)
    losses = {round(float(made.contrastive_loss(first, second, BATCH, rows)), 5) for _ in range(40)}
    assert len(losses) == 3, "the pairs among three items"
    assert functional.softplus(torch.tensor(50.0)) > max(losses) > 0
