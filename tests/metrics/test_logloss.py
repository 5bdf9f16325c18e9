import math

import numpy as np
import pytest
from sklearn.metrics import log_loss

from recsys.metrics.logloss import logloss


@pytest.mark.parametrize("weighted", [False, True])
def test_equals_sklearn_also_at_0_and_1(weighted):
    random = np.random.default_rng(6)
    p = np.append(random.random(1000), [0.0, 1.0, 0.0, 1.0])
    labels = np.append(random.integers(0, 2, 1000), [0, 1, 1, 0])
    weights = random.random(1004) if weighted else None
    expected = log_loss(labels, p, sample_weight=weights)
    assert logloss(labels, p, weights) == pytest.approx(expected, abs=1e-9)


def test_by_hand():
    assert logloss([1, 0], [0.8, 0.4]) == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)
    assert logloss([1, 0], [0.8, 0.4], [3, 1]) == pytest.approx(
        -(3 * math.log(0.8) + math.log(0.6)) / 4
    )


def test_one_class_is_defined():
    assert logloss([1, 1], [0.5, 0.5]) == pytest.approx(math.log(2))
