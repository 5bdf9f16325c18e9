import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.transforms import (
    BucketFit,
    Moments,
    NumberFit,
    RowSample,
    log_square,
    quantile_borders,
    scale,
)
from recsys.schema import Numeric

NAN = float("nan")


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6), max_size=30), min_size=1, max_size=6),
)
@settings(deadline=None)
def test_moments_equal_numpy_whatever_the_batches(batches):
    moments = Moments()
    for batch in batches:
        moments.add(np.array([*batch, NAN]))
    values = np.array([value for batch in batches for value in batch])
    fit = moments.fit()
    assert fit.count == len(values)
    if len(values):
        assert fit.mean == pytest.approx(values.mean(), rel=1e-9, abs=1e-6)
        assert fit.sd == pytest.approx(values.std(), rel=1e-6, abs=1e-6)
        assert (fit.minimum, fit.maximum) == (values.min(), values.max())


def test_moments_of_nothing():
    assert Moments().fit() == NumberFit(count=0, mean=0, sd=0, minimum=0, maximum=0)


def test_moments_are_exact_far_from_zero():
    moments = Moments()
    for _ in range(100):
        moments.add(1e9 + np.array([0.0, 1.0]))
    assert moments.fit().sd == pytest.approx(0.5, rel=1e-9)


FIT = NumberFit(count=4, mean=2.0, sd=4.0, minimum=-2.0, maximum=8.0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [2.0, -3.0, 10.0]),
        ({"fill": 0.0}, [0.0, -3.0, 10.0]),
        ({"scale": "standardize"}, [0.0, -1.25, 2.0]),
        ({"scale": "standardize", "fill": 6.0}, [1.0, -1.25, 2.0]),
        ({"scale": "minmax"}, [0.4, 0.0, 1.0]),
        ({"log": True}, [2.0, -math.log(4), math.log(11)]),
        ({"log": True, "fill": math.e - 1}, [1.0, -math.log(4), math.log(11)]),
        (
            {"log": True, "scale": "standardize"},
            [0.0, (-math.log(4) - 2) / 4, (math.log(11) - 2) / 4],
        ),
    ],
)
def test_scale_by_hand(options, expected):
    got = scale(Numeric(name="x", **options), FIT, np.array([NAN, -3.0, 10.0]))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["standardize", "minmax"])
def test_a_constant_column_becomes_zero(kind):
    fit = NumberFit(count=2, mean=5.0, sd=0.0, minimum=5.0, maximum=5.0)
    assert scale(Numeric(name="x", scale=kind), fit, np.array([5.0, NAN])).tolist() == [0, 0]


def test_quantile_buckets_by_hand():
    borders = quantile_borders(np.array([4.0, 1.0, NAN, 3.0, 2.0]), 4)
    assert borders == (2.0, 3.0)  # 1 | 2 | 3, 4: inverted_cdf at 1/4, 1/2, 3/4 is 1, 2, 3
    fit = BucketFit(borders=borders, missing=True)
    assert fit.num_embeddings == 6  # PAD, OOV, three buckets, missing
    assert fit.encode(np.array([-9.0, 1.9, 2.0, 3.0, 99.0, NAN])).tolist() == [2, 2, 3, 4, 4, 5]
    unseen = BucketFit(borders=borders, missing=False)
    assert unseen.num_embeddings == 5
    assert unseen.encode(np.array([NAN, 2.5])).tolist() == [1, 3]


def test_quantile_buckets_have_equal_frequency():
    values = np.random.default_rng(0).lognormal(size=10_000)
    codes = BucketFit(borders=quantile_borders(values, 8)).encode(values)
    counts = np.bincount(codes)[2:]
    assert len(counts) == 8
    assert abs(counts - 1250).max() <= 1


def test_quantile_borders_merge_where_one_value_is_frequent():
    values = np.array([0.0] * 90 + list(range(1, 11)))
    assert quantile_borders(values, 10) == ()  # every border is the minimum
    assert quantile_borders(np.full(5, NAN), 4) == ()


def test_log_square_by_hand():
    values = np.array([NAN, -1.7, 0.0, 2.0, 2.1, 20.0, 1e6])
    # ln(20)^2 = 8.97, ln(1e6)^2 = 190.9
    assert log_square(values).to_pylist() == [None, -1, 0, 2, 0, 8, 190]
    assert log_square(np.array([-3e38])).to_pylist() == [-(2**62)]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=20))
@settings(deadline=None)
def test_the_row_sample_does_not_depend_on_batches(sizes):
    total = sum(sizes)
    rows = np.arange(float(total)).reshape(-1, 1)
    whole, parts = RowSample(50), RowSample(50)
    whole.add(rows)
    at = 0
    for size in sizes:
        parts.add(rows[at : at + size])
        at += size
    assert sorted(whole.rows().ravel()) == sorted(parts.rows().ravel())
    assert len(whole.rows()) == min(50, total)
    assert whole.seen == total


def test_the_row_sample_is_uniform():
    sample = RowSample(20_000, seed=1)
    for start in range(0, 200_000, 7_000):
        sample.add(np.arange(start, min(start + 7_000, 200_000)).reshape(-1, 1))
    counts = np.histogram(sample.rows(), bins=10, range=(0, 200_000))[0]
    # chi-square with 9 degrees of freedom: 27.9 is its 99.9 % quantile
    assert ((counts - 2_000) ** 2 / 2_000).sum() < 27.9
