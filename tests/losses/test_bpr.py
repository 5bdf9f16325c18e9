import pytest
import torch

from recsys.losses.bpr import bpr


def test_by_hand():
    """Differences ln 3 and 0: -ln(3/4) and -ln(1/2)."""
    positive = torch.tensor([3.0, 1.0]).log()
    assert bpr(positive, torch.zeros(2)).exp().item() == pytest.approx((8 / 3) ** 0.5)


def test_every_pair_counts_alike():
    positive, negatives = torch.randn(4, generator=torch.Generator().manual_seed(0)), torch.ones(4)
    both = torch.stack([negatives, negatives - 2], dim=1)
    expected = (bpr(positive, negatives) + bpr(positive, negatives - 2)) / 2
    torch.testing.assert_close(bpr(positive, both), expected)


def test_large_scores_are_exact_and_have_gradients():
    positive = torch.tensor([-2e4, 2e4], requires_grad=True)
    loss = bpr(positive, torch.tensor([2e4, -2e4]))
    loss.backward()
    assert loss.item() == 2e4
    assert positive.grad is not None and positive.grad.tolist() == [-0.5, 0.0]


def test_gradients():
    positive = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    negatives = torch.tensor([[0.1, 2.0], [-3.0, 0.5], [2.0, 1.0]], dtype=torch.float64)
    torch.autograd.gradcheck(bpr, (positive.requires_grad_(), negatives.requires_grad_()))


def test_shapes():
    with pytest.raises(ValueError, match=r"got \(3,\) and \(2, 3\)"):
        bpr(torch.zeros(3), torch.zeros(2, 3))
