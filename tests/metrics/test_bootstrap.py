import math

import numpy as np
import pytest

from recsys.errors import DataError
from recsys.metrics.bootstrap import bootstrap_intervals, mean_intervals, mean_samples
from recsys.metrics.report import binary_report


def draw(size, seed=0):
    random = np.random.default_rng(seed)
    p = random.beta(2, 6, size)
    return (random.random(size) < p).astype(int), p


def test_intervals_surround_the_metrics_and_shrink_with_the_root_of_rows():
    widths = []
    for size in (500, 8000):
        labels, p = draw(size)
        report = binary_report(labels, p)
        intervals = bootstrap_intervals(labels, p)
        for name, interval in intervals.items():
            assert interval.low < report[name] < interval.high, name
        widths.append(intervals["logloss"].high - intervals["logloss"].low)
    assert 3 < widths[0] / widths[1] < 5.4  # root of 16 is 4


def test_width_equals_the_normal_approximation_for_a_mean():
    labels, p = draw(4000)
    losses = -np.log(np.where(labels == 1, p, 1 - p))
    expected = 2 * 1.96 * losses.std() / math.sqrt(4000)
    interval = bootstrap_intervals(labels, p, num_samples=1000)["logloss"]
    assert interval.high - interval.low == pytest.approx(expected, rel=0.1)


def test_about_95_of_100_intervals_hold_the_truth():
    # The share of positives equals the mean prediction by construction: true calibration is 1.
    held = 0
    for seed in range(100):
        interval = bootstrap_intervals(*draw(300, seed), num_samples=100)["calibration"]
        held += interval.low <= 1.0 <= interval.high
    assert 86 <= held <= 100


def test_groups_of_equal_rows_widen_the_interval_by_their_root():
    labels, p = draw(500)
    labels, p, users = np.repeat(labels, 9), np.repeat(p, 9), np.repeat(np.arange(500), 9)
    by_row = bootstrap_intervals(labels, p, num_samples=400)["logloss"]
    by_user = bootstrap_intervals(labels, p, groups=users, num_samples=400)["logloss"]
    assert (by_user.high - by_user.low) / (by_row.high - by_row.low) == pytest.approx(3, rel=0.2)


def test_same_seed_same_interval():
    labels, p = draw(200)
    assert bootstrap_intervals(labels, p) == bootstrap_intervals(labels, p)
    assert bootstrap_intervals(labels, p) != bootstrap_intervals(labels, p, seed=1)


def test_one_class_is_nan():
    assert math.isnan(bootstrap_intervals([1, 1], [0.4, 0.5])["auc"].low)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`level` must be between 0 and 1"):
        bootstrap_intervals([1, 0], [0.4, 0.5], level=95)
    with pytest.raises(DataError, match="got 1 for 2"):
        bootstrap_intervals([1, 0], [0.4, 0.5], groups=[3])


def test_width_of_a_mean_equals_the_normal_approximation():
    values = np.random.default_rng(0).exponential(size=3000)
    interval = mean_intervals({"a": values}, num_samples=1000)["a"]
    expected = 2 * 1.96 * values.std() / math.sqrt(3000)
    assert interval.high - interval.low == pytest.approx(expected, rel=0.1)
    assert interval.low < values.mean() < interval.high


def test_columns_share_their_draws():
    """So intervals of a difference are those of paired values."""
    values = np.random.default_rng(0).normal(size=(2, 500))
    samples = mean_samples({"a": values[0], "b": values[1], "sum": values.sum(0)}, 50)
    assert samples[:, 2] == pytest.approx(samples[:, 0] + samples[:, 1])


def test_units_without_a_value_do_not_count():
    column = np.array([3.0, math.nan, 3.0, math.nan])
    found = mean_intervals({"a": column, "none": np.full(4, math.nan)})
    assert (found["a"].low, found["a"].high) == (3.0, 3.0)
    assert math.isnan(found["none"].low) and math.isnan(found["none"].high)


def test_means_refuse_what_they_cannot_take():
    with pytest.raises(DataError, match=r"one length of at least 1, got \[1, 2\]"):
        mean_intervals({"a": [1.0], "b": [1.0, 2.0]})
    with pytest.raises(DataError, match=r"one length of at least 1, got \[0\]"):
        mean_intervals({"a": []})
    with pytest.raises(ValueError, match="`level` must be between 0 and 1"):
        mean_intervals({"a": [1.0]}, level=1.0)
