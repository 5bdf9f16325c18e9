"""NGCF against its equations, written out with dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recsys.models.graph.ngcf import NGCF
from recsys.testing.embedding_model import EmbeddingModelConformance, dense_operator, tiny_graph
from recsys.types import PairBatch

BATCH = PairBatch(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([[2, 4], [1, 4]]))


class TestSuite(EmbeddingModelConformance):
    model = NGCF
    config = NGCF.Config(embedding_dim=8, layers=(8,), node_dropout=0.1)


class TestPaper(EmbeddingModelConformance):
    model = NGCF
    config = NGCF.Config(embedding_dim=8, layers=(8, 4), variant="paper")


def model(**options) -> NGCF:
    options = {"embedding_dim": 6, "layers": (5, 4), "message_dropout": 0.0, **options}
    made = NGCF(NGCF.Config(**options), tiny_graph())
    made.reset_parameters(1)
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(2))
    return made


def row_normalized(plus: torch.Tensor) -> torch.Tensor:
    present = (dense_operator(tiny_graph()) > 0).float() + plus
    return present / present.sum(1, keepdim=True).clamp(min=1)


def equations(found: NGCF, rows: torch.Tensor) -> torch.Tensor:
    """The vectors, from the equations of the class."""
    eye, parts = torch.eye(8), [rows]
    sides = {
        "paper": dense_operator(tiny_graph()),
        "norm": row_normalized(eye),
        "ngcf": row_normalized(0 * eye) + eye,
    }
    side = sides[found.config.variant]
    for sums, products in zip(found.sums, found.products):
        w1, w2 = sums.weight.T, products.weight.T
        if found.config.variant == "paper":
            assert sums.bias is None and products.bias is None
            inner = (side + eye) @ rows @ w1 + (side @ rows * rows) @ w2
            rows = torch.where(inner > 0, inner, 0.2 * inner)
        else:
            one, two = side @ rows @ w1 + sums.bias, (side @ rows * rows) @ w2 + products.bias
            rows = torch.where(one > 0, one, 0.2 * one) + torch.where(two > 0, two, 0.2 * two)
        parts.append(rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12))
    return torch.cat(parts, 1)


@pytest.mark.parametrize("variant", ["paper", "norm", "ngcf"])
def test_loss_and_gradients_are_those_of_the_equations(variant):
    found = model(variant=variant, l2=0.3, init_std=0.5)
    loss = found.loss(BATCH)
    (table,) = found.embeddings.table_parameters()
    weights = [
        parameter for part in (found.sums, found.products) for parameter in part.parameters()
    ]
    gradient, *others = torch.autograd.grad(loss, [table, *weights])

    rows = found.rows().detach().requires_grad_()
    vectors = equations(found, rows)
    torch.testing.assert_close(found.eval().encode(), vectors)
    scores = vectors[:3] @ vectors[3:].T
    differences = scores[[0, 0, 2, 2], [2, 4, 1, 4]] - scores[[0, 0, 2, 2], [1, 1, 3, 3]]
    used = torch.tensor([0, 2, 4, 6, 5, 7, 4, 7])
    wanted = functional.softplus(differences).mean() + 0.3 * vectors[used].square().sum() / 4
    torch.testing.assert_close(loss, wanted)
    mine, *theirs = torch.autograd.grad(wanted, [rows, *weights])
    torch.testing.assert_close(torch.cat([gradient[2:5], gradient[7:12]]), mine)
    torch.testing.assert_close(others, theirs, rtol=1e-4, atol=1e-6)


def test_message_dropout_takes_entries_of_layers():
    """Of the one layer, a quarter is 0 in training, and nothing in evaluation."""
    found = model(layers=(50,), message_dropout=0.25)
    torch.manual_seed(0)
    zeros = torch.stack([found.encode()[:7, 6:] == 0 for _ in range(40)]).float().mean()
    assert abs(float(zeros) - 0.25) < 0.02  # 14,000 entries: 5 standard deviations
    assert not (found.eval().encode()[:7, 6:] == 0).any()


def test_node_dropout_takes_edges():
    """A layer with W1 = I and no product is S E, whose mean stays what it was."""
    found = model(variant="ngcf", layers=(6,), node_dropout=0.4, slope=1.0)
    with torch.no_grad():
        for parameter in found.products.parameters():
            parameter.zero_()
        found.sums[0].weight.copy_(torch.eye(6))
        found.sums[0].bias.zero_()
    rows = found.rows().detach()
    whole = (row_normalized(torch.zeros(8, 8)) + torch.eye(8)) @ rows
    drawn = []
    torch.manual_seed(0)
    for _ in range(3000):
        adj = found.adjacency.drop_edges(0.4, renormalize=False)
        drawn.append(found._layer(adj @ rows, rows, found.sums[0], found.products[0]).detach())
    drawn = torch.stack(drawn)
    assert ((drawn.mean(0) - whole).abs() <= 5 * drawn.std(0) / 3000**0.5 + 1e-6).all()
    torch.manual_seed(1)
    assert not torch.equal(found.encode(), found.encode()), "drawn anew in every step"
    torch.testing.assert_close(found.eval().encode()[:, 6:], functional.normalize(whole, dim=1))
