"""Pictures of a model of aspects: learning curve, and the leakage matrix of every split.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsys.evaluate.aspects import AspectEvaluation
from recsys.train import plots
from recsys.train.learning_curve import draw_learning_curve


def draw_aspects(
    folder: Path, lines: Sequence[Mapping[str, Any]], evaluations: Sequence[AspectEvaluation]
) -> list[Path]:
    """Draws everything there is data for; nothing without matplotlib.

    Args:
        folder: Made if it is missing.
        lines: Of ``metrics.jsonl``.
        evaluations: Of the final model.

    Returns:
        The PNG files.
    """
    if not plots.available():
        return []
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Path] = []
    path = folder / "learning_curve.png"
    k = evaluations[0].k if evaluations else 10
    if draw_learning_curve(path, lines, (f"map@{k}", f"off_aspect.map@{k}"), "validation"):
        found.append(path)
    for evaluation in evaluations:
        found.append(folder / f"leakage_{evaluation.name}.png")
        size = 2.6 + 0.9 * len(evaluation.aspects), 1.9 + 0.6 * len(evaluation.rows)
        plots.draw(
            found[-1], lambda figure, e=evaluation: leakage_table(figure.subplots(), e), size
        )
    return found


def leakage_table(axis: Any, evaluation: AspectEvaluation) -> None:
    """MAP of vectors of an aspect (rows) judged by labels of an aspect (columns).

    Args:
        axis: Empty.
        evaluation: With the matrix.
    """
    table = evaluation.leakage
    highest = max(float(np.nanmax(table)), 1e-9)
    axis.imshow(table, cmap="Blues", vmin=0, vmax=highest)
    axis.grid(visible=False)
    for row in range(len(table)):
        for column in range(table.shape[1]):
            value = float(table[row, column])
            text = "-" if np.isnan(value) else f"{value:.2f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=9,
                      color="white" if value > 0.6 * highest else "black",
                      fontweight="bold" if row == column else "normal")  # fmt: skip
    axis.set_xticks(range(table.shape[1]), evaluation.aspects, rotation=30, ha="right")
    axis.set_yticks(range(len(table)), evaluation.rows)
    axis.set(title=f"MAP@{evaluation.k} on {evaluation.name}", xlabel="judged by labels of",
             ylabel="vectors of")  # fmt: skip
