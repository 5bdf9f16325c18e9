"""Checks that all metrics share: what came in is a split that can be judged.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.errors import DataError

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class BinaryInputs:
    """Checked labels, scores and weights of the rows that count, in float64.

    Args:
        labels: 1 or 0.
        scores: Probabilities or any other ranking value.
        weights: Positive; rows of weight 0 are already gone.

    Shape:
        - labels, scores, weights: (R,)
    """

    labels: Floats
    scores: Floats
    weights: Floats

    @property
    def positive(self) -> float:
        """Weight of the rows with label 1."""
        return float(self.weights @ self.labels)

    @property
    def negative(self) -> float:
        """Weight of the rows with label 0."""
        return float(self.weights @ (1.0 - self.labels))

    @property
    def one_class(self) -> bool:
        """Whether all labels are equal, so that nothing can be ranked."""
        return self.positive == 0.0 or self.negative == 0.0


def as_array(values: Any, name: str) -> Floats:
    """Values as a flat float64 array.

    Args:
        values: numpy array, torch tensor or list, (R,) or (R, 1).
        name: What they are, for the error text.

    Raises:
        DataError: There are several columns.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(
            f"`{name}` must be one value a row, got shape {array.shape}. Pass one task at a time."
        )
    return array


def binary_inputs(
    labels: Any, scores: Any, weights: Any = None, *, probabilities: bool = False
) -> BinaryInputs:
    """Checks one task of a split and leaves out rows of weight 0.

    Args:
        labels: 1 or 0 for every row.
        scores: One finite value for every row.
        weights: Not negative; None means all 1.
        probabilities: Whether scores must be within 0 and 1.

    Raises:
        DataError: Lengths differ, nothing counts, a value is NaN or infinite, a label is neither 0
            nor 1, a weight is negative, a probability is outside 0 and 1.
    """
    y, p = as_array(labels, "labels"), as_array(scores, "scores")
    w = np.ones_like(y) if weights is None else as_array(weights, "weights")
    if not len(y) == len(p) == len(w):
        raise DataError(
            f"labels, scores and weights must be of one length, got {len(y):,}, {len(p):,} and "
            f"{len(w):,}."
        )
    _all(np.isfinite(w) & (w >= 0), w, "weights", "finite and at least 0")
    if weights is not None and not w.all():
        y, p, w = y[w > 0], p[w > 0], w[w > 0]
    if not len(y):
        raise DataError(
            "there are no rows of positive weight to judge. Check that the split is not empty."
        )
    _all(np.isfinite(p), p, "scores", "finite")
    _all((y == 0) | (y == 1), y, "labels", "0 or 1")
    if probabilities:
        _all((p >= 0) & (p <= 1), p, "scores", "probabilities between 0 and 1 (not logits)")
    return BinaryInputs(y, p, w)


def _all(good: NDArray[np.bool_], values: Floats, name: str, expected: str) -> None:
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(
            f"`{name}` must be {expected}; {int((~good).sum()):,} of {len(values):,} rows are not, "
            f"first row {row + 1:,}: {values[row]}."
        )
