"""Pictures of a collaborative filter: learning curve, quality by activity and by popularity.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.evaluate.ranking import RankingEvaluation
from recsys.train import plots

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
    valid = [line for line in lines if line["kind"] == "valid"]
    train = [line for line in lines if line["kind"] == "train" and line.get("loss") is not None]
    if valid or train:
        found.append(folder / "learning_curve.png")
        plots.draw(found[-1], lambda figure: _learning_curve(figure, train, valid), (6.4, 4.4))
    for name, evaluation in evaluations.items():
        if evaluation.slices:
            found.append(folder / f"slices_{name}.png")
            plots.draw(found[-1], lambda figure, e=evaluation: _slices(figure, e), (8.8, 4.0))
    return found


def _learning_curve(
    figure: Any, train: Sequence[Mapping[str, Any]], valid: Sequence[Mapping[str, Any]]
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
        cuts = [int(name.partition("@")[2]) for name in valid[0] if "@" in name]
        right.set_ylabel(f"validation, at {max(cuts)}")
        for number, metric in enumerate(_SHOWN):
            name = f"{metric}@{max(cuts)}"
            right.plot([line["step"] for line in valid], [line.get(name) for line in valid],
                       color=plots.color(number), marker="o", markersize=4,
                       label=f"valid {name}")  # fmt: skip
        more = right.get_legend_handles_labels()
        handles, names = handles + more[0], names + more[1]
    left.set_xlim(left=0)
    figure.legend(handles, names, loc="outside lower center", ncols=3)


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
