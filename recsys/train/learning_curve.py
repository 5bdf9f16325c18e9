"""The picture of a training: its loss, and metrics of validation beside it.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.train import plots


def draw_learning_curve(
    path: Path, lines: Sequence[Mapping[str, Any]], metrics: Sequence[str], label: str
) -> bool:
    """Draws it where there is something to draw.

    Args:
        path: A PNG file.
        lines: Of ``metrics.jsonl``.
        metrics: Which of the validation metrics.
        label: Of their axis.
    """
    valid = [line for line in lines if line["kind"] == "valid"]
    train = [line for line in lines if line["kind"] == "train" and line.get("loss") is not None]
    if not valid and not train:
        return False
    plots.draw(path, lambda figure: _paint(figure, train, valid, metrics, label), (6.4, 4.4))
    return True


def _paint(
    figure: Any,
    train: Sequence[Mapping[str, Any]],
    valid: Sequence[Mapping[str, Any]],
    metrics: Sequence[str],
    label: str,
) -> None:
    left = figure.add_subplot()
    left.set(title="Learning curve", xlabel="step", ylabel="loss of training")
    left.plot([line["step"] for line in train], [line["loss"] for line in train],
              color="#8a8f98", alpha=0.7, linewidth=1.2, label="train loss")  # fmt: skip
    handles, names = left.get_legend_handles_labels()
    if valid:
        right = left.twinx()
        right.grid(visible=False)
        right.spines["right"].set_visible(True)
        right.set_ylabel(label)
        for number, name in enumerate(metrics):
            right.plot([line["step"] for line in valid], [line.get(name) for line in valid],
                       color=plots.color(number), marker="o" if len(valid) < 60 else None,
                       markersize=4, label=f"valid {name}")  # fmt: skip
        more = right.get_legend_handles_labels()
        handles, names = handles + more[0], names + more[1]
    left.set_xlim(left=0)
    figure.legend(handles, names, loc="outside lower center", ncols=3)
