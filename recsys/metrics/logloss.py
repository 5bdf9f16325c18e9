"""Binary cross-entropy of predicted probabilities.

Stability: caller
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys.metrics.inputs import Floats, binary_inputs


def logloss(labels: Any, probabilities: Any, weights: Any = None) -> float:
    """``-sum w (y ln p + (1 - y) ln(1 - p)) / sum w``, in nats.

    Probabilities are kept off 0 and 1 by the float64 epsilon, as scikit-learn does, so a sure
    mistake costs 36 and not infinity.

    Args:
        labels: 1 or 0.
        probabilities: Between 0 and 1.
        weights: Weight of every row; None means all 1.

    Raises:
        DataError: See `recsys.metrics.inputs.binary_inputs`.

    Example:
        >>> round(logloss([1, 0], [0.5, 0.5]), 6)
        0.693147
    """
    rows = binary_inputs(labels, probabilities, weights, probabilities=True)
    return float(rows.weights @ row_logloss(rows.labels, rows.scores)) / float(rows.weights.sum())


def row_logloss(labels: Floats, probabilities: Floats) -> Floats:
    """The loss of every row, (R,).

    Args:
        labels: 1 or 0.
        probabilities: Between 0 and 1.
    """
    epsilon = np.finfo(np.float64).eps
    p = np.clip(probabilities, epsilon, 1 - epsilon)
    return -(labels * np.log(p) + (1 - labels) * np.log1p(-p))
