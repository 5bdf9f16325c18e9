"""Pictures of a study: front, history, importance of settings, widths of tables.

Stability: internal
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recsys.folders import whole_file
from recsys.train import plots
from recsys.tune.halving import dominates, hypervolume, losses
from recsys.tune.objectives import COSTS
from recsys.tune.report_data import Findings, full_bytes, metric_of, size_of, widths_of

_BLUE, _ORANGE, _DARK, _GREY, _PALE = "#2563a8", "#d1782a", "#22252b", "#8a8f98", "#c9ccd2"
_VOLUMES = 80  # points of the curve of hypervolumes
_BARS = 15  # settings in the picture of importances
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def draw_study(findings: Findings, folder: Path) -> dict[str, Path]:
    """Draws what there is data for.

    Args:
        findings: Of a study.
        folder: Made if it is missing.

    Returns:
        PNG files by title; none without matplotlib.
    """
    if not plots.available() or not findings.complete:
        return {}
    found: dict[str, Path] = {}
    for title, name, painter, size in _painters(findings):
        path = folder / f"{name}.png"
        with whole_file(path) as draft:
            plots.draw(draft, painter, size)
        found[title] = path
    return found


def _painters(
    findings: Findings,
) -> list[tuple[str, str, Callable[[Any], None], tuple[float, float]]]:
    several = len(findings.study.sweep.objectives) > 1
    found: list[tuple[str, str, Callable[[Any], None], tuple[float, float]]] = []
    if any(map(size_of, findings.complete)):
        found.append(("Front", "front", lambda figure: _front(figure, findings), (8.4, 5.2)))
    height = 5.6 if several else 4.0
    found.append(
        ("History", "history", lambda figure: _history(figure, findings), (8.4, height))
    )  # fmt: skip
    if findings.importances:
        bars = min(_BARS, len({k for one in findings.importances.values() for k in one}))
        size = (8.4, 1.4 + 0.27 * bars)
        found.append(
            ("Importance", "importance", lambda figure: _importance(figure, findings), size)
        )
    if len({rows for _, rows, _ in _placed(findings)}) >= 3:
        found.append(("Widths", "widths", lambda figure: _widths(figure, findings), (8.4, 4.8)))
    return found


def size_text(size: float) -> str:
    """Bytes in short.

    Args:
        size: In bytes.

    Example:
        >>> size_text(20_000), size_text(5e6)
        ('20 kB', '5 MB')
    """
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.3g} B"


# ------------------------------------------------------------------------------- front


def _front(figure: Any, findings: Findings) -> None:
    """The metric against bytes."""
    axes, name = figure.add_subplot(), findings.metric
    axes.set_title(f"What {name} costs")
    axes.set_xscale("log")
    axes.set_xlabel("bytes of the tables as they are served")
    axes.set_ylabel(_metric_label(findings))
    sizes = {row.number: size_of(row) or 0.0 for row in findings.rows}
    top = [row for row in findings.front if sizes[row.number]]
    best = {row.number for row in top}
    points = {row.number: row.values[name] for row in findings.complete if sizes[row.number]}
    stopped = {number: value for number, value in findings.lagging.items() if sizes.get(number)}
    low, high = _span(findings)
    _dots(axes, [(sizes[n], v) for n, v in stopped.items()], (low, high), "stopped early")
    others = [(sizes[n], v) for n, v in points.items() if n not in best]
    _dots(axes, others, (low, high), "complete")
    _envelope(axes, findings, [(sizes[number], value) for number, value in points.items()])
    spread = [metric_of(row, "valid", name)[1] or 0.0 for row in top]
    axes.errorbar(
        [sizes[row.number] for row in top], [row.values[name] for row in top],
        yerr=spread if any(spread) else None, color=_BLUE, linestyle="", marker="o", markersize=6,
        elinewidth=1.2, capsize=3, zorder=4,
        label=f"front of {', '.join(findings.study.sweep.objectives)}",
    )  # fmt: skip
    for row in top if len(top) <= 25 else top[:1]:
        axes.annotate(str(row.number), (sizes[row.number], row.values[name]), fontsize=7.5,
                      color=_BLUE, xytext=(5, -10), textcoords="offset points")  # fmt: skip
    _scale_bytes(axes, findings, [sizes[number] for number in {**points, **stopped}])
    figure.legend(loc="outside lower center", ncols=4, fontsize=8.5)


def _metric_label(findings: Findings) -> str:
    return f"valid {findings.metric}{'' if findings.sign > 0 else ' (less is better)'}"


def _span(findings: Findings) -> tuple[float, float]:
    """From where to where the metric is shown; trials far behind are drawn at the edge."""
    values = [row.values[findings.metric] for row in findings.complete]
    best = [row.values[findings.metric] for row in findings.front]
    everything = [*values, *findings.lagging.values()]
    low, high = min(everything), max(everything)
    middle = sorted(values)[len(values) // 2]
    if findings.sign > 0:
        room = max(2.0 * (max(best) - min(best)), 2.5 * (max(best) - middle)) or math.inf
        return max(low, max(best) - room), high
    room = max(2.0 * (max(best) - min(best)), 2.5 * (middle - min(best))) or math.inf
    return low, min(high, min(best) + room)


def _dots(
    axes: Any, points: Sequence[tuple[float, float]], span: tuple[float, float], label: str
) -> None:
    """Trials; those outside of the span as triangles at its edge."""
    hollow = label != "complete"
    look: dict[str, Any] = {"facecolors": "none" if hollow else _PALE,
                            "edgecolors": _GREY if hollow else _PALE, "linewidths": 1}  # fmt: skip
    low, high = span
    inside = [point for point in points if low <= point[1] <= high]
    if inside:
        axes.scatter(*zip(*inside), s=22, label=label, **look)
    for edge, marker, mine in (
        (low, "v", [x for x, y in points if y < low]),
        (high, "^", [x for x, y in points if y > high]),
    ):
        if mine:
            axes.scatter(mine, [edge] * len(mine), s=26, marker=marker,
                         label=f"{len(mine)} {label}, off the scale", **look)  # fmt: skip


def _envelope(axes: Any, findings: Findings, points: Sequence[tuple[float, float]]) -> None:
    """The best metric up to so many bytes."""
    line: list[tuple[float, float]] = []
    for size, value in sorted(points, key=lambda p: (p[0], -findings.sign * p[1])):
        if not line or findings.sign * value > findings.sign * line[-1][1]:
            line.append((size, value))
    if len(line) > 1:
        axes.plot(*zip(*line), color=_DARK, linewidth=1.6, alpha=0.35, zorder=2,
                  drawstyle="steps-post", label="best up to so many bytes")  # fmt: skip


def _scale_bytes(axes: Any, findings: Findings, sizes: Sequence[float]) -> None:
    """Round ticks, the limit, and shares of the full tables."""
    full = full_bytes(findings)
    limits = findings.study.sweep.limits
    allowed = [] if limits.bytes is None else [float(limits.bytes)]
    if limits.ratio is not None and full:
        allowed.append(limits.ratio * full)
    low, high = min(sizes) / 1.25, max(sizes) * 1.25
    if allowed and min(allowed) < 4 * high:
        high = max(high, 1.25 * min(allowed))
        axes.axvline(min(allowed), color=_ORANGE, linewidth=1.2, linestyle="--", label="limit")
    axes.set_xlim(low, high)
    _round_ticks(axes.xaxis, low, high)
    if not full:
        return
    for share in (1.0, 0.5, 0.25, 0.1, 0.05, 0.01):
        if low < share * full < high:
            axes.axvline(share * full, color=_PALE, linewidth=1, linestyle=":", zorder=0)
            axes.annotate(f"{share:.0%}", (share * full, 1), xycoords=("data", "axes fraction"),
                          fontsize=8, color=_GREY, ha="center", va="bottom")  # fmt: skip


def _round_ticks(
    axis: Any, low: float, high: float, text: Callable[[float], str] = size_text
) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten, or powers alone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    if len(ticks) > 8:
        ticks = [tick for tick in ticks if round(math.log10(tick), 6).is_integer()]
    if len(ticks) < 2:
        ticks = [low * (high / low) ** share for share in (0.1, 0.5, 0.9)]
    axis.set_ticks(ticks, [text(tick) for tick in ticks])
    axis.set_ticks([], minor=True)


# ------------------------------------------------------------------------------- history


def _history(figure: Any, findings: Findings) -> None:
    """The metric of every trial with the best so far, and how the front grew."""
    several = len(findings.study.sweep.objectives) > 1
    parts = figure.subplots(2, 1, sharex=True) if several else [figure.add_subplot()]
    axes, name = parts[0], findings.metric
    axes.set_title("History")
    axes.set_ylabel(_metric_label(findings))
    done = sorted(findings.complete, key=lambda row: row.number)
    values = [row.values[name] for row in done]
    low, high = _span(findings)
    _dots(axes, sorted(findings.lagging.items()), (low, high), "stopped early")
    _dots(axes, [(row.number, row.values[name]) for row in done], (low, high), "complete")
    best = list(itertools.accumulate(values, max if findings.sign > 0 else min))
    best = [min(max(value, low), high) for value in best]
    last = max(row.number for row in findings.rows)
    axes.plot([*(row.number for row in done), last], [*best, best[-1]], color=_BLUE,
              drawstyle="steps-post", label="best so far")  # fmt: skip
    figure.legend(loc="outside lower center", ncols=4, fontsize=8.5)
    if several:
        numbers, volumes = growth(findings)
        parts[1].plot(numbers, volumes, color=_ORANGE, drawstyle="steps-post")
        parts[1].set_ylabel("hypervolume\nof the front")
        parts[1].set_ylim(0, 1.02)
    parts[-1].set_xlabel("trial, those turned down counted")
    parts[-1].set_xlim(-0.02 * last - 0.5, 1.02 * last + 0.5)
    parts[-1].xaxis.get_major_locator().set_params(integer=True)


def growth(findings: Findings) -> tuple[list[int], list[float]]:
    """Trial numbers, and the share of the objectives' box that the front dominates by then.

    Every objective goes from its best to its worst over all trials, costs on a logarithmic scale.

    Args:
        findings: With complete trials.
    """
    sweep = findings.study.sweep
    done = sorted(findings.complete, key=lambda row: row.number)
    raw = [
        [
            math.log10(max(row.values[n], 1e-9)) if n in COSTS else row.values[n]
            for n in sweep.objectives
        ]
        for row in done
    ]
    points = [losses(values, sweep.directions) for values in raw]
    lows = [min(column) for column in zip(*points)]
    spans = [max(column) - low or 1.0 for column, low in zip(zip(*points), lows)]
    points = [tuple((v - a) / s for v, a, s in zip(p, lows, spans)) for p in points]
    corner = (1.05,) * len(lows)
    step = max(1, len(done) // _VOLUMES)
    front: list[tuple[float, ...]] = []
    numbers, volumes = [], []
    for place, (row, point) in enumerate(zip(done, points)):
        if not any(dominates(other, point) or other == point for other in front):
            front = [other for other in front if not dominates(point, other)] + [point]
        if place % step == 0 or row is done[-1]:
            numbers.append(row.number)
            volumes.append(hypervolume(front, corner) / 1.05 ** len(lows))
    return numbers, volumes


# ------------------------------------------------------------------------------- settings


def short_name(name: str) -> str:
    """A parameter in few letters.

    Args:
        name: Of the study.

    Example:
        >>> short_name("model.tables.user.embedding_dim (log2)")
        'user.embedding_dim'
    """
    name = name.partition(" (")[0]
    for prefix in ("model.tables.", "model.", "train."):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def _importance(figure: Any, findings: Findings) -> None:
    """Bars by setting, a panel by objective."""
    scores = findings.importances
    total: dict[str, float] = {}
    for one in scores.values():
        for name, value in one.items():
            total[name] = total.get(name, 0.0) + value
    names = sorted(total, key=lambda name: (-total[name], name))[:_BARS]
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for number, (axes, (objective, values)) in enumerate(zip(panels, scores.items())):
        axes.set_title(f"Matters for {objective}")
        axes.barh([short_name(n) for n in names], [values.get(n, 0.0) for n in names],
                  color=(_BLUE, _ORANGE, "#3d8f5f", "#a3476b")[number % 4], height=0.7)  # fmt: skip
        axes.set_xlabel("importance, together 1")
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", labelsize=8.5, length=0)
    panels[0].invert_yaxis()
    more = len(total) - len(names)
    if more:
        panels[-1].annotate(f"{more} settings that matter less are left out", (1, 0.02), ha="right",
                            xycoords="axes fraction", fontsize=8, color=_GREY)  # fmt: skip


def _placed(findings: Findings) -> list[tuple[float, int, int]]:
    """Bytes of a trial, rows and width of a table, for all on the front."""
    rows_of = findings.study.space.tables
    return [
        (size, rows_of[table], width)
        for row in findings.front
        if (size := size_of(row))
        for table, width in widths_of(row).items()
        if rows_of.get(table)
    ]


def _widths(figure: Any, findings: Findings) -> None:
    """Width by table against its rows, for trials on the front.

    Dots of a table stand beside and a little above each other, small models first.
    """
    axes = figure.add_subplot()
    axes.set_title("Widths on the front")
    axes.set_xlabel("rows of the table")
    axes.set_ylabel("embedding_dim, small models lower")
    placed = _placed(findings)
    sizes = sorted({size for size, _, _ in placed})
    shifts = {size: (place + 0.5) / len(sizes) - 0.5 for place, size in enumerate(sizes)}
    x = [rows * 10 ** (0.05 * shifts[size]) for size, rows, _ in placed]
    y = [width * 2 ** (0.55 * shifts[size]) for size, _, width in placed]
    color = [math.log10(size) for size, _, _ in placed]
    axes.set_xscale("log")
    axes.set_yscale("log", base=2)
    dots = axes.scatter(x, y, c=color, s=24, cmap="viridis_r", linewidths=0.4,
                        edgecolors="white", zorder=3)  # fmt: skip
    levels = sorted({width for _, _, width in placed})
    if len(levels) <= 10:
        axes.set_yticks(levels, [str(level) for level in levels])
        axes.set_yticks([], minor=True)
    low, high = min(x) / 1.3, max(x) * 1.3
    axes.set_xlim(low, high)
    axes.set_ylim(levels[0] / 1.5, levels[-1] * 1.5)
    _round_ticks(axes.xaxis, low, high, lambda tick: f"{tick:,.0f}")
    bar = figure.colorbar(dots, ax=axes, label="bytes of the trial")
    ticks = [sizes[0], math.sqrt(sizes[0] * sizes[-1]), sizes[-1]]
    ticks = ticks if sizes[0] < sizes[-1] else ticks[:1]
    bar.set_ticks([math.log10(tick) for tick in ticks], labels=[size_text(tick) for tick in ticks])
