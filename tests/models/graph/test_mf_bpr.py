"""Matrix factorization against its equations."""

from __future__ import annotations

import torch
from torch.nn import functional

from recsys.graph.negatives import SamplingConfig
from recsys.models.graph.mf_bpr import MFBPR
from recsys.testing.embedding_model import EmbeddingModelConformance, tiny_graph
from recsys.types import PairBatch


class TestSuite(EmbeddingModelConformance):
    model = MFBPR
    config = MFBPR.Config(embedding_dim=8)
    num_epochs = 25


class TestHardNegatives(EmbeddingModelConformance):
    model = MFBPR
    config = MFBPR.Config(embedding_dim=8)
    sampling = SamplingConfig(negatives="hard", pool_size=4)


def test_loss_and_gradient_are_those_of_the_equations():
    found = MFBPR(MFBPR.Config(embedding_dim=6, l2=0.3), tiny_graph())
    found.reset_parameters(1)
    batch = PairBatch(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([[2, 4], [1, 4]]))
    loss = found.loss(batch)
    (table,) = found.embeddings.table_parameters()
    (gradient,) = torch.autograd.grad(loss, table)

    rows = found.rows().detach().requires_grad_()
    scores = rows[:3] @ rows[3:].T
    differences = scores[[0, 0, 2, 2], [2, 4, 1, 4]] - scores[[0, 0, 2, 2], [1, 1, 3, 3]]
    used = torch.tensor([0, 2, 4, 6, 5, 7, 4, 7])
    wanted = functional.softplus(differences).mean() + 0.3 * rows[used].square().sum() / 4
    torch.testing.assert_close(loss, wanted)
    wanted.backward()
    torch.testing.assert_close(torch.cat([gradient[2:5], gradient[7:12]]), rows.grad)


def test_vectors_are_the_rows():
    found = MFBPR(MFBPR.Config(embedding_dim=6), tiny_graph()).eval()
    torch.testing.assert_close(torch.cat(found.vectors()), found.rows().detach())
