"""SimGCL against its equations, written out with dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recsys.graph.perturbation import perturb
from recsys.losses.info_nce import info_nce
from recsys.losses.pot import pot_score
from recsys.models.graph.sim_gcl import SimGCL
from recsys.testing.embedding_model import EmbeddingModelConformance, dense_operator, tiny_graph
from recsys.types import PairBatch

BATCH = PairBatch(torch.tensor([0, 2, 2]), torch.tensor([1, 3, 0]), torch.tensor([[2], [1], [4]]))


class TestSuite(EmbeddingModelConformance):
    model = SimGCL
    config = SimGCL.Config(embedding_dim=8, num_layers=2, contrast_weight=0.02)


def model(**options) -> SimGCL:
    made = SimGCL(SimGCL.Config(embedding_dim=6, **options), tiny_graph())
    made.reset_parameters(1)
    return made


def test_vectors_are_the_mean_without_layer_0():
    found = model(num_layers=2).eval()
    rows, operator = found.rows().detach(), dense_operator(tiny_graph())
    torch.testing.assert_close(
        torch.cat(found.vectors()), (operator @ rows + operator @ operator @ rows) / 2
    )


@pytest.mark.parametrize("kappa", [0.0, 0.3])
def test_loss_and_gradient_are_those_of_the_equations(kappa):
    pot = {"kappa": kappa} if kappa else None
    found = model(num_layers=2, l2=0.3, contrast_weight=0.7, temperature=0.4, pot=pot)
    torch.manual_seed(5)
    loss = found.loss(BATCH)
    (table,) = found.embeddings.table_parameters()
    (gradient,) = torch.autograd.grad(loss, table)

    rows = found.rows().detach().requires_grad_()
    operator = dense_operator(tiny_graph())
    torch.manual_seed(5)
    vectors = (operator @ rows + operator @ operator @ rows) / 2
    views = []
    for _ in range(2):
        first = perturb(operator @ rows, 0.1)
        views.append((first + perturb(operator @ first, 0.1)) / 2)
    used = torch.cat([BATCH.user, BATCH.item + 3, BATCH.negatives.flatten() + 3])
    user, item, other = vectors[used].split(3)
    wanted = functional.softplus((user * other).sum(1) - (user * item).sum(1)).mean()
    wanted = wanted + 0.3 * 0.5 * rows[used].square().sum() / 3
    for nodes in ([0, 2], [3, 4, 6]):
        one, two = (view[nodes] for view in views)
        plain = info_nce(one, two, 0.4)
        wanted = wanted + 0.7 * ((1 - kappa) * plain + kappa * pot_score(one, two))
    torch.testing.assert_close(loss, wanted)
    wanted.backward()
    torch.testing.assert_close(torch.cat([gradient[2:5], gradient[7:12]]), rows.grad)


def test_noise_has_its_length_and_its_signs():
    found = model(num_layers=1, noise=0.25)
    rows = found.rows().detach()
    clean = dense_operator(tiny_graph()) @ rows
    noise = found.noisy(rows) - clean
    torch.testing.assert_close(noise[:7].norm(dim=1), torch.full((7,), 0.25))
    assert (noise[:7].sign() == clean[:7].sign()).all() and noise[7].abs().sum() == 0
    assert not torch.equal(found.noisy(rows) - clean, noise), "drawn anew for every pass"
