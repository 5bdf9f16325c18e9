"""One seed of a classifier of nodes: build, train, judge, save.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from recsys.embeddings.backend import resolve_backend
from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.errors import ConfigError
from recsys.evaluate.evaluation import without_nan
from recsys.evaluate.nodes import NodeEvaluation, evaluate_nodes
from recsys.folders import whole_file, write_json
from recsys.graph.labelled_nodes import LabelledNodes
from recsys.graph.node_batches import NodeLoader
from recsys.node_config import NodeExperiment
from recsys.node_model import NodeClassifier
from recsys.serving.classifier_folder import save_classifier
from recsys.train.backend import attach_tables
from recsys.train.display import Show
from recsys.train.environment import environment
from recsys.train.job import SeedResult, goal_of, num_parameters, table_bytes
from recsys.train.node_card import NodeCard, write_node_card
from recsys.train.node_plots import draw_nodes
from recsys.train.node_task import NodeTask
from recsys.train.ranking_job import check_phases
from recsys.train.ranks import Ranks
from recsys.train.state import seed_everything
from recsys.train.storage import Place
from recsys.train.tracking import read_metrics
from recsys.train.trainer import FitResult, Trainer


@dataclasses.dataclass(frozen=True, slots=True)
class NodeJob:
    """What to do for one seed.

    Args:
        experiment: What to train.
        cache_dir: Where data is fetched to.
        seed: Of this job.
        directory: Its folder.
        resume: Go on from the last checkpoint if there is one.
        show: How to show progress.
        device: ``cpu`` or ``cuda``.
        on_evaluation: Called with the step and the validation metrics.
        storage: Where checkpoints lie instead.
        report: Whether there are predictions and a model card beside the model.
    """

    experiment: NodeExperiment
    cache_dir: Path
    seed: int
    directory: Path
    resume: bool
    show: Show
    device: str
    on_evaluation: Callable[[int, Mapping[str, float]], None] | None = None
    storage: Place | None = None
    report: bool = True

    def run(self) -> SeedResult:
        """Trains, takes the best weights, judges and saves them.

        Raises:
            ConfigError: There are several ranks.
            RecsysError: Data is bad, or training went wrong.
        """
        ranks = Ranks.current()
        if ranks.world_size > 1:
            raise ConfigError(
                f"a classifier of nodes is trained in one process, got {ranks.world_size} ranks. "
                "Leave --ranks, torchrun and --ray out."
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "result.json").unlink(missing_ok=True)
        write_json(self.directory / "environment.json", environment())
        start = time.perf_counter()
        nodes = self.experiment.dataset.build().nodes(self.cache_dir)
        self._say_data(nodes)
        seed_everything(self.seed)
        model = self.experiment.model.build(nodes)
        check_phases(model)
        model.reset_parameters(self.seed)
        model.to(self.device)
        backend = resolve_backend(self.experiment.embedding.backend, self.device, 1)
        tables = attach_tables(model, self.experiment.embedding, backend, self.device)
        fit, trainer = self._train(model, tables)
        result = SeedResult(
            seed=self.seed, directory=self.directory, fit=fit, metrics={},
            table_bytes=table_bytes(model, tables, ranks), num_parameters=num_parameters(model),
            seconds={"train": fit.seconds, "fit": time.perf_counter() - start}, backend=backend,
            plan="", goal=goal_of(self.experiment.train),
        )  # fmt: skip
        if fit.interrupted:
            return result
        step, fitted = int(trainer.load_best().state["progress"]["step"]), time.perf_counter()
        samples = self.experiment.evaluation.bootstrap_samples
        evaluations = [
            evaluate_nodes(model, name, samples)
            for name in ("valid", "test")
            if len(nodes.splits.get(name, ()))
        ]
        metrics = {found.name: found.metrics for found in evaluations}
        result = dataclasses.replace(result, metrics=metrics)
        self._save(model, evaluations, result, step)
        result.seconds["report"] = time.perf_counter() - fitted
        result.save()
        return result

    def _say_data(self, nodes: LabelledNodes) -> None:
        if self.show == "none":
            return
        counts = ", ".join(f"{count:,} {name}" for name, count in nodes.counts.items())
        parts = ", ".join(f"{name} {len(split):,}" for name, split in nodes.splits.items())
        lines = [f"{counts}, {nodes.num_edges:,} edges; {len(nodes.classes)} classes; {parts}"]
        lines += [f"  {n.replace('_', ' ')}: {count:,}" for n, count in nodes.report.items()
                  if count]  # fmt: skip
        tqdm.write("\n".join(lines), file=sys.stderr)

    def _train(
        self, model: NodeClassifier, tables: EmbeddingOptimizer | None
    ) -> tuple[FitResult, Trainer]:
        train = self.experiment.train
        seed_everything(self.seed * 1_000_003 % 2**32)
        task = NodeTask(model, train, tables)
        trainer = Trainer(
            task, tables, self.directory, self.show, on_evaluation=self.on_evaluation,
            storage=self.storage,
        )  # fmt: skip
        chosen = model.nodes.splits["train"]
        loader = NodeLoader(
            torch.from_numpy(chosen), torch.from_numpy(model.nodes.labels[chosen]),
            train.batch_size, None if train.fanouts is None else model.sampler(train.fanouts),
            self.seed, self.device,
        )  # fmt: skip
        valid = "valid" if len(model.nodes.splits.get("valid", ())) else None
        resume = self.resume and trainer.checkpoints.exists()
        return trainer.fit(loader, valid, resume=resume), trainer

    def _save(
        self,
        model: NodeClassifier,
        evaluations: Sequence[NodeEvaluation],
        result: SeedResult,
        step: int,
    ) -> None:
        metadata = {
            "seed": self.seed,
            "step": step,
            "metrics": without_nan(result.metrics),
            "experiment": self.experiment.model_dump(mode="json"),
        }
        save_classifier(self.directory / "model", model, metadata)
        if not self.report:
            return
        save_classes(self.directory / "predictions.parquet", model.nodes, evaluations)
        write_json(self.directory / "evaluation.json", [found.to_json() for found in evaluations])
        env = json.loads((self.directory / "environment.json").read_text())
        pictures = draw_nodes(self.directory / "plots", read_metrics(self.directory), evaluations)
        card = NodeCard(self.experiment, model.nodes, evaluations, result, step, env, pictures)
        write_node_card(self.directory, card)


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
