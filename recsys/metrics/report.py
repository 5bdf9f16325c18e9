"""All metrics of one split and task, computed once.

Stability: caller
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from recsys.errors import DataError
from recsys.metrics.auc import curve_auc
from recsys.metrics.calibration import calibration_ratio
from recsys.metrics.curve import ranking_curve
from recsys.metrics.ece import expected_calibration_error
from recsys.metrics.grouped_auc import grouped_auc
from recsys.metrics.inputs import binary_inputs
from recsys.metrics.logloss import logloss
from recsys.metrics.normalized_entropy import normalized_entropy
from recsys.metrics.pr_auc import curve_pr_auc

HIGHER_IS_BETTER = {
    "auc": True,
    "grouped_auc": True,
    "pr_auc": True,
    "logloss": False,
    "normalized_entropy": False,
    "ece": False,
}
"""Metrics a run can be judged by, and in which direction."""


@dataclasses.dataclass(frozen=True, slots=True)
class BinaryReport:
    """Metrics of one task on one split.

    Args:
        rows: Rows that count (weight above 0).
        positives: Rows with label 1.
        rate: Weighted share of positives.
        values: Metric by name; nan where it is not defined.
        notes: Why a value is nan, or what to know about it, by metric.
    """

    rows: int
    positives: int
    rate: float
    values: dict[str, float]
    notes: dict[str, str]

    def __getitem__(self, name: str) -> float:
        """One metric."""
        return self.values[name]


def binary_report(
    labels: Any, probabilities: Any, weights: Any = None, groups: Any = None
) -> BinaryReport:
    """Every metric of the library for one task.

    Args:
        labels: 1 or 0.
        probabilities: Between 0 and 1.
        weights: Weight of every row; None means all 1.
        groups: Group key of every row; without it there is no grouped AUC.

    Raises:
        DataError: See `recsys.metrics.inputs.binary_inputs`.

    Example:
        >>> report = binary_report([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
        >>> report["auc"], round(report["logloss"], 4)
        (0.75, 0.4723)
        >>> binary_report([1, 1], [0.5, 0.6]).notes["auc"]
        'all labels are 1: there is nothing to rank'
    """
    rows = binary_inputs(labels, probabilities, weights, probabilities=True)
    y, p, w = rows.labels, rows.scores, rows.weights
    notes: dict[str, str] = {}
    area = precision = math.nan
    if rows.one_class:
        reason = f"all labels are {int(y[0])}: there is nothing to rank"
        notes = dict.fromkeys(("auc", "pr_auc", "normalized_entropy"), reason)
        if not rows.positive:
            notes["calibration"] = "no positive label: sum p / sum y is not defined"
    else:
        curve = ranking_curve(rows)
        area, precision = curve_auc(curve), curve_pr_auc(curve)
    values = {
        "auc": area,
        "logloss": logloss(y, p, w),
        "normalized_entropy": normalized_entropy(y, p, w),
        "calibration": calibration_ratio(y, p, w),
        "ece": expected_calibration_error(y, p, w),
        "pr_auc": precision,
    }
    if groups is not None:
        grouped = grouped_auc(labels, probabilities, groups, weights)
        values["grouped_auc"] = grouped.value
        notes["grouped_auc"] = (
            f"{grouped.num_groups:,} groups, {grouped.num_skipped:,} of one class skipped, "
            f"{grouped.covered:.1%} of the rows covered"
        )
    rate = rows.positive / (rows.positive + rows.negative)
    return BinaryReport(len(y), int(y.sum()), rate, values, notes)


def task_reports(
    task_names: tuple[str, ...],
    labels: np.ndarray,
    probabilities: np.ndarray,
    weights: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> dict[str, BinaryReport]:
    """A report for every task.

    Args:
        task_names: In the order of the columns.
        labels: One column a task.
        probabilities: One column a task.
        weights: Weight of every row; None means all 1.
        groups: Group key of every row.

    Shape:
        - labels, probabilities: (R, T)
        - weights, groups: (R,)

    Raises:
        DataError: The columns do not match the names, or see
            `recsys.metrics.inputs.binary_inputs`.
    """
    if labels.shape != probabilities.shape or labels.shape[1:] != (len(task_names),):
        raise DataError(
            f"expected one column of labels and of probabilities for each of {list(task_names)}, "
            f"got shapes {labels.shape} and {probabilities.shape}."
        )
    return {
        name: binary_report(labels[:, task], probabilities[:, task], weights, groups)
        for task, name in enumerate(task_names)
    }
