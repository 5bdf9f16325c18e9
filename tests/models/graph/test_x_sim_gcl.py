"""XSimGCL against its equations, written out with dense matrices."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from recsys.graph.perturbation import perturb
from recsys.losses.info_nce import info_nce
from recsys.losses.pot import pot_score
from recsys.models.graph.x_sim_gcl import XSimGCL
from recsys.testing.embedding_model import EmbeddingModelConformance, dense_operator, tiny_graph
from recsys.types import PairBatch

BATCH = PairBatch(torch.tensor([0, 2, 2]), torch.tensor([1, 3, 0]), torch.tensor([[2], [1], [4]]))


class TestSuite(EmbeddingModelConformance):
    model = XSimGCL
    config = XSimGCL.Config(embedding_dim=8, contrast_weight=0.02)


def model(**options) -> XSimGCL:
    made = XSimGCL(XSimGCL.Config(embedding_dim=6, **options), tiny_graph())
    made.reset_parameters(1)
    return made


def test_vectors_are_the_mean_without_layer_0():
    found = model(num_layers=2).eval()
    rows, operator = found.rows().detach(), dense_operator(tiny_graph())
    wanted = (operator @ rows + operator @ operator @ rows) / 2
    torch.testing.assert_close(torch.cat(found.vectors()), wanted)


@pytest.mark.parametrize(("layer", "kappa"), [(0, 0.0), (1, 0.0), (2, 0.0), (1, 0.4)])
def test_loss_and_gradient_are_those_of_the_equations(layer, kappa):
    pot = {"kappa": kappa} if kappa else None
    found = model(num_layers=2, l2=0.3, contrast_weight=0.7, contrast_layer=layer, pot=pot)
    torch.manual_seed(5)
    loss = found.loss(BATCH)
    (table,) = found.embeddings.table_parameters()
    (gradient,) = torch.autograd.grad(loss, table)

    rows = found.rows().detach().requires_grad_()
    operator = dense_operator(tiny_graph())
    torch.manual_seed(5)
    first = perturb(operator @ rows, 0.2)
    second = perturb(operator @ first, 0.2)
    vectors, view = (first + second) / 2, (rows, first, second)[layer]
    used = torch.cat([BATCH.user, BATCH.item + 3, BATCH.negatives.flatten() + 3])
    user, item, other = vectors[used].split(3)
    wanted = functional.softplus((user * other).sum(1) - (user * item).sum(1)).mean()
    wanted = wanted + 0.3 * 0.5 * rows[used].square().sum() / 3
    for nodes in ([0, 2], [3, 4, 6]):
        plain = info_nce(vectors[nodes], view[nodes], 0.15)
        bound = pot_score(vectors[nodes], view[nodes])
        wanted = wanted + 0.7 * ((1 - kappa) * plain + kappa * bound)
    torch.testing.assert_close(loss, wanted)
    wanted.backward()
    torch.testing.assert_close(torch.cat([gradient[2:5], gradient[7:12]]), rows.grad)


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ValidationError, match="contrast_layer: expected one of the 2 layers"):
        XSimGCL.Config(num_layers=2, contrast_layer=3)
