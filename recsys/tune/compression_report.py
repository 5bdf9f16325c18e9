"""A comparison as a table, a picture and words.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recsys.evaluate.evaluation import without_nan
from recsys.train import plots
from recsys.train.folder import write_json
from recsys.tune.compression import Comparison
from recsys.tune.compression_cell import CellResult

NEAR = 0.001
"""AUC within which a smaller model counts as good as the full one."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One trained and frozen model of a comparison.

    Args:
        cell: What was trained.
        dtype: How it was frozen.
        bytes: Real, of its tables.
        mean: Of the metric, over seeds.
        sd: Over seeds.
    """

    cell: CellResult
    dtype: str
    bytes: int
    mean: float
    sd: float

    @property
    def ratio(self) -> float:
        """Share of the full fp32 tables."""
        return self.bytes / self.cell.full_bytes

    @property
    def name(self) -> str:
        """Scheme and, where rows are not fp32, the dtype."""
        return self.cell.label if self.dtype == "fp32" else f"{self.cell.label} + {self.dtype}"


def points_of(comparison: Comparison, split: str, metric: str = "auc") -> list[Point]:
    """Every model of a comparison.

    Args:
        comparison: Done.
        split: To judge on.
        metric: Higher is better.
    """
    found = []
    for cell in comparison.cells:
        for dtype in cell.metrics:
            mean, sd = cell.spread(dtype, split, metric)
            found.append(Point(cell, dtype, cell.infer_bytes[dtype], mean, sd))
    return found


def pareto(points: Sequence[Point]) -> list[Point]:
    """The models that no other beats in both bytes and metric, smallest first.

    Args:
        points: Any order.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.bytes, -p.mean)):
        if not front or point.mean > front[-1].mean:
            front.append(point)
    return front


def judged_split(comparison: Comparison) -> str:
    """``test`` where the data has one, else ``valid``."""
    splits = comparison.cells[0].metrics["fp32"] if comparison.cells else {}
    return "test" if "test" in splits else "valid"


def recommend(
    points: Sequence[Point], budgets: Sequence[float], infeasible: Sequence[Any]
) -> list[str]:
    """What to take at each budget, in sentences.

    Args:
        points: All models, the full one among them.
        budgets: Asked for.
        infeasible: What could not be reached.
    """
    full = next((p for p in points if p.cell.label == "full" and p.dtype == "fp32"), None)
    lines = []
    for budget in sorted(budgets, reverse=True):
        inside = sorted((p for p in points if p.ratio <= budget * 1.0005), key=lambda p: -p.mean)
        if not inside:
            lines.append(f"At {budget:g} of the bytes nothing fits.")
            continue
        best = inside[0]
        text = f"At {budget:g} of the bytes take {best.name} (AUC {best.mean:.4f}"
        if full is not None:
            text += f", {best.mean - full.mean:+.4f} against the full tables"
        text += f"; {best.bytes:,} bytes)."
        spread = max(best.sd, 0.0005)
        close = [p for p in inside[1:] if best.mean - p.mean <= spread]
        names = list(dict.fromkeys(p.name for p in close if p.name != best.name))
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            text += f" Not distinguishable from it: {', '.join(names[:4])}{more}."
        faster = [p for p in close if p.cell.rows_per_second > 1.2 * best.cell.rows_per_second]
        if faster:
            quick = max(faster, key=lambda p: p.cell.rows_per_second)
            share = quick.cell.rows_per_second / best.cell.rows_per_second
            text += f" Of these {quick.name} trains {share:.1f} times as fast."
        out = sorted({i.label for i in infeasible if i.budget == budget})
        if out:
            text += f" Out of reach here: {', '.join(out)}."
        lines.append(text)
    if full is not None:
        near = [p for p in points if p.mean >= full.mean - NEAR]
        small = min(near, key=lambda p: p.bytes)
        lines.append(
            f"The smallest model within {NEAR} of the full tables is {small.name}: "
            f"{small.ratio:.4f} of the bytes ({small.bytes:,}), AUC {small.mean:.4f}."
        )
    return lines


