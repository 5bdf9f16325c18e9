import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from recsys.metrics.pr_auc import pr_auc


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("levels", [5, 10**9])
def test_equals_sklearn(weighted, levels):
    random = np.random.default_rng(4)
    scores = random.integers(0, levels, 3000) / levels
    labels = (random.random(3000) < 0.05 + 0.3 * scores).astype(int)
    weights = random.random(3000) * 2 if weighted else None
    expected = average_precision_score(labels, scores, sample_weight=weights)
    assert pr_auc(labels, scores, weights) == pytest.approx(expected, abs=1e-9)


def test_by_hand():
    # Ranking: 1 0 1 0. Precision at the positives: 1 and 2/3, each half of the recall.
    assert pr_auc([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1]) == pytest.approx((1 + 2 / 3) / 2)


def test_a_constant_scores_the_base_rate():
    assert pr_auc([1, 0, 0, 0], [0.5] * 4) == 0.25


def test_one_class_is_nan():
    assert math.isnan(pr_auc([0, 0], [0.2, 0.3]))
