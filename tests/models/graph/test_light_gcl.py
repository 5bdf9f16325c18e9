"""LightGCL against its equations, written out with dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recsys.losses.info_nce import info_nce
from recsys.losses.pot import pot_score
from recsys.models.graph.light_gcl import LightGCL
from recsys.testing.embedding_model import EmbeddingModelConformance, dense_operator, tiny_graph
from recsys.types import PairBatch

BATCH = PairBatch(torch.tensor([0, 2, 2]), torch.tensor([1, 3, 0]), torch.tensor([[2], [1], [4]]))


class TestSuite(EmbeddingModelConformance):
    model = LightGCL
    config = LightGCL.Config(
        embedding_dim=8, contrast_weight=0.005, normalize=True, dropout=0.1, l2=1e-5
    )


def model(**options) -> LightGCL:
    made = LightGCL(LightGCL.Config(embedding_dim=6, **options), tiny_graph())
    made.reset_parameters(1)
    return made


def truncated(rank: int) -> torch.Tensor:
    """The operator of which the leading singular vectors of users by items are left."""
    operator = dense_operator(tiny_graph())
    left, values, right = torch.linalg.svd(operator[:3, 3:], full_matrices=False)
    part = (left[:, :rank] * values[:rank]) @ right[:rank]
    found = torch.zeros(8, 8)
    found[:3, 3:], found[3:, :3] = part, part.T
    return found


def test_vectors_are_the_sum_of_the_layers():
    found = model(num_layers=2).eval()
    rows, operator = found.rows().detach(), dense_operator(tiny_graph())
    wanted = rows + operator @ rows + operator @ operator @ rows
    torch.testing.assert_close(torch.cat(found.vectors()), wanted)


@pytest.mark.parametrize(("normalize", "kappa"), [(False, 0.0), (True, 0.0), (False, 0.4)])
def test_loss_and_gradient_are_those_of_the_equations(normalize, kappa):
    pot = {"kappa": kappa} if kappa else None
    found = model(
        num_layers=2, rank=2, l2=0.3, contrast_weight=0.7, temperature=0.1, normalize=normalize,
        pot=pot, init_std=1.0,
    )  # fmt: skip
    loss = found.loss(BATCH)
    (table,) = found.embeddings.table_parameters()
    (gradient,) = torch.autograd.grad(loss, table)

    rows = found.rows().detach().requires_grad_()
    operator, rough = dense_operator(tiny_graph()), truncated(2)
    layer = operator @ rows
    vectors, view = rows + layer + operator @ layer, rows + rough @ rows + rough @ layer
    users, items = BATCH.user, BATCH.item + 3
    negatives = BATCH.negatives.flatten() + 3
    user, item, other = (vectors[part] for part in (users, items, negatives))
    wanted = functional.softplus((user * other).sum(1) - (user * item).sum(1)).mean()
    wanted = wanted + 0.3 * rows.square().sum()
    for nodes, kind in ((users, slice(0, 3)), (torch.cat([items, negatives]), slice(3, 8))):
        one, two, all_ = view[nodes], vectors[nodes], vectors[kind]
        if normalize:
            one, two, all_ = (functional.normalize(x, dim=1) for x in (one, two, all_))
        positive = ((one * two).sum(1) / 0.1).clamp(-5, 5)
        assert (positive == 5).any(), "the limit is reached"
        plain = ((one @ all_.T / 0.1).logsumexp(1) - positive).mean()
        once = nodes.unique()
        bound = pot_score(view[once], vectors[once])
        wanted = wanted + 0.7 * ((1 - kappa) * plain + kappa * bound)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-4)
    wanted.backward()
    mine = torch.cat([gradient[2:5], gradient[7:12]])
    torch.testing.assert_close(mine, rows.grad, rtol=1e-4, atol=1e-4)


def test_shared_negatives_stay_out_of_the_contrast():
    found = model(num_layers=1, rank=2, l2=0.0)
    shared = PairBatch(BATCH.user, BATCH.item, torch.tensor([4, 2]))
    rows = found.rows().detach()
    vectors, view = found.both_views(rows)
    users, items = BATCH.user, BATCH.item + 3
    contrast = sum(
        info_nce(view[part], vectors[part], 0.2, among=vectors[kind], normalize=False, limit=5.0)
        for part, kind in ((users, slice(0, 3)), (items, slice(3, 8)))
    )
    scores = vectors[users] @ vectors[torch.tensor([7, 5])].T
    positive = (vectors[users] * vectors[items]).sum(1, keepdim=True)
    wanted = functional.softplus(scores - positive).mean() + 0.2 * contrast
    torch.testing.assert_close(found.loss(shared), wanted)


def test_dropout_is_right_on_average():
    found = model(num_layers=1, dropout=0.4)
    rows = found.rows().detach()
    wanted, _ = model(num_layers=1).both_views(rows)
    torch.manual_seed(0)
    drawn = torch.stack([found.both_views(rows)[0] for _ in range(3000)])
    assert (drawn.mean(0) - wanted).abs().max() < 5 * (drawn.std(0) / 3000**0.5).max()
    assert drawn.std(0).max() > 0.01
    torch.testing.assert_close(found.eval().both_views(rows)[0], wanted)
