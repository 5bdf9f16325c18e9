"""One seed of a classifier of nodes: build, train, judge, save.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recsys.embeddings.backend import Backend
from recsys.errors import ConfigError
from recsys.evaluate.nodes import NodeEvaluation, evaluate_nodes
from recsys.folders import whole_file
from recsys.graph.labelled_nodes import LabelledNodes
from recsys.graph.node_batches import NodeLoader
from recsys.node_config import NodeExperiment
from recsys.node_model import NodeClassifier
from recsys.serving.classifier_folder import save_classifier
from recsys.train.graph_job import GraphJob, Trained
from recsys.train.node_card import NodeCard
from recsys.train.node_plots import draw_nodes
from recsys.train.node_task import NodeTask
from recsys.train.ranks import Ranks
from recsys.train.state import seed_everything


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NodeJob(GraphJob[LabelledNodes, NodeClassifier, NodeEvaluation]):
    """See `GraphJob`; in one process.

    Raises:
        ConfigError: On `run`, there are several ranks.
    """

    experiment: NodeExperiment

    def _data(self, ranks: Ranks) -> LabelledNodes:
        if ranks.world_size > 1:
            raise ConfigError(
                f"a classifier of nodes is trained in one process, got {ranks.world_size} ranks. "
                "Leave --ranks, torchrun and --ray out."
            )
        nodes = self.experiment.dataset.build().nodes(self.cache_dir)
        counts = ", ".join(f"{count:,} {name}" for name, count in nodes.counts.items())
        parts = ", ".join(f"{name} {len(split):,}" for name, split in nodes.splits.items())
        text = f"{counts}, {nodes.num_edges:,} edges; {len(nodes.classes)} classes; {parts}"
        self._say_data(text, nodes.report)
        return nodes

    def _model(self, data: LabelledNodes) -> NodeClassifier:
        return self.experiment.model.build(data)

    def _train(
        self, model: NodeClassifier, data: LabelledNodes, backend: Backend, ranks: Ranks
    ) -> Trained:
        train, tables = self.experiment.train, self._attach(model, backend)
        seed_everything(self.seed * 1_000_003 % 2**32)
        chosen = data.splits["train"]
        loader = NodeLoader(
            torch.from_numpy(chosen), torch.from_numpy(data.labels[chosen]), train.batch_size,
            None if train.fanouts is None else model.sampler(train.fanouts), self.seed, self.device,
        )  # fmt: skip
        valid = "valid" if len(data.splits.get("valid", ())) else None
        return self._descend(NodeTask(model, train, tables), tables, loader, valid, ranks)

    def _judge(
        self, model: NodeClassifier, data: LabelledNodes, ranks: Ranks
    ) -> dict[str, NodeEvaluation]:
        samples = self.experiment.evaluation.bootstrap_samples
        return {
            name: evaluate_nodes(model, name, samples)
            for name in ("valid", "test")
            if len(data.splits.get(name, ()))
        }

    def _save(
        self, folder: Path, model: NodeClassifier, data: LabelledNodes,
        metadata: Mapping[str, Any], trained: Trained,
    ) -> None:  # fmt: skip
        save_classifier(folder, model, metadata)

    def _report(
        self, data: LabelledNodes, found: Mapping[str, NodeEvaluation],
        lines: Sequence[Mapping[str, Any]],
    ) -> tuple[Sequence[Path], type[NodeCard]]:  # fmt: skip
        evaluations = list(found.values())
        save_classes(self.directory / "predictions.parquet", data, evaluations)
        return draw_nodes(self.directory / "plots", lines, evaluations), NodeCard


def save_classes(path: Path, nodes: LabelledNodes, evaluations: Sequence[NodeEvaluation]) -> None:
    """Columns ``split``, ``id``, ``label``, ``predicted`` and ``probability`` (of the predicted).

    Args:
        path: A Parquet file; replaced as a whole.
        nodes: Have the ids.
        evaluations: By split.
    """
    ids, names = nodes.names(nodes.target), np.array(nodes.classes)
    tables = [
        pa.table({
            "split": pa.array([found.name] * len(found.nodes), pa.string()),
            "id": ids[found.nodes],
            "label": names[found.labels],
            "predicted": names[found.predicted],
            "probability": found.probabilities.max(1),
        })
        for found in evaluations
    ]  # fmt: skip
    if tables:
        with whole_file(path) as draft:
            pq.write_table(pa.concat_tables(tables), draft)
