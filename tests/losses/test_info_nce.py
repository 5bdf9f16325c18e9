import math

import pytest
import torch
from torch.nn import functional

from recsys.losses.info_nce import info_nce


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equals_cross_entropy_of_cosines():
    first, second = normal(5, 3), normal(5, 3, seed=1)
    cosines = functional.cosine_similarity(first[:, None], second[None], dim=2)
    expected = functional.cross_entropy(cosines / 0.2, torch.arange(5))
    torch.testing.assert_close(info_nce(first, second, 0.2), expected)


def test_against_all_nodes():
    """Rows 4 and 1 of all, each against all six."""
    every = normal(6, 3)
    first = normal(2, 3, seed=1)
    found = info_nce(first, every[[4, 1]], 0.5, among=every)
    cosines = functional.cosine_similarity(first[:, None], every[None], dim=2)
    torch.testing.assert_close(found, functional.cross_entropy(cosines / 0.5, torch.tensor([4, 1])))


def test_products_without_scaling():
    """Scores 6 and 0 of row 0, 0 and 2 of row 1."""
    first, second = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    expected = (math.log1p(math.exp(-6)) + math.log1p(math.exp(-2))) / 2
    found = info_nce(first, second, 1.0, normalize=False)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_small_temperatures_and_zero_vectors_are_finite():
    views = torch.zeros(3, 2, requires_grad=True)
    loss = info_nce(views, views + torch.tensor([1e-30, 0.0]), 1e-3)
    loss.backward()
    assert loss.isfinite() and views.grad is not None and views.grad.isfinite().all()


def test_gradients():
    torch.autograd.gradcheck(
        lambda a, b, c: info_nce(a, b, 0.3, among=torch.cat([b, c])),
        tuple(normal(3, 2, seed=seed).requires_grad_() for seed in range(3)),
    )


def test_weights_count_rows_as_often():
    first, second = normal(3, 2), normal(3, 2, seed=1)
    rows = torch.tensor([0, 1, 1, 2, 2, 2])
    wanted = info_nce(first[rows], second[rows], 0.4, among=second)
    found = info_nce(first, second, 0.4, among=second, weights=torch.tensor([1, 2, 3]))
    torch.testing.assert_close(found, wanted)


def test_the_numerator_may_be_limited():
    """Products 6 and 0 of row 0, of which the first counts as 5 where it is the positive."""
    views = torch.tensor([[6.0, 0.0], [0.0, 2.0]], requires_grad=True)
    found = info_nce(torch.eye(2), views, 1.0, normalize=False, limit=5.0)
    wanted = (math.log(math.exp(6) + 1) - 5 + math.log(math.exp(2) + 1) - 2) / 2
    assert found.item() == pytest.approx(wanted, abs=1e-6)
    found.backward()
    assert views.grad is not None
    assert views.grad[0, 0] > 0 > views.grad[1, 1], "beyond the limit only the denominator pulls"


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"expected 2 weights of rows, got \(3,\)"):
        info_nce(torch.zeros(2, 3), torch.zeros(2, 3), 1.0, weights=torch.ones(3))
    with pytest.raises(ValueError, match=r"of one shape, got \(2, 3\) and \(2, 4\)"):
        info_nce(torch.zeros(2, 3), torch.zeros(2, 4), 1.0)
    with pytest.raises(ValueError, match=r"`among`: expected vectors of width 3, got \(5, 4\)"):
        info_nce(torch.zeros(2, 3), torch.zeros(2, 3), 1.0, among=torch.zeros(5, 4))
    with pytest.raises(ValueError, match="`temperature`: expected a number above 0, got -1"):
        info_nce(torch.zeros(2, 3), torch.zeros(2, 3), -1)
