"""Pictures of a collaborative filter: learning curve, quality by activity and by popularity.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.evaluate.ranking import RankingEvaluation
from recsys.train import plots
from recsys.train.learning_curve import draw_learning_curve

_SHOWN = ("recall", "ndcg")


def draw_ranking(
    folder: Path,
    lines: Sequence[Mapping[str, Any]],
    evaluations: Mapping[str, RankingEvaluation],
) -> list[Path]:
    """Draws everything there is data for; nothing without matplotlib.

    Args:
        folder: Made if it is missing.
        lines: Of ``metrics.jsonl``.
        evaluations: Of the final model, by split.

    Returns:
        The PNG files.
    """
    if not plots.available():
        return []
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Path] = []
    cuts = [int(name.partition("@")[2]) for line in lines for name in line if "@" in name]
    k = max(cuts, default=0)
    path = folder / "learning_curve.png"
    if draw_learning_curve(path, lines, [f"{m}@{k}" for m in _SHOWN], f"validation, at {k}"):
        found.append(path)
    for name, evaluation in evaluations.items():
        if evaluation.slices:
            found.append(folder / f"slices_{name}.png")
            plots.draw(found[-1], lambda figure, e=evaluation: _slices(figure, e), (8.8, 4.0))
    return found


def _slices(figure: Any, evaluation: RankingEvaluation) -> None:
    axes = figure.subplots(1, len(evaluation.slices), squeeze=False)[0]
    for axis, (title, rows) in zip(axes, evaluation.slices.items(), strict=True):
        name = max(
            (n for n in rows[0].metrics if n.startswith("recall@")),
            key=lambda n: int(n.partition("@")[2]),
        )
        shown = [row for row in rows if row.pairs]
        places = range(len(shown))
        axis.bar(places, [row.metrics[name] for row in shown], color=plots.color(0), width=0.7)
        axis.set_xticks(list(places), [f"{row.value}\n{row.pairs:,}" for row in shown], fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.set_ylabel(name)
        axis.grid(visible=False, axis="x")
