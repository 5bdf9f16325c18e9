"""DAGNN against its equations, written out with dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recsys.models.graph.dagnn import DAGNN
from recsys.models.graph.light_gcn import LightGCN
from recsys.testing.embedding_model import EmbeddingModelConformance, dense_operator, tiny_graph
from recsys.types import PairBatch

BATCH = PairBatch(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([[2, 4], [1, 4]]))


class TestSuite(EmbeddingModelConformance):
    model = DAGNN
    config = DAGNN.Config(embedding_dim=8)


def model(**options) -> DAGNN:
    made = DAGNN(DAGNN.Config(embedding_dim=6, **options), tiny_graph())
    made.reset_parameters(1)
    return made


def test_it_starts_as_light_gcn():
    plain = LightGCN(LightGCN.Config(embedding_dim=6, num_layers=4), tiny_graph())
    plain.reset_parameters(1)
    found = model(num_layers=4)
    torch.testing.assert_close(found.encode(), plain.encode())
    torch.testing.assert_close(found.loss(BATCH), plain.loss(BATCH))


@pytest.mark.parametrize("self_loops", [False, True])
def test_loss_and_gradients_are_those_of_the_equations(self_loops):
    found = model(num_layers=2, l2=0.3, self_loops=self_loops)
    with torch.no_grad():
        found.gate.weight.copy_(torch.linspace(-3, 3, 6))
        found.gate.bias.fill_(-0.4)
    loss = found.loss(BATCH)
    (table,) = found.embeddings.table_parameters()
    grads = torch.autograd.grad(loss, [table, found.gate.weight, found.gate.bias])

    rows = found.rows().detach().requires_grad_()
    weight, bias = (p.detach().clone().requires_grad_() for p in found.gate.parameters())
    operator = dense_operator(tiny_graph(), self_loops)
    layers = torch.stack([rows, operator @ rows, operator @ operator @ rows], 1)
    shares = torch.sigmoid((layers * weight).sum(2) + bias)
    torch.testing.assert_close(found.shares(), shares.detach())
    vectors = (shares.unsqueeze(2) * layers).sum(1)
    torch.testing.assert_close(found.eval().encode(), vectors)
    scores = vectors[:3] @ vectors[3:].T
    differences = scores[[0, 0, 2, 2], [2, 4, 1, 4]] - scores[[0, 0, 2, 2], [1, 1, 3, 3]]
    used = torch.tensor([0, 2, 4, 6, 5, 7, 4, 7])
    wanted = functional.softplus(differences).mean() + 0.3 * rows[used].square().sum() / 4
    torch.testing.assert_close(loss, wanted)
    wanted.backward()
    torch.testing.assert_close(torch.cat([grads[0][2:5], grads[0][7:12]]), rows.grad)
    torch.testing.assert_close(grads[1:], (weight.grad, bias.grad))
