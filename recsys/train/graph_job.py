"""One seed of a model of a graph, on one rank: what the jobs of all such models do alike.

Stability: internal
"""

from __future__ import annotations

import abc
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor

from recsys.aspect_config import AspectExperiment
from recsys.base import RecModel
from recsys.cf_config import CFExperiment
from recsys.embeddings.backend import Backend
from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.errors import ConfigError
from recsys.evaluate.aspects import AspectEvaluation
from recsys.evaluate.evaluation import without_nan
from recsys.evaluate.nodes import NodeEvaluation
from recsys.evaluate.ranking import RankingEvaluation
from recsys.folders import write_json
from recsys.node_config import NodeExperiment
from recsys.train.backend import attach_tables
from recsys.train.graph_card import GraphCard
from recsys.train.phases import phases_of
from recsys.train.ranks import Ranks
from recsys.train.seed_job import SeedJob
from recsys.train.seed_result import SeedResult, goal_of, num_parameters, table_bytes
from recsys.train.state import seed_everything
from recsys.train.task import Task
from recsys.train.tracking import read_metrics
from recsys.train.trainer import FitResult, Trainer

_Data = TypeVar("_Data")
_Model = TypeVar("_Model", bound=RecModel)
_Found = TypeVar("_Found", bound=NodeEvaluation | RankingEvaluation | AspectEvaluation)


@dataclasses.dataclass(frozen=True, slots=True)
class Trained:
    """How a model got its weights.

    Args:
        fit: How training ended.
        tables: The optimizer of its tables, where it has any.
        step: That the weights are from.
        state: The weights, where nobody holds a whole table; None for those in the model.
    """

    fit: FitResult
    tables: EmbeddingOptimizer | None = None
    step: int = 0
    state: Mapping[str, Tensor] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GraphJob(SeedJob, Generic[_Data, _Model, _Found]):
    """See `SeedJob`. A subclass says what its data and model are.

    Args:
        cache_dir: Where data is fetched to.
    """

    experiment: CFExperiment | NodeExperiment | AspectExperiment
    cache_dir: Path

    def _run(self, backend: Backend, ranks: Ranks, start: float) -> SeedResult:
        data = self._data(ranks)
        seed_everything(self.seed)
        model = self._model(data)
        check_phases(model)
        trained = self._train(model, data, backend, ranks)
        fit, tables = trained.fit, trained.tables
        result = SeedResult(
            seed=self.seed, directory=self.directory, fit=fit, metrics={},
            table_bytes=table_bytes(model, tables, ranks), num_parameters=num_parameters(model),
            seconds={"train": fit.seconds, "fit": time.perf_counter() - start}, backend=backend,
            plan=str(getattr(model.embeddings.store, "plan", "")) if tables else "",
            goal=goal_of(self.experiment.train),
        )  # fmt: skip
        if fit.interrupted:
            return result
        model.eval()
        fitted = time.perf_counter()
        found = self._judge(model, data, ranks)
        metrics = {name: evaluation.metrics for name, evaluation in found.items()}
        result = dataclasses.replace(result, metrics=metrics)
        if ranks.first:
            self._write(model, data, found, result, trained)
            result.seconds["report"] = time.perf_counter() - fitted
        return result

    @abc.abstractmethod
    def _data(self, ranks: Ranks) -> _Data:
        """What to learn from and judge on; says what it is."""

    @abc.abstractmethod
    def _model(self, data: _Data) -> _Model:
        """The model, on the CPU."""

    @abc.abstractmethod
    def _train(self, model: _Model, data: _Data, backend: Backend, ranks: Ranks) -> Trained:
        """Draws start values and moves the weights, up to an interruption."""

    @abc.abstractmethod
    def _judge(self, model: _Model, data: _Data, ranks: Ranks) -> Mapping[str, _Found]:
        """By split, what the best weights are worth."""

    @abc.abstractmethod
    def _save(
        self, folder: Path, model: _Model, data: _Data, metadata: Mapping[str, Any],
        trained: Trained,
    ) -> None:  # fmt: skip
        """Writes what serves."""

    @abc.abstractmethod
    def _report(
        self, data: _Data, found: Mapping[str, _Found], lines: Sequence[Mapping[str, Any]]
    ) -> tuple[Sequence[Path], type[GraphCard[_Data, _Found]]]:
        """Writes single results, and draws; ``lines`` are those of ``metrics.jsonl``.

        Returns:
            The pictures, and what writes the model card.
        """

    # ---------------------------------------------------------------------------------- frame

    def _write(
        self, model: _Model, data: _Data, found: Mapping[str, _Found], result: SeedResult,
        trained: Trained,
    ) -> None:  # fmt: skip
        """What serves and, where wanted, single results, plots and the model card."""
        folder = self.directory
        metadata = {
            "seed": self.seed,
            "step": trained.step,
            "metrics": without_nan(result.metrics),
            "experiment": self.experiment.model_dump(mode="json"),
        }
        self._save(folder / "model", model, data, metadata, trained)
        if not self.report:
            return
        content = {name: evaluation.to_json() for name, evaluation in found.items()}
        write_json(folder / "evaluation.json", content)
        pictures, card = self._report(data, found, read_metrics(folder))
        env = json.loads((folder / "environment.json").read_text())
        card(self.experiment, data, found, result, trained.step, env, pictures).write(folder)

    # ---------------------------------------------------------------------- steps of subclasses

    def _say_data(self, summary: str, report: Mapping[str, int]) -> None:
        rows = [f"  {name.replace('_', ' ')}: {count:,}" for name, count in report.items() if count]
        self._say("\n".join([summary, *rows]))

    def _attach(self, model: _Model, backend: Backend) -> EmbeddingOptimizer | None:
        """Start values, on the device; tables are given to their optimizer."""
        model.reset_parameters(self.seed)
        model.to(self.device)
        tables = attach_tables(model, self.experiment.embedding, backend, self.device)
        self._note_plan(model)
        return tables

    def _descend(
        self, task: Task, tables: EmbeddingOptimizer | None, loader: Any, valid: Any, ranks: Ranks
    ) -> Trained:
        """Gradient descent to the best weights."""
        trainer = Trainer(
            task, tables, self.directory, self.show, on_evaluation=self.on_evaluation,
            storage=self.storage,
        )  # fmt: skip
        resume = self.resume and trainer.checkpoints.exists()
        fit = trainer.fit(loader, valid, resume=resume)
        if fit.interrupted:
            return Trained(fit, tables)
        best = trainer.load_best()
        state = best.tensors["model"] if ranks.world_size > 1 else None
        return Trained(fit, tables, int(best.state["progress"]["step"]), state)


def check_phases(model: RecModel) -> None:
    """Refuses schemes that a job of one training would train by half.

    Args:
        model: With its tables.

    Raises:
        ConfigError: A scheme has several trainings.
    """
    schemes = model.embeddings.schemes
    phases = phases_of(schemes)
    if len(phases) > 1:
        kinds = sorted({s.model_dump()["kind"] for s in schemes.values() if len(s.phases()) > 1})
        raise ConfigError(
            f"compression: `{'`, `'.join(kinds)}` is trained in several phases "
            f"({', '.join(phase.name for phase in phases)}), which models of graphs are not. "
            "Use a scheme of one training, say hash, quotient_remainder, unified or cce."
        )