def table_of(points: Sequence[Point], split: str) -> str:
    """All models as a Markdown table, by bytes; those on the Pareto front are marked.

    Args:
        points: Any order.
        split: They were judged on.
    """
    front = {id(point) for point in pareto(points)}
    full = next((p for p in points if p.cell.label == "full" and p.dtype == "fp32"), None)
    lines = [
        f"| scheme | budget | real ratio | paper ratio | bytes | training bytes | {split} AUC "
        "| sd | logloss | against full | step time | lookups/s | front |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for point in sorted(points, key=lambda p: (-p.bytes, p.name)):
        cell = point.cell
        loss, _ = cell.spread(point.dtype, split, "logloss")
        slower = ""
        if full is not None:
            slower = f"{full.cell.rows_per_second / cell.rows_per_second:.2f}x"
        lines.append(
            f"| {point.name} | {'own' if cell.budget is None else f'{cell.budget:g}'} "
            f"| {point.ratio:.4f} | {cell.paper_ratio:.4f} | {point.bytes:,} "
            f"| {cell.train_bytes:,} | {point.mean:.5f} | {point.sd:.5f} | {loss:.5f} "
            f"| {'' if full is None else f'{point.mean - full.mean:+.5f}'} | {slower} "
            f"| {cell.lookups_per_second[point.dtype]:,.0f} "
            f"| {'*' if id(point) in front else ''} |"
        )
    return "\n".join(lines)


def report_text(comparison: Comparison, budgets: Sequence[float]) -> str:
    """The recommendation and a short table, for a terminal.

    Args:
        comparison: Done.
        budgets: Asked for.
    """
    split = judged_split(comparison)
    points = points_of(comparison, split)
    rows = [("scheme", "ratio", f"{split} AUC", "sd", "rows/s")]
    for point in sorted(points, key=lambda p: (-p.bytes, p.name)):
        speed = f"{point.cell.rows_per_second:,.0f}"
        row = (point.name, f"{point.ratio:.4f}", f"{point.mean:.5f}", f"{point.sd:.5f}", speed)
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths)))
        for row in rows
    ]
    lines += [f"failed: {name}: {why}" for name, why in comparison.failed.items()]
    return "\n".join([*lines, "", *recommend(points, budgets, comparison.infeasible)])


def write_report(comparison: Comparison, budgets: Sequence[float]) -> list[Path]:
    """Writes ``results.json``, ``report.md`` and ``compression.png``.

    Args:
        comparison: Done.
        budgets: Asked for.

    Returns:
        The files.
    """
    folder, split = comparison.directory, judged_split(comparison)
    points = points_of(comparison, split)
    words = recommend(points, budgets, comparison.infeasible)
    parts = ["# Compression of the embedding tables", "", *(f"- {line}" for line in words), ""]
    files = [folder / "results.json", folder / "report.md"]
    if plots.available() and points:
        files.append(folder / "compression.png")
        plots.draw(files[-1], lambda figure: _picture(figure, points, split), (9.6, 5.4))
        parts += ["![AUC against real bytes](compression.png)", ""]
    parts += [table_of(points, split), ""]
    if comparison.infeasible:
        parts += ["Out of reach (smallest size in bytes): " + "; ".join(
            f"{i.label} at {i.budget:g} ({i.min_bytes:,})" for i in comparison.infeasible
        ) + ".", ""]  # fmt: skip
    parts += [f"Failed: {name}: {why}" for name, why in comparison.failed.items()]
    files[1].write_text("\n".join(parts) + "\n", encoding="utf-8")
    content = {
        "full_bytes": comparison.full_bytes,
        "split": split,
        "cells": [dataclasses.asdict(cell) for cell in comparison.cells],
        "infeasible": [dataclasses.asdict(item) for item in comparison.infeasible],
        "failed": dict(comparison.failed),
        "recommendation": words,
    }
    write_json(files[0], without_nan(content))
    return files


def _picture(figure: Any, points: Sequence[Point], split: str) -> None:
    """The metric against real bytes, one line a scheme, the Pareto front marked."""
    axes = figure.add_subplot()
    axes.set_title("What compression costs")
    axes.set_xlabel("bytes of the frozen tables, share of the full fp32 tables")
    axes.set_ylabel(f"{split} AUC")
    axes.set_xscale("log")
    names = sorted({point.name for point in points if point.name != "full"})
    for number, name in enumerate(names):
        mine = sorted((p for p in points if p.name == name), key=lambda p: p.bytes)
        axes.errorbar(
            [p.ratio for p in mine], [p.mean for p in mine], yerr=[p.sd for p in mine],
            color=plots.color(number), marker="osD^v"[number // 10 % 5], markersize=4,
            linewidth=1.1, capsize=2, label=name,
        )  # fmt: skip
    front = pareto(points)
    axes.plot(
        [p.ratio for p in front], [p.mean for p in front], color="#22252b", linewidth=2.6,
        alpha=0.35, drawstyle="steps-post", zorder=0, label="Pareto front",
    )  # fmt: skip
    axes.scatter([p.ratio for p in front], [p.mean for p in front], s=70, facecolors="none",
                 edgecolors="#22252b", linewidths=1.2, zorder=5)  # fmt: skip
    for point in points:
        if point.name == "full":
            axes.axhline(point.mean, color="#8a8f98", linestyle="--", linewidth=1,
                         label="full tables")  # fmt: skip
    figure.legend(loc="outside right upper", fontsize=8)
