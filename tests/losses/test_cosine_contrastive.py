import pytest
import torch

from recsys.losses.cosine_contrastive import cosine_contrastive


def test_by_hand():
    """(1 - 0.9) + 6 * mean(0, 0.1, 0.2) = 0.7, and (1 + 1) + 6 * 0 = 2."""
    positive = torch.tensor([0.9, -1.0])
    negatives = torch.tensor([[0.4, 0.6, 0.7], [0.5, 0.0, -1.0]])
    found = cosine_contrastive(positive, negatives, margin=0.5, negative_weight=6.0)
    assert found.item() == pytest.approx((0.7 + 2.0) / 2)


def test_negatives_below_the_margin_have_no_gradient():
    negatives = torch.tensor([[0.4, 0.6]], requires_grad=True)
    cosine_contrastive(torch.tensor([0.0]), negatives, 0.5, 10.0).backward()
    assert negatives.grad is not None and negatives.grad.tolist() == [[0.0, 5.0]]


def test_gradients():
    positive = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    negatives = torch.tensor([[0.1, 0.8], [0.9, -0.3]], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda p, n: cosine_contrastive(p, n, 0.4, 3.0), (positive, negatives))


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3, 1\)"):
        cosine_contrastive(torch.zeros(2), torch.zeros(3, 1), 0.5, 1.0)
    with pytest.raises(ValueError, match=r"`margin`: expected a cosine, from -1 to 1, got 1\.5"):
        cosine_contrastive(torch.zeros(2), torch.zeros(2, 1), 1.5, 1.0)
