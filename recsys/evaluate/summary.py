"""Reports as flat numbers and as a text table.

Stability: caller
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from recsys.metrics.report import BinaryReport
from recsys.metrics.slices import SliceRow


def flat_metrics(reports: Mapping[str, BinaryReport]) -> dict[str, float]:
    """Every metric, mean over tasks, then by task where there are several.

    Args:
        reports: By task.

    Returns:
        ``{"auc": mean, ...}`` and with several tasks ``{"click.auc": ..., ...}``; a mean leaves
        out tasks where the metric is not defined.

    Example:
        >>> one = BinaryReport(2, 1, 0.5, {"auc": 1.0}, {})
        >>> two = BinaryReport(2, 1, 0.5, {"auc": 0.5}, {})
        >>> flat_metrics({"click": one, "buy": two})
        {'auc': 0.75, 'click.auc': 1.0, 'buy.auc': 0.5}
    """
    names = next(iter(reports.values())).values
    values = {name: _mean([report.values[name] for report in reports.values()]) for name in names}
    if len(reports) > 1:
        for task, report in reports.items():
            values |= {f"{task}.{name}": value for name, value in report.values.items()}
    return values


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def text_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned plain text: first column left, the others right, nan as a dash.

    Args:
        columns: Headings.
        rows: Cells; floats are shown with five digits after the point.

    Example:
        >>> print(text_table(["model", "auc"], [["LR", 0.75], ["oracle", float("nan")]]))
        model       auc
        ------  -------
        LR      0.75000
        oracle        -
    """
    cells = [list(columns), *[[_cell(value) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.5f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


METRIC_ORDER = (
    "auc", "grouped_auc", "pr_auc", "logloss", "normalized_entropy", "calibration", "ece",
)  # fmt: skip
"""Columns of metric tables."""
CLASS_ORDER = ("accuracy", "macro_f1", "micro_f1")
"""The same for models that tell classes."""
RANKING_ORDER = ("recall", "ndcg", "hr", "mrr", "coverage")
"""The same for models that rank, at every cut-off."""


def metrics_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """One line for every model, split or oracle; metrics that no line has are left out.

    Args:
        rows: Metrics by name of the line.

    Example:
        >>> print(metrics_table({"valid": {"logloss": 0.5, "auc": 0.75}, "oracle": {"auc": 0.8}}))
                    auc  logloss
        ------  -------  -------
        valid   0.75000  0.50000
        oracle  0.80000        -
    """
    known = {name for row in rows.values() for name in row}
    names = [name for name in (*CLASS_ORDER, *METRIC_ORDER) if name in known]
    cuts = sorted({int(name.partition("@")[2]) for name in known if "@" in name})
    names += [f"{name}@{k}" for name in RANKING_ORDER for k in cuts if f"{name}@{k}" in known]
    cells = [[line, *(row.get(name) for name in names)] for line, row in rows.items()]
    return text_table(["", *names], cells)


def slices_table(title: str, rows: Sequence[SliceRow]) -> str:
    """A slice table as text.

    Args:
        title: Heading of the first column, say the feature.
        rows: From `recsys.metrics.slices.slice_table`.
    """
    cells = [[r.value, r.rows, r.rate, r.auc, r.logloss, r.calibration] for r in rows]
    return text_table([title, "rows", "rate", "auc", "logloss", "calibration"], cells)
