import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from recsys.errors import DataError
from recsys.metrics.grouped_auc import grouped_auc

ROWS = st.lists(
    st.tuples(
        st.integers(0, 4), st.integers(0, 1), st.integers(0, 3), st.sampled_from([0.3, 1.0, 2.0])
    ),
    min_size=1,
    max_size=40,
)


def naive(groups, labels, scores, weights):
    total = area = skipped = 0.0
    for group in np.unique(groups):
        kept = groups == group
        if len(np.unique(labels[kept])) < 2:
            skipped += 1
            continue
        share = weights[kept].sum()
        area += share * roc_auc_score(labels[kept], scores[kept], sample_weight=weights[kept])
        total += share
    return (area / total if total else math.nan), skipped, total / weights.sum()


@given(ROWS)
@settings(max_examples=150, deadline=None)
def test_equals_sklearn_group_by_group(rows):
    groups, labels, scores, weights = map(np.array, zip(*rows))
    value, skipped, covered = naive(groups, labels, scores, weights)
    found = grouped_auc(labels, scores, groups, weights)
    assert found.value == pytest.approx(value, abs=1e-9, nan_ok=True)
    assert found.num_skipped == skipped
    assert found.num_groups == len(np.unique(groups)) - skipped
    assert found.covered == pytest.approx(covered, abs=1e-12)


def test_by_hand_weighted_by_impressions():
    # Group a: AUC 1 with 2 rows. Group b: AUC 0 with 3 rows. Group c: one class.
    found = grouped_auc([1, 0, 1, 0, 0, 1], [2, 1, 0, 1, 2, 5], ["a", "a", "b", "b", "b", "c"])
    assert found.value == pytest.approx(2 / 5)
    assert (found.num_groups, found.num_skipped, found.covered) == (2, 1, 5 / 6)


def test_scores_of_other_groups_do_not_matter():
    labels, groups = [1, 0, 1, 0], [1, 1, 2, 2]
    assert grouped_auc(labels, [0.2, 0.1, 0.9, 0.8], groups).value == 1.0
    assert grouped_auc(labels, [0.9, 0.8, 0.2, 0.1], groups).value == 1.0


def test_padding_is_left_out():
    found = grouped_auc([1, 0, 0], [2, 1, 9], [1, 1, 1], [1, 1, 0])
    assert found.value == 1.0


def test_wrong_length():
    with pytest.raises(DataError, match="got 1 keys for 2 rows"):
        grouped_auc([1, 0], [0.1, 0.2], [1])
