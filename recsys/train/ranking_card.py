"""MODEL_CARD.md of a collaborative filter: what it is, how good, for whom, how to use it.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.cf_config import CFExperiment
from recsys.evaluate.ranking import RankingEvaluation
from recsys.graph.interactions import InteractionSplits
from recsys.train.model_card import environment_section, pictures_section, table
from recsys.train.seed_result import SeedResult

_COLUMNS = ("recall", "ndcg", "hr", "mrr", "map", "coverage", "novelty")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RankingCard:
    """What a card tells.

    Args:
        experiment: The resolved configuration.
        splits: The data.
        evaluations: By split.
        result: Of the training.
        step: Of the weights.
        environment: From `recsys.train.environment`.
        pictures: PNG files beside the card.
    """

    experiment: CFExperiment
    splits: InteractionSplits
    evaluations: Mapping[str, RankingEvaluation]
    result: SeedResult
    step: int
    environment: Mapping[str, Any]
    pictures: Sequence[Path]


def write_ranking_card(directory: Path, card: RankingCard) -> Path:
    """Writes ``MODEL_CARD.md``.

    Args:
        directory: The run folder.
        card: What to tell.
    """
    experiment = card.experiment
    model = experiment.model.class_path.rpartition(".")[2]
    fit = card.result.fit
    trained = f"fitted in closed form in {fit.seconds:.1f} s"
    if fit.steps:
        trained = (
            f"{fit.steps:,} steps of {experiment.train.batch_size:,} pairs, {fit.seconds:,.0f} s "
            f"without evaluation, {fit.stopped}; the weights are those of step {card.step:,}"
        )
    facts = {
        "model": f"`{experiment.model.class_path}`",
        "data set": f"`{experiment.dataset.class_path}`",
        "seed": str(card.result.seed),
        "training": trained,
    }
    sections = [
        f"# {experiment.name or model}",
        f"{model} that ranks items for users by what they did.\n\n"
        + "\n".join(f"- {name}: {text}" for name, text in facts.items()),
        _use(),
        _data(card.splits),
        *(_metrics(name, found) for name, found in card.evaluations.items()),
        _size(card.result),
        pictures_section(directory, card.pictures),
        environment_section(card.environment),
    ]
    path = directory / "MODEL_CARD.md"
    path.write_text("\n\n".join(section for section in sections if section) + "\n")
    return path


def _use() -> str:
    return """## Use

Intended: lists of items that a user has not had yet, for users like those of the training data.
Not intended: decisions about persons that have legal or similar effect; items that nobody has had
(see the slices below).

```python
from recsys.serving.recommender import Recommender

recommender = Recommender.load("model")      # the folder beside this file
recommender.recommend(["a user's id"], k=10)
```"""


def _data(splits: InteractionSplits) -> str:
    train = splits.train
    rows = [
        [name, f"{len(part):,}", f"{int((part.user_degrees() > 0).sum()):,}",
         f"{int((part.item_degrees() > 0).sum()):,}"]
        for name, part in splits.items()
    ]  # fmt: skip
    notes = "".join(
        f"\n- {name.replace('_', ' ')}: {count:,}" for name, count in splits.report.items() if count
    )
    return (
        f"## Data\n\n{train.num_users:,} users and {train.num_items:,} items.\n\n"
        + table(["split", "interactions", "users", "items"], rows)
        + (f"\n\nCounted in cleaning and splitting:\n{notes}" if notes else "")
    )


def _metrics(name: str, found: RankingEvaluation) -> str:
    cuts = sorted({int(metric.partition("@")[2]) for metric in found.metrics})
    rows = []
    for metric in _COLUMNS:
        for k in cuts:
            full = f"{metric}@{k}"
            if full not in found.metrics:
                continue
            interval = found.intervals.get(full)
            text = "" if interval is None else f"{interval.low:.5f} to {interval.high:.5f}"
            rows.append([full, f"{found.metrics[full]:.5f}", text])
    parts = [
        f"## Metrics on {name} ({found.counts['users']:,} users, {found.per_user.protocol})",
        table(["metric", "value", "95 % interval"], rows),
    ]
    if found.intervals:
        parts.append(
            "Intervals: bootstrap over users; they do not cover the choice of seed or split."
        )
    shown = [f"{metric}@{cuts[-1]}" for metric in ("recall", "ndcg", "hr")]
    for title, lines in found.slices.items():
        cells = [
            [line.value, f"{line.users:,}", f"{line.pairs:,}",
             *(f"{line.metrics[metric]:.4f}" for metric in shown)]
            for line in lines
        ]  # fmt: skip
        parts.append(f"### By {title}\n\n" + table(["", "users", "pairs", *shown], cells))
    return "\n\n".join(parts)


def _size(result: SeedResult) -> str:
    rows = [[name, f"{size:,}"] for name, size in result.table_bytes.items()]
    parameters = ", ".join(f"{count:,} {name}" for name, count in result.num_parameters.items())
    return f"## Size\n\nParameters: {parameters}.\n\n" + table(["tables", "bytes"], rows)
