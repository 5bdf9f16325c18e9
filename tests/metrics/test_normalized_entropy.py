import math

import numpy as np
import pytest
from sklearn.metrics import log_loss

from recsys.metrics.normalized_entropy import normalized_entropy


def test_the_base_rate_scores_one_whatever_it_is():
    for rate in (1, 10, 50):
        labels = np.arange(100) < rate
        assert normalized_entropy(labels, np.full(100, rate / 100)) == pytest.approx(1.0)


def test_equals_the_ratio_of_two_sklearn_losses():
    random = np.random.default_rng(7)
    p, weights = random.random(800), random.random(800)
    labels = (random.random(800) < p).astype(int)
    rate = np.full(800, np.average(labels, weights=weights))
    expected = log_loss(labels, p, sample_weight=weights) / log_loss(
        labels, rate, sample_weight=weights
    )
    assert normalized_entropy(labels, p, weights) == pytest.approx(expected, abs=1e-9)


def test_one_class_is_nan():
    assert math.isnan(normalized_entropy([0, 0], [0.1, 0.1]))
