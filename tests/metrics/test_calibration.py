import math

from recsys.metrics.calibration import calibration_ratio


def test_by_hand():
    assert calibration_ratio([1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]) == 2.0
    # (2 * .5 + 1 * .25) / (2 * 1 + 1 * 0)
    assert calibration_ratio([1, 0], [0.5, 0.25], [2, 1]) == 0.625


def test_no_positive_is_nan():
    assert math.isnan(calibration_ratio([0, 0], [0.1, 0.2]))
