import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from recsys.metrics.auc import auc

ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(-3, 3), st.sampled_from([0.0, 0.5, 1.0, 2.5])),
    min_size=1,
    max_size=30,
)


def naive(rows):
    """The definition: every pair of a positive and a negative."""
    won = total = 0.0
    for y, s, w in rows:
        for y2, s2, w2 in rows:
            if y == 1 and y2 == 0:
                won += w * w2 * ((s > s2) + 0.5 * (s == s2))
                total += w * w2
    return won / total if total else math.nan


@given(ROWS.filter(lambda rows: any(w for _, _, w in rows)))
@settings(max_examples=200, deadline=None)
def test_equals_all_pairs_with_ties_and_weights(rows):
    labels, scores, weights = map(np.array, zip(*rows))
    assert auc(labels, scores, weights) == pytest.approx(naive(rows), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("levels", [7, 10**9])
def test_equals_sklearn(weighted, levels):
    random = np.random.default_rng(3)
    scores = random.integers(0, levels, 5000) / levels
    labels = (random.random(5000) < 0.2 + 0.5 * scores).astype(int)
    weights = random.random(5000) * 3 if weighted else None
    expected = roc_auc_score(labels, scores, sample_weight=weights)
    assert auc(labels, scores, weights) == pytest.approx(expected, abs=1e-9)


def test_by_hand():
    # Pairs (positive, negative): (.35 > .1), (.35 < .4), (.8 > .1), (.8 > .4): three of four.
    assert auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
    assert auc([0, 1], [0.5, 0.5]) == 0.5


def test_one_class_is_nan():
    assert math.isnan(auc([1, 1], [0.2, 0.3]))


def test_only_the_order_counts():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=500), random.integers(0, 2, 500)
    assert auc(labels, logits) == auc(labels, np.exp(logits))
    assert auc(labels, -logits) == pytest.approx(1 - auc(labels, logits), abs=1e-12)
