"""Area under the precision-recall curve, as average precision.

Stability: caller
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys.metrics.curve import RankingCurve, ranking_curve
from recsys.metrics.inputs import binary_inputs


def pr_auc(labels: Any, scores: Any, weights: Any = None) -> float:
    """Average precision: ``sum_k (R_k - R_{k-1}) P_k`` over falling distinct scores.

    No interpolation between points (which would be too kind). A ranking by chance scores the base
    rate. Prefer it to AUC where positives are rare and only the top counts.

    Args:
        labels: 1 or 0.
        scores: Logits or probabilities; only their order counts.
        weights: Weight of every row; None means all 1.

    Returns:
        The area; nan where all labels are equal.

    Raises:
        DataError: See `recsys.metrics.inputs.binary_inputs`.

    Example:
        >>> round(pr_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 6)
        0.833333
    """
    inputs = binary_inputs(labels, scores, weights)
    return float("nan") if inputs.one_class else curve_pr_auc(ranking_curve(inputs))


def curve_pr_auc(curve: RankingCurve) -> float:
    """The average precision of a curve that has both classes.

    Args:
        curve: From `ranking_curve`.
    """
    precision = curve.true_positives / (curve.true_positives + curve.false_positives)
    steps = np.diff(np.concatenate(([0.0], curve.true_positives)))
    return float(steps @ precision) / float(curve.true_positives[-1])
