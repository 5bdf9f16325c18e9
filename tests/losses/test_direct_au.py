import math

import pytest
import torch
from torch.nn import functional

from recsys.losses.direct_au import alignment, direct_au, uniformity


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_alignment_by_hand():
    """Equal directions 0, opposite ones 4, right angles 2."""
    first = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    second = torch.tensor([[9.0, 0.0], [-1.0, 0.0], [3.0, 0.0]])
    assert alignment(first, second).item() == pytest.approx(2.0)


def test_uniformity_equals_the_mean_over_pairs():
    vectors = normal(7, 3)
    expected = torch.pdist(functional.normalize(vectors)).square().mul(-2).exp().mean().log()
    torch.testing.assert_close(uniformity(vectors), expected)


def test_uniformity_by_hand():
    """Pairs of squared distance 2, 2 and 4."""
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    expected = math.log((2 * math.exp(-4) + math.exp(-8)) / 3)
    assert uniformity(vectors).item() == pytest.approx(expected)


def test_equal_vectors_have_a_gradient():
    vectors = torch.ones(3, 2, requires_grad=True)
    loss = uniformity(vectors)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert vectors.grad is not None and vectors.grad.isfinite().all()


def test_a_single_row_costs_nothing():
    vectors = torch.ones(1, 2, requires_grad=True)
    uniformity(vectors).backward()
    assert uniformity(vectors).item() == 0.0
    assert vectors.grad is not None and not vectors.grad.any()


def test_the_sum_and_its_gradients():
    users, items = normal(4, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    expected = alignment(users, items) + 0.7 * (uniformity(users) + uniformity(items)) / 2
    torch.testing.assert_close(direct_au(users, items, 0.7), expected)
    torch.autograd.gradcheck(lambda u, i: direct_au(u, i, 0.7), (users, items))


def test_shapes():
    with pytest.raises(ValueError, match=r"pairs of vectors \(B, D\), got \(2, 3\) and \(3, 3\)"):
        direct_au(torch.zeros(2, 3), torch.zeros(3, 3), 1.0)
