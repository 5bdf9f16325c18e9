"""One seed of a collaborative filter, on one rank: build, fit or train, judge, save.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recsys.base import RecModel
from recsys.cf import CFModel, EmbeddingModel
from recsys.cf_config import CFExperiment
from recsys.cf_fitted import FittedModel
from recsys.embeddings.backend import resolve_backend
from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.errors import ConfigError, DataError
from recsys.evaluate.evaluation import without_nan
from recsys.evaluate.ranking import RankingEvaluation, evaluate_ranking
from recsys.evaluate.stored_ranking import options_of, seen_and_relevant
from recsys.folders import write_json
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import InteractionSplits
from recsys.serving.recommender_folder import save_recommender
from recsys.train.backend import attach_tables
from recsys.train.display import Show
from recsys.train.environment import environment
from recsys.train.job import SeedResult, goal_of, num_parameters, table_bytes
from recsys.train.phases import phases_of
from recsys.train.ranking_card import RankingCard, write_ranking_card
from recsys.train.ranking_plots import draw_ranking
from recsys.train.ranking_task import RankingTask, Validation
from recsys.train.ranks import Ranks
from recsys.train.state import seed_everything
from recsys.train.storage import Place
from recsys.train.tracking import read_metrics
from recsys.train.trainer import FitResult, Trainer


@dataclasses.dataclass(frozen=True, slots=True)
class RankingJob:
    """What to do for one seed.

    Args:
        experiment: What to train.
        cache_dir: Where data is fetched to.
        seed: Of this job.
        directory: Its folder.
        resume: Go on from the last checkpoint if there is one.
        show: How to show progress.
        device: ``cpu`` or ``cuda``.
        on_evaluation: Called on every rank with the step and the validation metrics.
        storage: Where checkpoints lie instead, if ranks do not share the folder.
        report: Whether there are results by user, plots and a model card beside the model.
    """

    experiment: CFExperiment
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
        """Fits or trains, takes the best weights, judges and saves them.

        Raises:
            RecsysError: Data is bad, or training went wrong.
        """
        ranks = Ranks.current()
        if ranks.first:
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / "result.json").unlink(missing_ok=True)
            write_json(self.directory / "environment.json", environment())
        start = time.perf_counter()
        splits, graph = self._data()
        backend = resolve_backend(self.experiment.embedding.backend, self.device, ranks.world_size)
        seed_everything(self.seed)
        model = self.experiment.model.build(graph)
        check_phases(model)
        tables: EmbeddingOptimizer | None = None
        step, state, plan = 0, None, None
        if isinstance(model, FittedModel):
            fit = self._fit(model)
        elif isinstance(model, EmbeddingModel):
            model.reset_parameters(self.seed)
            model.to(self.device)
            tables = attach_tables(model, self.experiment.embedding, backend, self.device)
            plan = self._plan(model)
            fit, trainer = self._train(model, tables, splits, ranks)
            if not fit.interrupted:
                best = trainer.load_best()
                step = int(best.state["progress"]["step"])
                if ranks.world_size > 1:
                    state = best.tensors["model"]  # nobody has to hold a whole table
        else:
            raise ConfigError(
                f"model.class: {self.experiment.model.class_path} is neither fitted nor trained "
                "here. Derive it from FittedModel or EmbeddingModel."
            )
        result = SeedResult(
            seed=self.seed, directory=self.directory, fit=fit, metrics={},
            table_bytes=table_bytes(model, tables, ranks), num_parameters=num_parameters(model),
            seconds={"train": fit.seconds, "fit": time.perf_counter() - start}, backend=backend,
            plan="" if plan is None else str(plan), goal=goal_of(self.experiment.train),
        )  # fmt: skip
        if fit.interrupted:
            return result
        model.eval()
        fitted = time.perf_counter()
        evaluations = self._judge(model, splits, ranks)
        result = dataclasses.replace(
            result, metrics={name: found.metrics for name, found in evaluations.items()}
        )
        if isinstance(model, EmbeddingModel):
            model.vectors()  # every rank, for tables that are shared out
        if ranks.first:
            self._save(model, splits, evaluations, result, step, state)
            result.seconds["report"] = time.perf_counter() - fitted
            result.save()
        ranks.wait()
        return result

    def _data(self) -> tuple[InteractionSplits, InteractionGraph]:
        """What to learn from; says what it is."""
        dataset = self.experiment.dataset.build()
        splits = dataset.splits(self.cache_dir)
        if len(splits.train) == 0:
            raise DataError(
                f"{self.experiment.dataset.class_path}: the training split has no interaction. "
                "Lower the k-core or the share of validation and test."
            )
        graph = dataset.graph(splits.train, self.cache_dir, self.experiment.weighted)
        self._say_data(splits)
        return splits, graph

    def _plan(self, model: EmbeddingModel) -> Any:
        """Which rank holds which table, written down; None where one process has them all."""
        plan = getattr(model.embeddings.store, "plan", None)
        if plan is not None and Ranks.current().first:
            write_json(self.directory / "plan.json", plan.to_json())
            self._say(f"{plan}\n")
        return plan

    def _say(self, text: str) -> None:
        if Ranks.current().first and self.show != "none":
            tqdm.write(text, file=sys.stderr)

    def _say_data(self, splits: InteractionSplits) -> None:
        train = splits.train
        parts = ", ".join(f"{name} {len(part):,}" for name, part in splits.items())
        self._say(f"{train.num_users:,} users, {train.num_items:,} items; {parts} interactions")
        for name, count in splits.report.items():
            if count:
                self._say(f"  {name.replace('_', ' ')}: {count:,}")

    def _fit(self, model: FittedModel) -> FitResult:
        model.reset_parameters(self.seed)
        start = time.perf_counter()
        model.fit(self._say)
        seconds = time.perf_counter() - start
        self._say(f"fitted in {seconds:.1f} s")
        return FitResult(0, model.graph.num_edges, seconds, {}, -1, "finished")

    def _train(
        self,
        model: EmbeddingModel,
        tables: EmbeddingOptimizer | None,
        splits: InteractionSplits,
        ranks: Ranks,
    ) -> tuple[FitResult, Trainer]:
        experiment = self.experiment
        # After the start values, which depend on the seed alone: dropout differs by rank.
        seed_everything((self.seed * 1_000_003 + ranks.rank) % 2**32)
        task = RankingTask(model, experiment.train, experiment.evaluation, tables, ranks, self.seed)
        trainer = Trainer(
            task, tables, self.directory, self.show, on_evaluation=self.on_evaluation,
            storage=self.storage,
        )  # fmt: skip
        loader = model.loader(
            experiment.sampling, experiment.train.batch_size, self.seed, ranks.rank,
            ranks.world_size,
        )  # fmt: skip
        valid = None
        if splits.valid is not None and len(splits.valid):
            users = experiment.train.valid_users
            valid = Validation.of(splits.train, splits.valid, users, self.seed)
        resume = self.resume and trainer.checkpoints.exists()
        return trainer.fit(loader, valid, resume=resume), trainer

    def _judge(
        self, model: CFModel, splits: InteractionSplits, ranks: Ranks
    ) -> dict[str, RankingEvaluation]:
        """Validation against what was trained on; test against both."""
        options = options_of(self.experiment.evaluation)
        if not ranks.first:
            options = dataclasses.replace(options, bootstrap_samples=0)
        found: dict[str, RankingEvaluation] = {}
        for name in ("valid", "test"):
            pairs = seen_and_relevant(splits, name)
            if pairs is not None:
                found[name] = evaluate_ranking(model, *pairs, options)
        return found

    def _save(
        self,
        model: CFModel,
        splits: InteractionSplits,
        evaluations: Mapping[str, RankingEvaluation],
        result: SeedResult,
        step: int,
        state: Mapping[str, Any] | None,
    ) -> None:
        folder = self.directory
        metadata = {
            "seed": self.seed,
            "step": step,
            "metrics": without_nan(result.metrics),
            "experiment": self.experiment.model_dump(mode="json"),
        }
        others = [part for part in (splits.valid, splits.test) if part is not None]
        save_recommender(folder / "model", model, splits.train, others, metadata, state)
        if not self.report:
            return
        for name, found in evaluations.items():
            found.per_user.write(folder / f"users-{name}.parquet")
        write_json(
            folder / "evaluation.json",
            {name: found.to_json() for name, found in evaluations.items()},
        )
        pictures = draw_ranking(folder / "plots", read_metrics(folder), evaluations)
        env = json.loads((folder / "environment.json").read_text())
        card = RankingCard(self.experiment, splits, evaluations, result, step, env, pictures)
        write_ranking_card(folder, card)


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
