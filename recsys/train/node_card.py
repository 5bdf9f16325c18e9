"""MODEL_CARD.md of a classifier of nodes: what it is, how good, how to use it.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.evaluate.nodes import NodeEvaluation
from recsys.graph.labelled_nodes import LabelledNodes
from recsys.node_config import NodeExperiment
from recsys.train.model_card import environment_section, pictures_section, table
from recsys.train.seed_result import SeedResult


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class NodeCard:
    """What a card tells.

    Args:
        experiment: The resolved configuration.
        nodes: The data.
        evaluations: By split.
        result: Of the training.
        step: Of the weights.
        environment: From `recsys.train.environment`.
        pictures: PNG files beside the card.
    """

    experiment: NodeExperiment
    nodes: LabelledNodes
    evaluations: Sequence[NodeEvaluation]
    result: SeedResult
    step: int
    environment: Mapping[str, Any]
    pictures: Sequence[Path]


def write_node_card(directory: Path, card: NodeCard) -> Path:
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
        f"{model} that tells the class of `{card.nodes.target}` nodes of one graph.\n\n"
        + "\n".join(f"- {name}: {text}" for name, text in facts.items()),
        _USE,
        _data(card.nodes),
        *(_metrics(found) for found in card.evaluations),
        pictures_section(directory, card.pictures),
        f"## Size\n\nParameters: {counts}.",
        environment_section(card.environment),
    ]
    path = directory / "MODEL_CARD.md"
    path.write_text("\n\n".join(part for part in sections if part) + "\n")
    return path


_USE = """## Use

Intended: classes of nodes of this very graph, of which some are known. Not intended: another graph,
or nodes that were added later; decisions about persons that have legal or similar effect.

```python
from recsys.serving.classifier_folder import load_classifier

model = load_classifier("model", nodes)      # the folder beside this file, and the same graph
model.probabilities()                        # of all classes, for every node
```"""


def _data(nodes: LabelledNodes) -> str:
    rows = [[name, f"{count:,}"] for name, count in nodes.counts.items()]
    edges = [[" ".join(name), f"{ends.shape[1]:,}"] for name, ends in nodes.edges.items()]
    splits = [[name, f"{len(split):,}"] for name, split in nodes.splits.items()]
    return "\n\n".join([
        f"## Data\n\nFingerprint: `{nodes.fingerprint()}`.",
        table(["nodes", "number"], rows),
        table(["edges", "number"], edges),
        table([f"split of `{nodes.target}`", "nodes"], splits),
    ])  # fmt: skip


def _metrics(found: NodeEvaluation) -> str:
    rows = []
    for name, value in found.metrics.items():
        interval = found.intervals.get(name)
        text = "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"
        rows.append([name.replace("_", " "), f"{value:.4f}", text])
    classes = [[name, f"{count:,}", *(f"{value:.4f}" for value in values)]
               for name, count, *values in found.rows()]  # fmt: skip
    note = "Intervals: bootstrap over nodes; they do not cover the choice of seed or split."
    parts = [
        f"## Metrics on {found.name} ({len(found.nodes):,} nodes)",
        table(["metric", "value", "95 % interval"], rows),
        *([note] if found.intervals else []),
        table(["class", "nodes", "precision", "recall", "F1"], classes),
    ]
    return "\n\n".join(parts)
