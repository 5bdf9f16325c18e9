"""One seed of a model that predicts clicks, on one rank: build, train, judge, save.

Stability: internal
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from recsys.base import CTRModel
from recsys.config import Experiment
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepared import Prepared
from recsys.embeddings.backend import Backend
from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.embeddings.scheme import SearchContext
from recsys.errors import ConfigError
from recsys.evaluate.evaluation import Evaluation, EvaluationOptions, evaluate, without_nan
from recsys.evaluate.retrieval import RetrievalOptions, check_towers
from recsys.evaluate.stored_retrieval import evaluate_lists
from recsys.folders import write_json
from recsys.serving.artefact import save_artefact
from recsys.serving.freeze import freeze_model
from recsys.train import plots
from recsys.train.backend import attach_tables, is_meta, materialize
from recsys.train.click_task import ClickTask
from recsys.train.model_card import CardContent, write_card
from recsys.train.phases import (
    PhaseStart,
    PhaseStarts,
    advance,
    folder_of,
    in_phases,
    next_model,
    phase_config,
    phases_of,
    validation,
)
from recsys.train.predictions import save_predictions
from recsys.train.ranks import Ranks
from recsys.train.seed_job import SeedJob
from recsys.train.seed_result import SeedResult, goal_of, num_parameters, table_bytes
from recsys.train.state import seed_everything
from recsys.train.tracking import read_metrics
from recsys.train.trainer import FitResult, Trainer


@dataclasses.dataclass(frozen=True, slots=True)
class _Training:
    """The last training of a job, and how those before it ended."""

    model: CTRModel
    tables: EmbeddingOptimizer | None
    trainer: Trainer
    fit: FitResult
    done: dict[str, FitResult]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClickJob(SeedJob):
    """See `SeedJob`.

    Args:
        prepared: The data.
        oracle: Best reachable metrics by split, where known.
    """

    experiment: Experiment
    prepared: Prepared
    oracle: Mapping[str, Mapping[str, float]]

    def _run(self, backend: Backend, ranks: Ranks, start: float) -> SeedResult:
        trained = self._train(backend, ranks)
        model, tables, trainer, fit = trained.model, trained.tables, trained.trainer, trained.fit
        fitted = time.perf_counter()
        facts = {
            "table_bytes": table_bytes(model, tables, ranks),
            "num_parameters": num_parameters(model),
            "backend": backend,
            "plan": str(getattr(model.embeddings.store, "plan", "")) if tables else "",
            "goal": goal_of(self.experiment.train),
            "phases": trained.done,
        }
        training = fit.seconds + sum(done.seconds for done in trained.done.values())
        seconds = {"train": training, "fit": fitted - start}
        if fit.interrupted:
            return SeedResult(self.seed, self.directory, fit, {}, seconds=seconds, **facts)
        best = trainer.load_best()
        if model.config.compression is not None:
            # What is judged and saved is what will be served: cut, coded, without leftovers.
            model = freeze_model(model, "fp32").to(self.device)
            state = model.state_dict()
        elif ranks.world_size > 1 and model.embeddings.groups:
            state = best.tensors["model"]  # nobody has to hold a whole table
        else:
            state = model.state_dict()
        evaluations = self._judge(model, ranks)
        metrics = {evaluation.name: evaluation.metrics for evaluation in evaluations}
        for split, values in metrics.items():
            lists = self._lists(model, split)
            values |= {} if lists is None else lists()
        result = SeedResult(self.seed, self.directory, fit, metrics, seconds=seconds, **facts)
        if ranks.first:
            step = int(best.state["progress"]["step"])
            self._save(model, state, step, evaluations, result)
            seconds["report"] = time.perf_counter() - fitted
        return result

    def _train(self, backend: Backend, ranks: Ranks) -> _Training:
        """All phases, or those up to an interruption; mostly there is one."""
        model = self._model(backend)
        phases, starts = (
            phases_of(model.embeddings.schemes),
            PhaseStarts(self.storage or self.directory),
        )
        members = in_phases(model.embeddings.schemes)
        number, done = 0, {}
        valid = self._loader("valid", ranks) if "valid" in self.prepared.split_rows else None
        if (start := starts.load() if self.resume and len(phases) > 1 else None) is not None:
            number, done, model = start.number, start.done, start.build(model)
        while True:
            tables = self._attach(model, backend)
            # After the start values, which depend on the seed alone: dropout differs by rank.
            seed_everything((self.seed * 1_000_003 + ranks.rank + number * 7919) % 2**32)
            config = phase_config(self.experiment.train, phases[number])
            folder = folder_of(self.directory, phases, number)
            phase = phases[number]
            trained = number > 0 and phase.start == "inherit"
            away = self.storage and self.storage / folder.relative_to(self.directory).as_posix()
            lists = self._lists(model, "valid") if valid is not None else None
            task = ClickTask(model, config, tables, ranks, lists)
            trainer = Trainer(
                task, tables, folder, self.show, phase, trained, self.on_evaluation, away
            )
            resume = self.resume and trainer.checkpoints.exists()
            fit = trainer.fit(self._loader("train", ranks), valid, resume=resume)
            if fit.interrupted or number == len(phases) - 1:
                return _Training(model, tables, trainer, fit, done)
            trainer.load_best()
            done = {**done, phases[number].name: fit}
            number += 1
            before, following = phases[number - 1], phases[number]
            context = self._context(model, valid, ranks)
            context.say(f"phase `{before.name}` is done, preparing `{following.name}`")
            successors = advance(model, members, before, following, context)
            model = next_model(model, successors, following, self.seed)
            del trainer, tables, context, successors  # the old model, before the new one trains
            state = PhaseStart(number, model.embeddings.schemes, model.state_dict(), done)
            starts.save(state, ranks)

    def _context(self, model: CTRModel, valid: BatchLoader | None, ranks: Ranks) -> SearchContext:
        """What the search after a phase may use."""
        train = self.experiment.train
        return SearchContext(lambda: validation(model, valid, train, ranks), self._say, self.seed)

    def _model(self, backend: Backend) -> CTRModel:
        """The model; on ``meta`` where its tables may be too large for one rank."""
        seed_everything(self.seed)
        with torch.device("meta") if backend == "torchrec" else contextlib.nullcontext():
            model = self.experiment.model.build(self.prepared.schema)
        if not isinstance(model, CTRModel):
            raise ConfigError(
                f"model.class: expected a CTRModel, got {self.experiment.model.class_path}. "
                "This job trains models that predict clicks."
            )
        model.reset_parameters(self.seed)
        return model

    def _attach(self, model: CTRModel, backend: Backend) -> EmbeddingOptimizer | None:
        """Moves the model to its device and its tables to their optimizer.

        Tables on ``meta`` are made by the ranks that hold them, each its part.
        """
        bare = is_meta(model)
        if bare:
            materialize(model, self.device)
        else:
            model.to(self.device)
        tables = attach_tables(model, self.experiment.embedding, backend, self.device)
        if bare:
            model.reset_parameters(self.seed)
        self._note_plan(model)
        return tables

    def _loader(self, split: str, ranks: Ranks) -> BatchLoader:
        train, pin = self.experiment.train, self.device == "cuda"
        config = LoaderConfig(batch_size=train.eval_batch_size, pin_memory=pin)
        if split == "train":
            config = LoaderConfig(
                batch_size=train.batch_size, shuffle=train.shuffle, seed=self.seed, pin_memory=pin
            )
        return BatchLoader(self.prepared, split, config, ranks.rank, ranks.world_size)

    def _lists(self, model: CTRModel, split: str) -> Callable[[], Mapping[str, float]] | None:
        """Metrics of the lists for the users of a split, where one of them is monitored.

        Every rank reads all rows and ranks all items, so tables may be shared out.
        """
        _, at, k = self.experiment.train.monitor.partition("@")
        if not at:
            return None
        options = RetrievalOptions(ks=(int(k),), bootstrap_samples=0)
        check_towers(model, options)
        size = self.experiment.train.eval_batch_size
        return lambda: evaluate_lists(model, self.prepared, split, size, options).metrics

    def _judge(self, model: CTRModel, ranks: Ranks) -> list[Evaluation]:
        train = self.experiment.train
        options = EvaluationOptions(
            train.slices, train.bootstrap_samples if ranks.first else 0, train.precision
        )
        return [
            evaluate(model, self._loader(split, ranks), self.prepared.encoder, split, options)
            for split in ("valid", "test")
            if split in self.prepared.split_rows
        ]

    # ------------------------------------------------------------------------------- files

    def _save(
        self,
        model: CTRModel,
        state: Mapping[str, Any],
        step: int,
        evaluations: Sequence[Evaluation],
        result: SeedResult,
    ) -> None:
        folder, experiment = self.directory, self.experiment
        metadata = {
            "data": self.prepared.fingerprint,
            "seed": self.seed,
            "step": step,
            "metrics": without_nan(result.metrics),
            "experiment": experiment.model_dump(mode="json"),
        }
        save_artefact(folder / "model", model, self.prepared.encoder, metadata, state)
        if not self.report:
            return
        save_predictions(folder / "predictions.parquet", evaluations)
        write_json(folder / "evaluation.json", [found.to_json() for found in evaluations])
        pictures = []
        if plots.available():
            pictures = plots.draw_all(folder / "plots", read_metrics(folder), evaluations)
        fit = result.fit
        trained = (
            f"{fit.steps:,} steps, {fit.rows:,} rows at {fit.rows_per_second:,.0f} rows/s, "
            f"{fit.stopped}; the weights are those of step {step:,}"
        )
        facts = {
            f"training before, {name}": f"{done.steps:,} steps, weights of step {done.best_step:,}"
            for name, done in result.phases.items()
        }
        tables = f"{experiment.embedding.kind}, {experiment.embedding.mode}, {result.backend}"
        write_card(
            folder,
            CardContent(
                experiment=experiment,
                prepared=self.prepared,
                seed=self.seed,
                evaluations=evaluations,
                oracle=self.oracle,
                table_bytes=result.table_bytes,
                num_parameters=result.num_parameters,
                facts={
                    **facts,
                    **_compression_line(model),
                    "training": trained,
                    "tables trained by": tables,
                },
                environment=json.loads((folder / "environment.json").read_text()),
                pictures=pictures,
            ),
        )


def _compression_line(model: CTRModel) -> dict[str, str]:
    """For the model card: how the tables are held."""
    compression = model.config.compression
    if compression is None:
        return {}
    held = model.embeddings.bytes("infer")
    specs = [spec for specs in model.embeddings.groups.values() for spec in specs]
    full = sum(4 * spec.num_embeddings * spec.embedding_dim for spec in specs)
    kinds = sorted({getattr(scheme, "kind", "?") for scheme in model.embeddings.schemes.values()})
    asked = getattr(compression.scheme, "kind", "?")
    return {
        "compression": f"asked for {asked}, served as {', '.join(kinds)}: {held.total:,} bytes "
        f"with indices and decoders, {held.total / full:.4f} of the full tables"
    }
