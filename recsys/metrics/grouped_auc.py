"""AUC within groups, say users: does the model rank what one user sees?

Stability: caller
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from recsys.errors import DataError
from recsys.metrics.inputs import binary_inputs


@dataclasses.dataclass(frozen=True, slots=True)
class GroupedAUCValue:
    """Mean AUC over groups and how much of the split it covers.

    Args:
        value: Mean weighted by impressions, nan where no group has both classes.
        num_groups: Groups with both classes.
        num_skipped: Groups left out because all their labels are equal.
        covered: Share of the row weight that is in the groups used.
    """

    value: float
    num_groups: int
    num_skipped: int
    covered: float


def grouped_auc(labels: Any, scores: Any, groups: Any, weights: Any = None) -> GroupedAUCValue:
    """``sum_g w_g AUC_g / sum_g w_g`` with w_g the weight of the rows of group g.

    One sort by (group, score) for all groups together.

    Args:
        labels: 1 or 0.
        scores: Logits or probabilities.
        groups: Group key of every row, integers or strings.
        weights: Weight of every row; None means all 1.

    Raises:
        DataError: ``groups`` has another length, or see `recsys.metrics.inputs.binary_inputs`.

    Source:
        Zhu et al., "Optimized Cost per Click in Taobao Display Advertising", KDD 2017 (GAUC).

    Example:
        >>> grouped_auc([1, 0, 1, 0, 0], [0.9, 0.1, 0.2, 0.3, 0.5], [7, 7, 8, 8, 9])
        GroupedAUCValue(value=0.5, num_groups=2, num_skipped=1, covered=0.8)
    """
    keys = np.asarray(groups.detach().cpu().numpy() if hasattr(groups, "detach") else groups)
    size = len(keys)
    kept = None
    if weights is not None:
        kept = np.asarray(weights.cpu() if hasattr(weights, "cpu") else weights).reshape(-1) > 0
    rows = binary_inputs(labels, scores, weights)
    if kept is not None and len(kept) == size:
        keys = keys[kept]
    if len(keys) != len(rows.labels):
        raise DataError(
            f"`groups` must have a key for every row: got {size:,} keys for "
            f"{len(rows.labels):,} rows."
        )
    codes = np.unique(keys, return_inverse=True)[1].reshape(-1)
    order = np.lexsort((rows.scores, codes))
    return _within(codes[order], rows.scores[order], rows.labels[order], rows.weights[order])


def _within(
    codes: np.ndarray, scores: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> GroupedAUCValue:
    """Rows are sorted by group, then by rising score."""
    new_group = np.append(True, np.diff(codes) != 0)
    new_tie = np.append(True, np.diff(scores) != 0) | new_group
    group_start, tie_start = np.flatnonzero(new_group), np.flatnonzero(new_tie)
    positive = np.add.reduceat(weights * labels, tie_start)
    negative = np.add.reduceat(weights * (1.0 - labels), tie_start)
    # Index, among ties, of the first tie of every group.
    first = np.searchsorted(tie_start, group_start)
    below = np.cumsum(negative) - negative
    below -= np.repeat(below[first], np.diff(np.append(first, len(tie_start))))
    wins = np.add.reduceat(positive * (below + negative / 2), first)
    group_positive = np.add.reduceat(positive, first)
    group_negative = np.add.reduceat(negative, first)
    total = group_positive + group_negative
    # Counted, not subtracted: a rounding remainder must not look like a class.
    ones = np.add.reduceat((labels == 1).astype(np.int64), group_start)
    sizes = np.diff(np.append(group_start, len(labels)))
    both = (ones > 0) & (ones < sizes)
    used = float(total[both].sum())
    areas = wins[both] / (group_positive[both] * group_negative[both])
    return GroupedAUCValue(
        value=float(areas @ total[both]) / used if used else float("nan"),
        num_groups=int(both.sum()),
        num_skipped=int((~both).sum()),
        covered=used / float(total.sum()),
    )
