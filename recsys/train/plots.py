"""Pictures of a run: learning curve, ROC, precision-recall, reliability, score histogram.

matplotlib is optional; `available` says whether it is there.

Stability: internal
"""

from __future__ import annotations

import colorsys
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsys.evaluate.evaluation import Evaluation
from recsys.metrics.curve import ranking_curve
from recsys.metrics.ece import reliability
from recsys.metrics.inputs import BinaryInputs, binary_inputs
from recsys.metrics.report import BinaryReport

_COLORS = ("#2563a8", "#d1782a", "#3d8f5f", "#a3476b", "#6b5ca5")
_GREY = "#8a8f98"
_Judged = tuple[str, BinaryReport, BinaryInputs]
_SQUARE = ("roc.png", "reliability.png")
_STYLE = {
    "figure.figsize": (6.4, 4.4),
    "figure.dpi": 120,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#b8bcc4",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.labelcolor": "#3c4048",
    "xtick.color": "#3c4048",
    "ytick.color": "#3c4048",
    "grid.color": "#e6e8ec",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "font.size": 10,
}


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_all(
    folder: Path, lines: Sequence[Mapping[str, Any]], evaluations: Sequence[Evaluation]
) -> list[Path]:
    """Draws everything there is data for.

    Args:
        folder: Made if it is missing.
        lines: Of ``metrics.jsonl``.
        evaluations: Of the final model, by split.

    Returns:
        The PNG files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    matplotlib = importlib.import_module("matplotlib")
    figures = importlib.import_module("matplotlib.figure")
    pictures = {}
    if lines:
        pictures["learning_curve.png"] = lambda figure: _learning_curve(figure, lines)
    judged = _both_classes(evaluations)
    for name, draw in (
        ("roc.png", _roc),
        ("pr.png", _precision_recall),
        ("reliability.png", _reliability),
        ("score_histogram.png", _histogram),
    ):
        if judged:
            pictures[name] = lambda figure, draw=draw: draw(figure, judged)
    paths = []
    with matplotlib.rc_context(_STYLE):
        for name, draw in pictures.items():
            size = (5.4, 5.4) if name in _SQUARE else None
            # No pyplot: no window and no global state.
            figure = figures.Figure(figsize=size, layout="constrained")
            draw(figure)
            figure.savefig(folder / name)
            paths.append(folder / name)
    return paths


def draw(path: Path, painter: Callable[[Any], None], size: tuple[float, float]) -> None:
    """Draws one picture in the house's style.

    Args:
        path: PNG to write.
        painter: Draws on an empty figure.
        size: Width and height in inches.
    """
    matplotlib = importlib.import_module("matplotlib")
    figures = importlib.import_module("matplotlib.figure")
    with matplotlib.rc_context(_STYLE):
        figure = figures.Figure(figsize=size, layout="constrained")
        painter(figure)
        figure.savefig(path)


def color(number: int) -> tuple[float, float, float]:
    """The colour of one of many lines; neighbours differ.

    Args:
        number: From 0.
    """
    hue = number * 0.618034 % 1.0
    return colorsys.hsv_to_rgb(hue, 0.72, (0.72, 0.55, 0.85)[number % 3])


def _learning_curve(figure: Any, lines: Sequence[Mapping[str, Any]]) -> None:
    train = [line for line in lines if line["kind"] == "train" and line.get("loss") is not None]
    valid = [line for line in lines if line["kind"] == "valid"]
    left = figure.add_subplot()
    left.set_title("Learning curve")
    left.set_xlabel("step")
    left.set_ylabel("logloss")
    steps = [line["step"] for line in train]
    left.plot(steps, [line["loss"] for line in train], color=_GREY, alpha=0.6, linewidth=1.2,
              label="train loss")  # fmt: skip
    marks = {"marker": "o", "markersize": 4.5}
    known = [line for line in valid if line.get("logloss") is not None]
    left.plot([line["step"] for line in known], [line["logloss"] for line in known],
              color=_COLORS[0], label="valid logloss", **marks)  # fmt: skip
    handles, names = left.get_legend_handles_labels()
    ranked = [line for line in valid if line.get("auc") is not None]
    if ranked:
        right = left.twinx()
        right.grid(visible=False)
        right.spines["right"].set_visible(True)
        right.set_ylabel("AUC")
        right.plot([line["step"] for line in ranked], [line["auc"] for line in ranked],
                   color=_COLORS[1], label="valid AUC", **marks)  # fmt: skip
        more = right.get_legend_handles_labels()
        handles, names = handles + more[0], names + more[1]
    left.set_xlim(left=0)
    figure.legend(handles, names, loc="outside lower center", ncols=3)


def _roc(figure: Any, judged: Sequence[_Judged]) -> None:
    axes = figure.add_subplot()
    axes.set_title("ROC")
    axes.set_xlabel("share of negatives above the threshold")
    axes.set_ylabel("share of positives above the threshold")
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--")
    for color, (title, report, inputs) in zip(_COLORS, judged):
        curve = ranking_curve(inputs)
        x = np.concatenate([[0], curve.false_positives / curve.false_positives[-1]])
        y = np.concatenate([[0], curve.true_positives / curve.true_positives[-1]])
        axes.plot(*_thin(x, y), color=color, label=f"{title}  AUC {report['auc']:.4f}")
    axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    axes.legend(loc="lower right")


def _precision_recall(figure: Any, judged: Sequence[_Judged]) -> None:
    axes = figure.add_subplot()
    axes.set_title("Precision and recall")
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    for color, (title, report, inputs) in zip(_COLORS, judged):
        curve = ranking_curve(inputs)
        precision = curve.true_positives / (curve.true_positives + curve.false_positives)
        recall = curve.true_positives / curve.true_positives[-1]
        # The first points are the precision of a handful of rows: noise that hides the curve.
        shown = recall >= min(0.002, recall[-1])
        axes.plot(*_thin(recall[shown], precision[shown]), color=color,
                  label=f"{title}  average precision {report['pr_auc']:.4f}")  # fmt: skip
        axes.axhline(report.rate, color=color, linewidth=1, linestyle="--", alpha=0.6)
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(loc="upper right", title="dashed: base rate", alignment="right")


def _reliability(figure: Any, judged: Sequence[_Judged]) -> None:
    axes = figure.add_subplot()
    axes.set_title("Reliability")
    axes.set_xlabel("predicted rate")
    axes.set_ylabel("observed rate")
    highest = 0.0
    for color, (title, report, inputs) in zip(_COLORS, judged):
        bins = reliability(inputs.labels, inputs.scores, inputs.weights)
        spread = np.sqrt(np.maximum(bins.observed * (1 - bins.observed), 1e-12) / bins.weights)
        axes.errorbar(bins.predicted, bins.observed, yerr=1.96 * spread, color=color, marker="o",
                      markersize=4.5, elinewidth=1, capsize=2, linewidth=1.4,
                      label=f"{title}  ECE {report['ece']:.4f}")  # fmt: skip
        highest = max(highest, float(bins.predicted.max()), float(bins.observed.max()))
    highest = min(1.0, highest * 1.08) or 1.0
    axes.plot([0, highest], [0, highest], color=_GREY, linewidth=1, linestyle="--")
    axes.set(xlim=(0, highest), ylim=(0, highest), aspect="equal")
    axes.legend(loc="upper left", title="20 bins of equal weight, 95 % bars", alignment="left")


def _histogram(figure: Any, judged: Sequence[_Judged]) -> None:
    axes = figure.add_subplot()
    axes.set_title("Predicted probabilities")
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("density within the class")
    for title, _, inputs in judged[-1:]:
        edges = np.linspace(0, max(float(np.quantile(inputs.scores, 0.999)), 1e-6), 51)
        for value, name, color in ((0, "label 0", _COLORS[0]), (1, "label 1", _COLORS[1])):
            kept = inputs.labels == value
            axes.hist(inputs.scores[kept], bins=edges, weights=inputs.weights[kept], density=True,
                      color=color, alpha=0.55, label=name)  # fmt: skip
        axes.legend(loc="upper right", title=title, alignment="right")
        axes.set_xlim(0, edges[-1])


def _both_classes(evaluations: Sequence[Evaluation]) -> list[_Judged]:
    """(title, report, checked rows) of every split and task with both classes."""
    found: list[_Judged] = []
    for evaluation in evaluations:
        probabilities = evaluation.predictions.probabilities
        for column, (task, report) in enumerate(evaluation.reports.items()):
            inputs = binary_inputs(
                evaluation.predictions.labels[:, column],
                probabilities[:, column],
                evaluation.predictions.weights,
            )
            title = evaluation.name if len(evaluation.reports) == 1 else f"{evaluation.name} {task}"
            if not inputs.one_class:
                found.append((title, report, inputs))
    return found


def _thin(x: np.ndarray, y: np.ndarray, points: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points, ends included: a picture has no room for more."""
    if len(x) <= points:
        return x, y
    kept = np.unique(np.linspace(0, len(x) - 1, points).astype(np.int64))
    return x[kept], y[kept]
