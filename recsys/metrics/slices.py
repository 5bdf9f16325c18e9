"""The same metrics for every value of a column: where is the model worse?

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from recsys.errors import DataError
from recsys.metrics.auc import auc
from recsys.metrics.calibration import calibration_ratio
from recsys.metrics.inputs import binary_inputs
from recsys.metrics.logloss import logloss


@dataclasses.dataclass(frozen=True, slots=True)
class SliceRow:
    """One line of a slice table.

    Args:
        value: The column's value; ``(other)`` for the values that are not listed.
        rows: Number of rows.
        rate: Share of positives.
        auc: nan where all labels are equal.
        logloss: Mean loss.
        calibration: ``sum p / sum y``, nan where there is no positive.
    """

    value: str
    rows: int
    rate: float
    auc: float
    logloss: float
    calibration: float


def slice_table(
    labels: Any,
    probabilities: Any,
    slices: Any,
    weights: Any = None,
    *,
    max_slices: int = 10,
    name: Callable[[Any], str] = str,
) -> list[SliceRow]:
    """Metrics of the most frequent values, falling by rows, then of all others together.

    Args:
        labels: 1 or 0.
        probabilities: Between 0 and 1.
        slices: Value of the column for every row.
        weights: Weight of every row; None means all 1.
        max_slices: Values listed at most.
        name: Makes a value readable.

    Raises:
        DataError: ``slices`` has another length, or see `recsys.metrics.inputs.binary_inputs`.

    Example:
        >>> [(row.value, row.rows) for row in slice_table([1, 0, 1], [0.9, 0.2, 0.4], [5, 5, 6])]
        [('5', 2), ('6', 1)]
    """
    keys = np.asarray(slices.detach().cpu().numpy() if hasattr(slices, "detach") else slices)
    y, p = np.asarray(labels).reshape(-1), np.asarray(probabilities).reshape(-1)
    w = np.ones(len(y)) if weights is None else np.asarray(weights).reshape(-1)
    if len(keys) != len(y):
        raise DataError(
            f"`slices` must have a value for every row: got {len(keys):,} values for "
            f"{len(y):,} rows."
        )
    binary_inputs(y, p, w, probabilities=True)
    counted = w > 0
    keys, y, p, w = keys[counted], y[counted], p[counted], w[counted]
    values, codes, counts = np.unique(keys, return_inverse=True, return_counts=True)
    codes = codes.reshape(-1)
    largest = np.argsort(-counts, kind="stable")
    table = [_row(name(values[code]), y, p, w, codes == code) for code in largest[:max_slices]]
    if len(largest) > max_slices:
        table.append(_row("(other)", y, p, w, ~np.isin(codes, largest[:max_slices])))
    return table


def _row(
    value: str, labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, kept: np.ndarray
) -> SliceRow:
    y, p, w = labels[kept], probabilities[kept], weights[kept]
    return SliceRow(
        value=value,
        rows=len(y),
        rate=float(w @ y) / float(w.sum()),
        auc=auc(y, p, w),
        logloss=logloss(y, p, w),
        calibration=calibration_ratio(y, p, w),
    )
