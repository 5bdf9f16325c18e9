"""MODEL_CARD.md of a model of aspects: what it is, how good, how to use it.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.aspect_config import AspectExperiment
from recsys.evaluate.aspects import AspectEvaluation
from recsys.graph.aspects import SPLITS, AspectTable
from recsys.train.model_card import environment_section, pictures_section, table
from recsys.train.seed_result import SeedResult


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class AspectCard:
    """What a card tells.

    Args:
        experiment: The resolved configuration.
        items: The data.
        evaluations: By split.
        result: Of the training.
        step: Of the weights.
        environment: From `recsys.train.environment`.
        pictures: PNG files beside the card.
    """

    experiment: AspectExperiment
    items: AspectTable
    evaluations: Sequence[AspectEvaluation]
    result: SeedResult
    step: int
    environment: Mapping[str, Any]
    pictures: Sequence[Path]


def write_aspect_card(directory: Path, card: AspectCard) -> Path:
    """Writes ``MODEL_CARD.md``.

    Args:
        directory: The run folder.
        card: What to tell.
    """
    experiment, fit = card.experiment, card.result.fit
    model = experiment.model.class_path.rpartition(".")[2]
    facts = {
        "model": f"`{experiment.model.class_path}`",
        "data set": f"`{experiment.dataset.class_path}`",
        "seed": str(card.result.seed),
        "training": f"{fit.steps:,} steps, {fit.seconds:,.0f} s without evaluation, {fit.stopped}; "
        f"the weights are those of step {card.step:,}",
    }
    counts = ", ".join(f"{count:,} {name}" for name, count in card.result.num_parameters.items())
    sections = [
        f"# {experiment.name or model}",
        f"{model} that gives items a vector for each of {len(card.items.aspects)} aspects: "
        + ", ".join(card.items.aspects)
        + ".\n\n"
        + "\n".join(f"- {name}: {text}" for name, text in facts.items()),
        _USE.replace("ASPECT", repr(card.items.aspects[0])),
        _data(card.items),
        *(_metrics(found) for found in card.evaluations),
        pictures_section(directory, card.pictures),
        f"## Size\n\nParameters: {counts}.",
        environment_section(card.environment),
    ]
    path = directory / "MODEL_CARD.md"
    path.write_text("\n\n".join(part for part in sections if part) + "\n")
    return path


_USE = """## Use

Intended: finding items that are alike in one respect, of the kind it was trained on. Not intended:
saying what label an item has; respects that it was not trained on. The folder holds the texts of
all items.

```python
from recsys.retrieval.index import Index
from recsys.serving.aspect_folder import aspect_vectors, load_aspects

model = load_aspects("model")                      # the folder beside this file
found = aspect_vectors(model, ASPECT)
index = Index(found.values, found.ids)
index.search(model.vectors_of(ASPECT, ["a text"]).numpy(), k=10)
```"""


def _data(items: AspectTable) -> str:
    splits = [[name, f"{len(items.members(name)):,}"] for name in SPLITS]
    rows = []
    for aspect in items.aspects:
        item, label = items.labels_in(aspect)
        rows.append([aspect, f"{len(set(label.tolist())):,}", f"{len(set(item.tolist())):,}"])
    left = [[name.replace("_", " "), f"{count:,}"] for name, count in items.report.items() if count]
    return "\n\n".join([
        "## Data",
        table(["split", "items"], splits),
        table(["aspect", "labels", "items with one"], rows),
        *([table(["what was found", "number"], left)] if left else []),
    ])  # fmt: skip


def _metrics(found: AspectEvaluation) -> str:
    names = [f"{name}@{found.k}" for name in ("precision", "recall", "mrr", "map")]
    rows = []
    for aspect in found.aspects:
        interval = found.intervals.get(f"{aspect}.map@{found.k}")
        text = "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"
        cells = [f"{found.metrics[f'{aspect}.{name}']:.4f}" for name in names]
        rows.append([aspect, f"{found.queries[aspect]:,}", *cells, text])
    leaks = [[name, *(f"{value:.4f}" for value in row)]
             for name, row in zip(found.rows, found.leakage)]  # fmt: skip
    return "\n\n".join([
        f"## Metrics on {found.name}",
        table(["aspect", "queries", *names, f"map@{found.k}, 95 % interval"], rows),
        "Intervals: bootstrap over items; they do not cover the choice of seed or split. Below: "
        f"map@{found.k} of the vectors of an aspect by the labels of an aspect; `generic` are the "
        "features without training.",
        table(["vectors of", *(f"by {aspect}" for aspect in found.aspects)], leaks),
    ])  # fmt: skip
