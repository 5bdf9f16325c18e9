"""Logloss relative to always predicting the base rate.

Stability: caller
"""

from __future__ import annotations

import math
from typing import Any

from recsys.metrics.inputs import binary_inputs
from recsys.metrics.logloss import logloss


def normalized_entropy(labels: Any, probabilities: Any, weights: Any = None) -> float:
    """``logloss / H(base rate)``: 1 is no better than the base rate, 0 is perfect.

    Comparable between splits of different click rate, which logloss is not.

    Args:
        labels: 1 or 0.
        probabilities: Between 0 and 1.
        weights: Weight of every row; None means all 1.

    Returns:
        The ratio; nan where all labels are equal, because the entropy is then 0.

    Raises:
        DataError: See `recsys.metrics.inputs.binary_inputs`.

    Source:
        He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014.

    Example:
        >>> normalized_entropy([1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25])
        1.0
    """
    rows = binary_inputs(labels, probabilities, weights, probabilities=True)
    if rows.one_class:
        return float("nan")
    rate = rows.positive / (rows.positive + rows.negative)
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))
    return logloss(rows.labels, rows.scores, rows.weights) / entropy
