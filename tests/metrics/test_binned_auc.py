import math

import numpy as np
import pytest

from recsys.metrics.auc import auc
from recsys.metrics.binned_auc import BinnedAUC


@pytest.mark.parametrize("num_bins", [10, 100, 10_000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exact_auc_is_within_the_bound(num_bins, seed):
    random = np.random.default_rng(seed)
    p = random.beta(1, 8, 4000)
    labels = (random.random(4000) < p).astype(int)
    weights = random.random(4000)
    stream = BinnedAUC(num_bins)
    for part in np.array_split(np.arange(4000), 7):
        stream.update(labels[part], p[part], weights[part])
    found = stream.compute()
    assert abs(found.value - auc(labels, p, weights)) <= found.error_bound
    assert found.error_bound < 2 / num_bins * 8


def test_exact_where_no_bin_is_shared():
    stream = BinnedAUC(10)
    stream.update([0, 0, 1, 1], [0.11, 0.41, 0.35, 1.0])
    assert stream.compute().value == 0.75
    assert stream.compute().error_bound == 0.0


def test_counts_add_up_like_one_stream():
    first, second, both = BinnedAUC(50), BinnedAUC(50), BinnedAUC(50)
    random = np.random.default_rng(5)
    for stream in (first, second):
        labels, p = random.integers(0, 2, 100), random.random(100)
        stream.update(labels, p)
        both.update(labels, p)
    first.counts += second.counts
    assert first.compute() == both.compute()


def test_nothing_yet_and_one_class_are_nan():
    stream = BinnedAUC()
    assert math.isnan(stream.compute().value)
    stream.update([1], [0.5])
    assert math.isnan(stream.compute().value)


def test_no_bins():
    with pytest.raises(ValueError, match="`num_bins` must be at least 1, got 0"):
        BinnedAUC(0)
