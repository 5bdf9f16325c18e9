"""Expected calibration error and the reliability curve it sums up.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from recsys.metrics.inputs import Floats, binary_inputs


@dataclasses.dataclass(frozen=True, slots=True)
class Reliability:
    """Predicted and observed rate in bins of equal row weight, by rising prediction.

    Args:
        predicted: Mean probability of every bin.
        observed: Share of positives of every bin.
        weights: Row weight of every bin.

    Shape:
        - all: (number of bins that have rows,)
    """

    predicted: Floats
    observed: Floats
    weights: Floats


def reliability(
    labels: Any, probabilities: Any, weights: Any = None, num_bins: int = 20
) -> Reliability:
    """Cuts the rows, sorted by probability, into bins of equal weight.

    Rows of equal probability are never cut apart (they go to the bin of the first of them), so
    that the result does not depend on the order of the rows; bins can then be fewer.

    Args:
        labels: 1 or 0.
        probabilities: Between 0 and 1.
        weights: Weight of every row; None means all 1.
        num_bins: Bins at most.

    Raises:
        ValueError: ``num_bins`` is not positive.
        DataError: See `recsys.metrics.inputs.binary_inputs`.

    Example:
        >>> reliability([0, 1, 1, 1], [0.1, 0.3, 0.6, 0.8], num_bins=2).observed
        array([0.5, 1. ])
    """
    if num_bins < 1:
        raise ValueError(f"`num_bins` must be at least 1, got {num_bins}.")
    rows = binary_inputs(labels, probabilities, weights, probabilities=True)
    values, value = np.unique(rows.scores, return_inverse=True)
    weight: Floats = np.bincount(value, rows.weights).astype(np.float64)
    positive = np.bincount(value, rows.weights * rows.labels)
    before = np.cumsum(weight) - weight
    # The tolerance keeps a border that is met exactly (10 rows in 2 bins) from rounding down.
    bins = np.floor(before / weight.sum() * num_bins + 1e-9).astype(np.int64)
    bins = np.minimum(bins, num_bins - 1)
    total: Floats = np.bincount(bins, weight, num_bins).astype(np.float64)
    used = total > 0
    return Reliability(
        predicted=np.bincount(bins, weight * values, num_bins)[used] / total[used],
        observed=np.bincount(bins, positive, num_bins)[used] / total[used],
        weights=total[used],
    )


def expected_calibration_error(
    labels: Any, probabilities: Any, weights: Any = None, num_bins: int = 20
) -> float:
    """``sum_b W_b |observed_b - predicted_b| / W`` over bins of equal row weight.

    Args:
        labels: 1 or 0.
        probabilities: Between 0 and 1.
        weights: Weight of every row; None means all 1.
        num_bins: Bins at most.

    Raises:
        ValueError: ``num_bins`` is not positive.
        DataError: See `recsys.metrics.inputs.binary_inputs`.

    Source:
        Nguyen and O'Connor, "Posterior calibration and exploratory analysis for natural language
        processing models", EMNLP 2015 (bins of equal frequency).

    Example:
        >>> round(expected_calibration_error([0, 1, 1, 1], [0.1, 0.3, 0.6, 0.8], num_bins=2), 6)
        0.3
    """
    bins = reliability(labels, probabilities, weights, num_bins)
    gaps = np.abs(bins.observed - bins.predicted)
    return float(bins.weights @ gaps) / float(bins.weights.sum())
