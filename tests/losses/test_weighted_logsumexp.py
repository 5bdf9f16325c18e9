"""The blocked sum against the plain one."""

import math

import pytest
import torch

from recsys.losses import weighted_logsumexp as module
from recsys.losses.weighted_logsumexp import weighted_logsumexp


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("entries", [1, 13, 1 << 21])
def test_value_and_gradient_do_not_depend_on_blocks(monkeypatch, entries):
    monkeypatch.setattr(module, "_ENTRIES_AT_ONCE", entries)
    left, right = normal(7, 3).requires_grad_(), normal(5, 3, seed=1).requires_grad_()
    weights = torch.arange(7, dtype=torch.float64)
    found = 3 * weighted_logsumexp(left, right, weights)
    wanted = 3 * (weights * (left @ right.T).logsumexp(1)).sum()
    torch.testing.assert_close(found, wanted)
    grads = [torch.autograd.grad(loss, (left, right)) for loss in (found, wanted)]
    torch.testing.assert_close(*grads)


def test_large_products_do_not_overflow():
    left = torch.tensor([[1000.0]], requires_grad=True)
    found = weighted_logsumexp(left, torch.tensor([[1.0], [2.0]]), torch.ones(1))
    found.backward()
    assert found.item() == 2000 and left.grad is not None and left.grad.item() == 2


def test_the_same_rows_on_both_sides():
    rows = normal(4, 2).requires_grad_()
    weights = torch.ones(4, dtype=torch.float64)
    torch.autograd.gradcheck(lambda x: weighted_logsumexp(x, x, weights), (rows,))


def test_rounded_products_are_near_and_sums_are_not_rounded():
    left, right = normal(300, 16).float(), normal(4000, 16, seed=1).float()
    weights = torch.full((300,), 1 / 300)
    exact, rounded = [], []
    for found, dtype in ((exact, None), (rounded, torch.bfloat16)):
        one, two = left.clone().requires_grad_(), right.clone().requires_grad_()
        loss = weighted_logsumexp(one, two, weights, dtype)
        found += [loss, *torch.autograd.grad(loss, (one, two))]
    assert all(value.dtype == torch.float32 for value in rounded)
    assert abs(float(rounded[0] - exact[0])) < 2e-3 * float(exact[0])
    for one, two in zip(rounded[1:], exact[1:]):
        assert (one - two).norm() < 0.02 * two.norm()


@pytest.mark.parametrize("entries", [1, 13, 1 << 21])
def test_an_own_exponent_and_hidden_pairs(monkeypatch, entries):
    monkeypatch.setattr(module, "_ENTRIES_AT_ONCE", entries)
    left, right = normal(7, 3).requires_grad_(), normal(5, 3, seed=1).requires_grad_()
    own, weights = normal(7, seed=2).requires_grad_(), torch.arange(7, dtype=torch.float64)
    rows = [6, 0, 6, 2, 2, 2, 2, 2]  # row 2 has nothing left but its own
    hidden = torch.tensor([rows, [0, 4, 0, 4, 3, 2, 1, 0]])
    found = weighted_logsumexp(left, right, weights, own=own, hidden=hidden)
    products = (left @ right.T).index_put(tuple(hidden), torch.tensor(-torch.inf).double())
    wanted = (weights * torch.cat([own[:, None], products], 1).logsumexp(1)).sum()
    torch.testing.assert_close(found, wanted)
    grads = [torch.autograd.grad(loss, (left, right, own)) for loss in (found, wanted)]
    torch.testing.assert_close(*grads)


def test_own_exponents_are_not_rounded():
    """A half of both, whatever the rounding of the product."""
    own = torch.tensor([3.001], requires_grad=True)
    found = weighted_logsumexp(
        torch.tensor([[3.001]]), torch.ones(1, 1), torch.ones(1), torch.bfloat16, own=own
    )
    assert found.item() == pytest.approx(math.log(math.exp(3.001) + math.exp(3.0)), abs=1e-6)
