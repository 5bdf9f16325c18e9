"""How many positives and negatives are above every distinct score: the base of AUC, ROC and PR.

Stability: internal
"""

from __future__ import annotations

import dataclasses

import numpy as np

from recsys.metrics.inputs import BinaryInputs, Floats


@dataclasses.dataclass(frozen=True, slots=True)
class RankingCurve:
    """Cumulative weights down the ranking, one point for every distinct score.

    Args:
        thresholds: Distinct scores, falling.
        true_positives: Weight of positives with at least that score.
        false_positives: Weight of negatives with at least that score.

    Shape:
        - all: (P,) with P distinct scores
    """

    thresholds: Floats
    true_positives: Floats
    false_positives: Floats


def ranking_curve(inputs: BinaryInputs) -> RankingCurve:
    """One sort; rows of equal score are one point.

    Args:
        inputs: Checked rows.
    """
    order = np.argsort(inputs.scores)[::-1]
    scores, labels, weights = inputs.scores[order], inputs.labels[order], inputs.weights[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    positives = weights * labels
    return RankingCurve(
        thresholds=scores[last],
        true_positives=np.cumsum(positives)[last],
        false_positives=np.cumsum(weights - positives)[last],
    )
