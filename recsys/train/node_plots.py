"""Pictures of a classifier of nodes: learning curve, and which classes are taken for which.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.evaluate.nodes import NodeEvaluation
from recsys.metrics.classification import confusion
from recsys.train import plots
from recsys.train.learning_curve import draw_learning_curve

_MOST_CLASSES = 30  # of which a table can be read


def draw_nodes(
    folder: Path, lines: Sequence[Mapping[str, Any]], evaluations: Sequence[NodeEvaluation]
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
    if draw_learning_curve(path, lines, ("accuracy", "macro_f1"), "validation"):
        found.append(path)
    for evaluation in evaluations:
        if len(evaluation.classes) <= _MOST_CLASSES:
            found.append(folder / f"confusion_{evaluation.name}.png")
            side = max(4.4, 1.6 + 0.5 * len(evaluation.classes))
            plots.draw(found[-1], lambda figure, e=evaluation: _confusion(figure, e), (side, side))
    return found


def _confusion(figure: Any, evaluation: NodeEvaluation) -> None:
    """Nodes by class (rows) and predicted class, shaded by their share of the class."""
    table = confusion(evaluation.labels, evaluation.predicted, len(evaluation.classes))
    shares = table / table.sum(1, keepdims=True).clip(min=1)
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.grid(visible=False)
    for row in range(len(table)):
        for column in range(len(table)):
            color = "white" if shares[row, column] > 0.6 else "black"
            axis.text(column, row, f"{table[row, column]:,}", ha="center", va="center",
                      color=color, fontsize=8)  # fmt: skip
    places = range(len(table))
    axis.set_xticks(places, evaluation.classes, rotation=45, ha="right", fontsize=8)
    axis.set_yticks(places, evaluation.classes, fontsize=8)
    axis.set(title=f"Classes of {evaluation.name}", xlabel="predicted", ylabel="true")
