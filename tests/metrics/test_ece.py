import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from recsys.metrics.ece import expected_calibration_error, reliability


def naive(labels, p, num_bins):
    order = np.argsort(p)
    parts = np.array_split(order, num_bins)
    return sum(len(b) * abs(labels[b].mean() - p[b].mean()) for b in parts) / len(p)


@pytest.mark.parametrize("num_bins", [1, 5, 20])
def test_equals_equal_cuts_of_the_sorted_rows(num_bins):
    random = np.random.default_rng(8)
    p = random.random(1000)
    labels = (random.random(1000) < p**2).astype(float)
    expected = naive(labels, p, num_bins)
    assert expected_calibration_error(labels, p, num_bins=num_bins) == pytest.approx(
        expected, abs=1e-9
    )


def test_the_curve_equals_sklearn():
    random = np.random.default_rng(9)
    p = random.random(1000)
    labels = (random.random(1000) < p).astype(int)
    observed, predicted = calibration_curve(labels, p, n_bins=10, strategy="quantile")
    found = reliability(labels, p, num_bins=10)
    np.testing.assert_allclose(found.observed, observed, atol=1e-9)
    np.testing.assert_allclose(found.predicted, predicted, atol=1e-9)


def test_integer_weights_equal_repeated_rows():
    p, labels, weights = np.array([0.1, 0.2, 0.6, 0.9]), np.array([0, 1, 0, 1]), [2, 4, 4, 2]
    expected = expected_calibration_error(np.repeat(labels, weights), np.repeat(p, weights))
    assert expected_calibration_error(labels, p, weights) == pytest.approx(expected, abs=1e-12)


def test_order_of_tied_rows_does_not_matter():
    p = np.full(6, 0.5)
    labels = np.array([0, 0, 0, 1, 1, 1])
    assert expected_calibration_error(labels, p, num_bins=2) == 0.0
    assert len(reliability(labels, p, num_bins=2).weights) == 1


def test_no_bins():
    with pytest.raises(ValueError, match="`num_bins` must be at least 1"):
        reliability([1], [0.5], num_bins=0)
