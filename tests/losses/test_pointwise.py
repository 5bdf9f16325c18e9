"""Cross entropy against the textbook formula and scikit-learn; weights."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from recsys.losses.pointwise import binary_cross_entropy, weighted_mean


def test_by_hand():
    """p = 1/2 for a 1: ln 2. p = 3/4 for a 0: ln 4."""
    logits = torch.log(torch.tensor([[1.0], [3.0]]))
    got = binary_cross_entropy(logits, torch.tensor([[1.0], [0.0]]))
    torch.testing.assert_close(got, torch.log(torch.tensor([2.0, 4.0])))


def test_against_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=200) * 3, rng.integers(0, 2, 200)
    weights = rng.random(200)
    expected = log_loss(labels, 1 / (1 + np.exp(-logits)), sample_weight=weights)
    rows = binary_cross_entropy(torch.tensor(logits)[:, None], torch.tensor(labels)[:, None])
    assert weighted_mean(rows, torch.tensor(weights)).item() == pytest.approx(expected)


def test_extreme_logits_are_exact_and_have_gradients():
    logits = torch.tensor([[90.0], [-90.0]], requires_grad=True)
    losses = binary_cross_entropy(logits, torch.tensor([[0.0], [1.0]]))
    losses.sum().backward()
    assert losses.tolist() == [90.0, 90.0]
    assert logits.grad is not None and logits.grad.flatten().tolist() == [1.0, -1.0]


def test_tasks_are_averaged():
    logits, labels = torch.tensor([[0.0, 50.0]]), torch.tensor([[1.0, 0.0]])
    assert binary_cross_entropy(logits, labels).item() == pytest.approx((np.log(2) + 50) / 2)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"one shape \(B, T\), got \(2, 1\) and \(2, 2\)"):
        binary_cross_entropy(torch.zeros(2, 1), torch.zeros(2, 2))


def test_weighted_mean():
    losses = torch.tensor([1.0, 2.0, 30.0])
    assert weighted_mean(losses, None).item() == 11.0
    assert weighted_mean(losses, torch.tensor([1.0, 3.0, 0.0])).item() == 1.75


def test_padding_alone_has_loss_and_gradient_zero():
    losses = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = weighted_mean(losses, torch.zeros(2))
    loss.backward()
    assert loss.item() == 0.0 and losses.grad is not None and not losses.grad.any()
