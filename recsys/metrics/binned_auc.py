"""AUC of a stream in constant memory, with the error it can have.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from recsys.metrics.inputs import Floats, binary_inputs


@dataclasses.dataclass(frozen=True, slots=True)
class BinnedAUCValue:
    """An AUC that is known up to ``error_bound``.

    Args:
        value: Estimate, nan where all labels are equal.
        error_bound: The exact AUC is within ``value - error_bound`` and ``value + error_bound``.
    """

    value: float
    error_bound: float


class BinnedAUC:
    """Counts positives and negatives in equal-width bins of the probability.

    Pairs in different bins are ranked exactly. Pairs in one bin count half, so they are off by at
    most half their share, which is the bound reported: ``sum_b W+_b W-_b / (2 W+ W-)``.
    Prefer it to `auc` where a split does not fit in memory.

    Args:
        num_bins: More bins, smaller bound.

    Raises:
        ValueError: ``num_bins`` is not positive.

    Example:
        >>> stream = BinnedAUC(num_bins=10)
        >>> stream.update([0, 1], [0.2, 0.9])
        >>> stream.update([0, 1], [0.25, 0.22])
        >>> stream.compute()
        BinnedAUCValue(value=0.75, error_bound=0.25)
    """

    def __init__(self, num_bins: int = 10_000) -> None:
        if num_bins < 1:
            raise ValueError(f"`num_bins` must be at least 1, got {num_bins}.")
        self.counts: Floats = np.zeros((2, num_bins))
        """Weight of negatives and of positives by bin. Sum over ranks to merge."""

    def update(self, labels: Any, probabilities: Any, weights: Any = None) -> None:
        """Adds rows.

        Args:
            labels: 1 or 0.
            probabilities: Between 0 and 1.
            weights: Weight of every row; None means all 1.

        Raises:
            DataError: See `recsys.metrics.inputs.binary_inputs`.
        """
        rows = binary_inputs(labels, probabilities, weights, probabilities=True)
        bins = self.counts.shape[1]
        index = np.minimum((rows.scores * bins).astype(np.int64), bins - 1)
        index += bins * rows.labels.astype(np.int64)
        self.counts += np.bincount(index, rows.weights, 2 * bins).reshape(2, bins)

    def compute(self) -> BinnedAUCValue:
        """The area so far and its bound."""
        negative, positive = self.counts
        pairs = float(negative.sum() * positive.sum())
        if pairs == 0.0:
            return BinnedAUCValue(float("nan"), float("nan"))
        below = np.cumsum(negative) - negative
        same = float(positive @ negative)
        return BinnedAUCValue((float(positive @ below) + same / 2) / pairs, same / 2 / pairs)
