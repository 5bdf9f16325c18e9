"""Exact area under the ROC curve.

Stability: caller
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys.metrics.curve import RankingCurve, ranking_curve
from recsys.metrics.inputs import binary_inputs


def auc(labels: Any, scores: Any, weights: Any = None) -> float:
    """Chance that a random positive is ranked above a random negative, ties counted half.

    ``sum_ij w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / (W+ W-)`` over positives i and negatives j.
    One sort, float64.

    Args:
        labels: 1 or 0.
        scores: Logits or probabilities; only their order counts.
        weights: Weight of every row; None means all 1.

    Returns:
        The area; nan where all labels are equal, because there is no pair to rank.

    Raises:
        DataError: See `recsys.metrics.inputs.binary_inputs`.

    Example:
        >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
        0.75
    """
    inputs = binary_inputs(labels, scores, weights)
    return float("nan") if inputs.one_class else curve_auc(ranking_curve(inputs))


def curve_auc(curve: RankingCurve) -> float:
    """The area under a curve that has both classes.

    Args:
        curve: From `ranking_curve`.
    """
    tp = np.concatenate(([0.0], curve.true_positives))
    fp = np.concatenate(([0.0], curve.false_positives))
    area = float(np.diff(fp) @ (tp[1:] + tp[:-1])) / 2
    return area / float(tp[-1] * fp[-1])
