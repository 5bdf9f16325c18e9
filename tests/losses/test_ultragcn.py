import math

import pytest
import torch
from torch.nn import functional

from recsys.losses.ultragcn import ultragcn_beta, ultragcn_constraint, ultragcn_item_items


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_beta_by_hand():
    """1/3 sqrt(4 / 9) and 1/8 sqrt(9 / 1)."""
    found = ultragcn_beta(torch.tensor([[3], [8]]), torch.tensor([8, 0]))
    expected = torch.tensor([[2 / 9, 2 / 3], [1 / 8, 3 / 8]])
    torch.testing.assert_close(found, expected)
    assert ultragcn_beta(torch.tensor([0]), torch.tensor([1])).isfinite().all()


def test_constraint_equals_the_official_computation():
    """Per row BCE(1) + weight * mean BCE(0), each with its omega; mean instead of sum."""
    positive, negatives = normal(3), normal(3, 4, seed=1)
    weights, others = normal(3, seed=2).exp(), normal(3, 4, seed=3).exp()
    bce = functional.binary_cross_entropy_with_logits
    official = (
        bce(positive, torch.ones_like(positive), weight=weights, reduction="none")
        + 300 * bce(negatives, torch.zeros_like(negatives), weight=others, reduction="none").mean(1)
    ).sum()
    found = ultragcn_constraint(positive, negatives, weights, others, 300.0)
    torch.testing.assert_close(3 * found, official)


def test_item_items_by_hand():
    """0.5 * ln 2 + 2 * ln(4/3)."""
    scores = torch.tensor([[0.0, math.log(3)]])
    found = ultragcn_item_items(scores, torch.tensor([[0.5, 2.0]]))
    assert found.item() == pytest.approx(0.5 * math.log(2) + 2 * math.log(4 / 3))


def test_large_scores_are_finite():
    big = torch.tensor([-1e4], requires_grad=True)
    one = torch.ones(1)
    loss = ultragcn_constraint(big, -big[:, None], one, one[:, None], 2.0)
    loss = loss + ultragcn_item_items(big[:, None], one[:, None])
    loss.backward()
    assert loss.item() == pytest.approx(4e4)
    assert big.grad is not None and big.grad.item() == pytest.approx(-4.0)


def test_gradients():
    weights, others = normal(3, seed=2).exp(), normal(3, 4, seed=3).exp()
    torch.autograd.gradcheck(
        lambda p, n: ultragcn_constraint(p, n, weights, others, 5.0),
        (normal(3).requires_grad_(), normal(3, 4).requires_grad_()),
    )
    torch.autograd.gradcheck(
        lambda s: ultragcn_item_items(s, others), normal(3, 4).requires_grad_()
    )


def test_shapes():
    one = torch.zeros(1)
    with pytest.raises(ValueError, match=r"weights of the same shapes, got \[\(1,\), \(1, 2\)"):
        ultragcn_constraint(one, torch.zeros(1, 2), one, torch.zeros(2), 1.0)
    with pytest.raises(ValueError, match=r"similarities \(B, K\), got \(1, 2\) and \(2,\)"):
        ultragcn_item_items(torch.zeros(1, 2), torch.zeros(2))
