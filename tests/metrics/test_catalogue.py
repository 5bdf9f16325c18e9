"""Coverage, Gini, novelty and popularity of lists."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.metrics.catalogue import (
    gini_index,
    item_coverage,
    recommended_counts,
    user_novelty,
    user_popularity,
)

LISTS = torch.tensor([[0, 2, 1], [2, -1, -1], [-1, -1, -1]])


def test_counts_and_coverage():
    counts = recommended_counts(LISTS, 5)
    assert counts.tolist() == [1, 1, 2, 0, 0]
    assert item_coverage(counts) == 3 / 5


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any))
@settings(max_examples=100, deadline=None)
def test_gini_is_half_the_relative_mean_difference(counts):
    size = len(counts)
    differences = sum(abs(a - b) for a in counts for b in counts)
    expected = differences / (2 * size * sum(counts))
    assert gini_index(torch.tensor(counts)) == pytest.approx(expected, abs=1e-12)


def test_gini_of_nothing_is_nan():
    assert math.isnan(gini_index(torch.zeros(3)))


def test_novelty_by_hand():
    """Of 8 users 8, 4 and 1 have the items: 0, 1 and 3 bits; an item of nobody has 3 as well."""
    degrees = torch.tensor([8, 4, 1, 0, 0])
    found = user_novelty(LISTS, degrees, 8, [1, 3])
    assert found["novelty@1"][:2].tolist() == [0.0, 3.0]
    assert found["novelty@3"][0].item() == pytest.approx((0 + 3 + 1) / 3)
    assert found["novelty@3"][1].item() == 3.0, "the mean over the items that there are"
    assert found["novelty@3"][2].isnan()
    nobody = user_novelty(torch.tensor([[3]]), degrees, 8, [1])
    assert nobody["novelty@1"].item() == 3.0


def test_popularity_by_hand():
    found = user_popularity(LISTS, torch.tensor([8, 4, 1, 0, 0]), [2])
    assert found["popularity@2"][:2].tolist() == [4.5, 1.0]
    assert found["popularity@2"][2].isnan()


def test_no_items():
    for metric in (item_coverage, gini_index):
        with pytest.raises(ValueError, match="at least one item"):
            metric(torch.zeros(0))
