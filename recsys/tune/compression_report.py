"""A comparison as a table, a picture and words.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recsys.evaluate.evaluation import without_nan
from recsys.folders import write_json, write_text
from recsys.train import plots
from recsys.tune.compression import Comparison
from recsys.tune.compression_cell import CellResult, title_of

NEAR = 0.001
"""AUC, or the metric of lists, within which a smaller model counts as good as the full one."""


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


def points_of(comparison: Comparison, split: str) -> list[Point]:
    """Every model of a comparison.

    Args:
        comparison: Done.
        split: To judge on.
    """
    found = []
    for cell in comparison.cells:
        for dtype in cell.metrics:
            mean, sd = cell.spread(dtype, split, cell.metric)
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
    """What models are compared on, see `CellResult.split`."""
    return comparison.cells[0].split if comparison.cells else "valid"


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
    name = title_of(points[0].cell.metric) if points else ""
    lines = []
    for budget in sorted(budgets, reverse=True):
        inside = sorted((p for p in points if p.ratio <= budget * 1.0005), key=lambda p: -p.mean)
        if not inside:
            lines.append(f"At {budget:g} of the bytes nothing fits.")
            continue
        best = inside[0]
        text = f"At {budget:g} of the bytes take {best.name} ({name} {best.mean:.4f}"
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
        out = sorted({i.label for i in infeasible if i.budget == budget and not i.reason})
        if out:
            text += f" Out of reach here: {', '.join(out)}."
        lines.append(text)
    if full is not None:
        near = [p for p in points if p.mean >= full.mean - NEAR]
        small = min(near, key=lambda p: p.bytes)
        lines.append(
            f"The smallest model within {NEAR} of the full tables is {small.name}: "
            f"{small.ratio:.4f} of the bytes ({small.bytes:,}), {name} {small.mean:.4f}."
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
    metric = points[0].cell.metric if points else "auc"
    other, timed = _other(metric), any(point.cell.lookups_per_second for point in points)
    tested = split == "valid" and all("test" in point.cell.metrics["fp32"] for point in points)
    lines = [
        f"| scheme | budget | real ratio | paper ratio | bytes | training bytes | {split} "
        f"{title_of(metric)} | sd {f'| test {metric} ' * tested}| {other} | against full "
        f"| step time {'| lookups/s ' * timed}| front |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|" + "---|" * (timed + tested),
    ]
    for point in sorted(points, key=lambda p: (-p.bytes, p.name)):
        cell = point.cell
        second, _ = cell.spread(point.dtype, split, other)
        slower = ""
        if full is not None:
            slower = f"{full.cell.rows_per_second / cell.rows_per_second:.2f}x"
        test = f"| {cell.spread(point.dtype, 'test', metric)[0]:.5f} " if tested else ""
        looked = f"| {cell.lookups_per_second[point.dtype]:,.0f} " if timed else ""
        lines.append(
            f"| {point.name} | {'own' if cell.budget is None else f'{cell.budget:g}'} "
            f"| {point.ratio:.4f} | {cell.paper_ratio:.4f} | {point.bytes:,} "
            f"| {cell.train_bytes:,} | {point.mean:.5f} | {point.sd:.5f} {test}| {second:.5f} "
            f"| {'' if full is None else f'{point.mean - full.mean:+.5f}'} | {slower} "
            f"{looked}| {'*' if id(point) in front else ''} |"
        )
    return "\n".join(lines)


def _other(metric: str) -> str:
    """The metric that is shown beside the one that is compared."""
    name, _, k = metric.partition("@")
    if not k:
        return "logloss"
    return f"ndcg@{k}" if name == "recall" else f"recall@{k}"


def matrix_of(points: Sequence[Point], budgets: Sequence[float]) -> str:
    """Schemes against budgets as a Markdown table: mean and sd of what is kept in fp32.

    A model stands under the smallest budget that it fits, with its real ratio where that is far
    below. The best of a column is bold.

    Args:
        points: Any order.
        budgets: Asked for.

    Example:
        >>> cell = CellResult("hash", 0.5, 1000, 125, {"fp32": 500}, 500, {}, {}, 9.0, 1.0, {})
        >>> print(matrix_of([Point(cell, "fp32", 500, 0.7, 0.01)], [0.5, 0.1]))
        | scheme | 0.5 | 0.1 |
        |---|---|---|
        | hash | **.7000** +- .0100 | |
    """
    columns = sorted({*budgets, *(1.0 for p in points if p.cell.label == "full")}, reverse=True)
    best: dict[tuple[str, float], Point] = {}
    for point in (point for point in points if point.dtype == "fp32"):
        fits = [budget for budget in columns if point.ratio <= budget * 1.0005]
        place = (point.cell.label, fits[-1]) if fits else None
        if place is not None and (place not in best or best[place].mean < point.mean):
            best[place] = point
    tops = {
        column: max((p.mean for (_, other), p in best.items() if other == column), default=0.0)
        for column in columns
    }
    rows = {}
    for label in dict.fromkeys(label for label, _ in best):
        mine = [(column, best.get((label, column))) for column in columns]
        texts = ["" if p is None else _entry(p, column, tops[column]) for column, p in mine]
        rows[label] = "| " + " | ".join([label, *texts]).rstrip() + " |"
    lines = [
        f"| scheme | {' | '.join(f'{c:g}' for c in columns)} |",
        "|---" * len(columns) + "|---|",
    ]
    order = sorted(rows, key=lambda label: (label != "full", label))
    return "\n".join([*lines, *(rows[label] for label in order)])


def _entry(point: Point, column: float, top: float) -> str:
    """One model in the table of schemes and budgets."""
    mean, sd = (f"{value:.4f}".removeprefix("0") for value in (point.mean, point.sd))
    text = f"**{mean}**" if point.mean == top else mean
    text += f" +- {sd}"
    return text if point.ratio > 0.8 * column else f"{text} (at {point.ratio:.2g})"


def report_text(comparison: Comparison, budgets: Sequence[float]) -> str:
    """The recommendation and a short table, for a terminal.

    Args:
        comparison: Done.
        budgets: Asked for.
    """
    split = judged_split(comparison)
    points = points_of(comparison, split)
    rows = [("scheme", "ratio", f"{split} {title_of(comparison.metric)}", "sd", "rows/s")]
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
    words, metric = recommend(points, budgets, comparison.infeasible), title_of(comparison.metric)
    parts = ["# Compression of the embedding tables", "", *(f"- {line}" for line in words), ""]
    files = [folder / "results.json", folder / "report.md"]
    if plots.available() and points:
        files.append(folder / "compression.png")
        plots.draw(files[-1], lambda figure: _picture(figure, points, split), (12.0, 5.4))
        parts += [f"![{metric} against real bytes](compression.png)", ""]
    heading = f"{split} {metric}, mean and sd of the seeds, by budget:"
    parts += [heading, "", matrix_of(points, budgets)]
    parts += ["", "Every model:", "", table_of(points, split), ""]
    if comparison.infeasible:
        parts += ["Out of reach (smallest size in bytes): " + "; ".join(
            f"{i.label} at {i.budget:g} ({i.min_bytes:,})"
            for i in comparison.infeasible if not i.reason
        ) + ".", ""]  # fmt: skip
    reasons = {i.label: i.reason for i in comparison.infeasible if i.reason}
    parts += [f"Left out: {label}: {reason}\n" for label, reason in reasons.items()]
    parts += [f"Failed: {name}: {why}" for name, why in comparison.failed.items()]
    write_text(files[1], "\n".join(parts) + "\n")
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
    """The metric against real bytes. The Pareto front has colors, the others are grey."""
    axes, costs = figure.subplots(1, 2, width_ratios=(2.3, 1))
    axes.set_title("What compression costs")
    axes.set_xlabel("bytes of the frozen tables, share of the full fp32 tables")
    axes.set_ylabel(f"{split} {title_of(points[0].cell.metric)}")
    axes.set_xscale("log")
    front = pareto(points)
    winners = list(dict.fromkeys(p.name for p in reversed(front) if p.name != "full"))
    others = sorted({point.name for point in points} - {*winners, "full"})
    for number, name in enumerate([*others, *winners]):
        mine = sorted((p for p in points if p.name == name), key=lambda p: p.bytes)
        wins = name in winners
        place = number - len(others)
        axes.errorbar(
            [p.ratio for p in mine], [p.mean for p in mine], yerr=[p.sd for p in mine],
            color=plots.color(place) if wins else "#c9ccd2", alpha=1.0 if wins else 0.6,
            marker="osD^v"[place // 10 % 5] if wins else ".", markersize=5 if wins else 4,
            linewidth=1.4 if wins else 0.8, capsize=2 if wins else 0, zorder=3 if wins else 1,
            label="other schemes" if number == 0 and not wins else None,
        )  # fmt: skip
    axes.plot(
        [p.ratio for p in front], [p.mean for p in front], color="#22252b", linewidth=2.6,
        alpha=0.35, drawstyle="steps-post", zorder=2, label="Pareto front",
    )  # fmt: skip
    axes.scatter([p.ratio for p in front], [p.mean for p in front], s=70, facecolors="none",
                 edgecolors="#22252b", linewidths=1.2, zorder=5)  # fmt: skip
    for point in points:
        if point.name == "full":
            axes.axhline(point.mean, color="#8a8f98", linestyle="--", linewidth=1,
                         label="full tables")  # fmt: skip
    axes.legend(loc="lower right", fontsize=8)
    _costs(costs, [next(p for p in points if p.name == name) for name in winners], points)


def _costs(axes: Any, winners: Sequence[Point], points: Sequence[Point]) -> None:
    """Speed of those on the front beside that of the full tables; names and colors of the lines."""
    full = next((p for p in points if p.name == "full"), None)
    axes.set_title("speed, full = 1")
    if full is None:
        return
    for place, point in enumerate(winners):
        train = point.cell.rows_per_second / full.cell.rows_per_second
        color = plots.color(place)
        looked = point.cell.lookups_per_second.get(point.dtype)
        lower = 0.0 if looked is None else 0.2
        axes.barh(place - lower, train, 0.36, color=color, label="training" if place == 0 else None)
        if looked is None:  # served by final vectors
            continue
        lookups = looked / full.cell.lookups_per_second["fp32"]
        axes.barh(place + 0.2, lookups, 0.36, color=color, alpha=0.45,
                  label="frozen lookups" if place == 0 else None)  # fmt: skip
    axes.axvline(1.0, color="#8a8f98", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(winners)), [point.name for point in winners], fontsize=8)
    axes.yaxis.tick_right()
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.2), fontsize=8, ncols=2)
