"""Judges a classifier of nodes on a split of its graph.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from recsys.errors import DataError, TrainingError
from recsys.evaluate.summary import text_table
from recsys.metrics.bootstrap import Interval
from recsys.metrics.classification import (
    class_scores,
    classification_intervals,
    classification_metrics,
    confusion,
)
from recsys.node_model import NodeClassifier

_TINY = 1e-12


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class NodeEvaluation:
    """What a classifier is worth on a split.

    Args:
        name: Of the split.
        classes: Names of the classes.
        nodes: The nodes that were judged.
        labels: Their classes.
        probabilities: Of every class for each of them.
        metrics: ``accuracy``, ``macro_f1``, ``micro_f1`` and ``logloss``.
        intervals: 95 % intervals by a bootstrap over nodes; empty where none was asked for.

    Shape:
        - nodes, labels: (n,) int64
        - probabilities: (n, C)
    """

    name: str
    classes: tuple[str, ...]
    nodes: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    metrics: dict[str, float]
    intervals: Mapping[str, Interval]

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each node, (n,)."""
        return self.probabilities.argmax(1)

    def rows(self) -> list[tuple[Any, ...]]:
        """For each class its name, nodes, precision, recall and F1."""
        table = confusion(self.labels, self.predicted, len(self.classes))
        scores = class_scores(table)
        counts = table.sum(1)
        return [
            (name, int(counts[number]), *(float(scores[key][number]) for key in scores))
            for number, name in enumerate(self.classes)
        ]

    def table(self) -> str:
        """The classes as text."""
        return text_table(["class", "nodes", "precision", "recall", "F1"], self.rows())

    def to_json(self) -> dict[str, Any]:
        """Metrics and classes as JSON values."""
        columns = ("class", "nodes", "precision", "recall", "f1")
        return {
            "split": self.name,
            "nodes": len(self.nodes),
            "metrics": self.metrics,
            "intervals": {n: [found.low, found.high] for n, found in self.intervals.items()},
            "classes": [
                {key: None if value != value else value for key, value in zip(columns, row)}
                for row in self.rows()
            ],
        }


def evaluate_nodes(
    model: NodeClassifier, split: str, bootstrap_samples: int = 0, seed: int = 0
) -> NodeEvaluation:
    """Judges a model on a split of its graph, over the whole graph.

    Args:
        model: Left in the mode it is in.
        split: ``train``, ``valid`` or ``test``.
        bootstrap_samples: For intervals; 0 leaves them out.
        seed: Of their draws.

    Raises:
        DataError: There is no such split, or it is empty.
        TrainingError: A probability is not finite.
    """
    nodes = model.nodes.splits.get(split)
    if nodes is None or not len(nodes):
        raise DataError(
            f"the data has no {split} split, only {list(model.nodes.splits)}: nothing to judge on."
        )
    probabilities = model.probabilities().numpy()[nodes]
    if not np.isfinite(probabilities).all():
        raise TrainingError("a prediction is NaN or infinite. Lower the learning rate.")
    labels = model.nodes.labels[nodes]
    table = confusion(labels, probabilities.argmax(1), model.num_classes)
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    logloss = float(-np.log(np.maximum(of_label, _TINY)).mean())
    metrics = {**classification_metrics(table), "logloss": logloss}
    intervals: dict[str, Interval] = {}
    if bootstrap_samples:
        intervals = classification_intervals(table, bootstrap_samples, seed=seed)
    return NodeEvaluation(
        split, model.nodes.classes, nodes, labels, probabilities, metrics, intervals
    )
