"""Does the model promise as many clicks as come?

Stability: caller
"""

from __future__ import annotations

from typing import Any

from recsys.metrics.inputs import binary_inputs


def calibration_ratio(labels: Any, probabilities: Any, weights: Any = None) -> float:
    """``sum w p / sum w y``: above 1 the model promises too much.

    Args:
        labels: 1 or 0.
        probabilities: Between 0 and 1.
        weights: Weight of every row; None means all 1.

    Returns:
        The ratio; nan where there is no positive.

    Raises:
        DataError: See `recsys.metrics.inputs.binary_inputs`.

    Example:
        >>> calibration_ratio([1, 0, 0, 1], [0.5, 0.5, 0.25, 0.25])
        0.75
    """
    rows = binary_inputs(labels, probabilities, weights, probabilities=True)
    return float(rows.weights @ rows.scores) / rows.positive if rows.positive else float("nan")
