"""Distance correlation by hand, and what it is for."""

import numpy as np
import pytest
import torch

from recsys.losses.distance_correlation import distance_correlation, mutual_dependence


def test_a_value_by_hand():
    """Entries 0, 1 against 0, 1 and against constants; and 3 entries with numpy."""
    line = torch.tensor([0.0, 1.0])
    assert float(distance_correlation(line, line)) == pytest.approx(1, abs=1e-3)
    assert float(distance_correlation(line, torch.ones(2))) < 0.1
    x, y = np.array([0.0, 1.0, 5.0]), np.array([2.0, 2.5, 0.0])
    parts = []
    for values in (x, y):
        a = np.abs(values[:, None] - values)
        parts.append(a - a.mean(0) - a.mean(1)[:, None] + a.mean())
    both = np.sqrt((parts[0] * parts[1]).mean())
    norms = [np.sqrt((part * part).mean()) for part in parts]
    wanted = both / np.sqrt(norms[0] * norms[1])
    found = distance_correlation(torch.from_numpy(x), torch.from_numpy(y))
    assert float(found) == pytest.approx(wanted, rel=1e-4)


def test_it_sees_what_a_correlation_does_not():
    generator = torch.Generator().manual_seed(0)
    x, other = torch.randn(2, 400, generator=generator)
    assert float(distance_correlation(x, x.square())) > 0.4
    assert float(distance_correlation(x, other)) < 0.25
    assert float(torch.corrcoef(torch.stack([x, x.square()]))[0, 1].abs()) < 0.3


def test_gradients_are_finite_also_of_equal_entries():
    x = torch.ones(4, requires_grad=True)
    distance_correlation(x, torch.arange(4.0)).backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_mutual_dependence_is_the_sum_over_pairs():
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    wanted = sum(distance_correlation(rows[i], rows[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    torch.testing.assert_close(mutual_dependence(rows), wanted)
    assert mutual_dependence(rows[:1]) == 0


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="two vectors"):
        distance_correlation(torch.zeros(3), torch.zeros(4))
