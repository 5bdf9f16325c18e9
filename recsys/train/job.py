"""One seed of a run, on one rank: build, train, judge, save.

Stability: internal
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import torch
from tqdm import tqdm

from recsys.base import CTRModel, RecModel
from recsys.config import Experiment
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepared import Prepared
from recsys.embeddings.backend import Backend, resolve_backend
from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.embeddings.scheme import SearchContext
from recsys.errors import ConfigError
from recsys.evaluate.evaluation import Evaluation, EvaluationOptions, evaluate, without_nan
from recsys.fit_config import FitConfig
from recsys.folders import whole_file, write_json
from recsys.serving.artefact import save_artefact
from recsys.serving.freeze import freeze_model
from recsys.train import plots
from recsys.train.backend import attach_tables, is_meta, materialize
from recsys.train.click_task import ClickTask
from recsys.train.display import Show
from recsys.train.environment import environment
from recsys.train.model_card import CardContent, write_card
from recsys.train.optimizer import dense_parameters
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
from recsys.train.ranks import Ranks
from recsys.train.state import seed_everything
from recsys.train.storage import Place
from recsys.train.tracking import read_metrics
from recsys.train.trainer import FitResult, Trainer


@dataclasses.dataclass(frozen=True, slots=True)
class SeedResult:
    """What one seed gave.

    Args:
        seed: Of start values, order of rows and dropout.
        directory: Its folder.
        fit: How training ended.
        metrics: Final metrics by split, of the best checkpoint.
        table_bytes: ``tables``, ``optimizer``, ..., ``total`` over all ranks.
        num_parameters: ``dense`` and ``tables``.
        seconds: Wall time of ``train`` (without evaluation), ``fit`` and ``report``.
        backend: Of the tables.
        plan: Which rank holds which table, empty on the local backend.
        goal: How much training was asked for.
        phases: How trainings before the last one ended, for methods that train several times.
    """

    seed: int
    directory: Path
    fit: FitResult
    metrics: dict[str, dict[str, float]]
    table_bytes: dict[str, int]
    num_parameters: dict[str, int]
    seconds: dict[str, float]
    backend: str
    plan: str
    goal: dict[str, int | None]
    phases: dict[str, FitResult] = dataclasses.field(default_factory=dict)

    def save(self) -> None:
        """Writes ``result.json``, which makes the folder complete."""
        content = dataclasses.asdict(self)
        content["directory"] = "."
        content["rows_per_second"] = self.fit.rows_per_second
        write_json(self.directory / "result.json", without_nan(content))

    @classmethod
    def load(cls, directory: Path) -> SeedResult:
        """Reads what `save` wrote.

        Args:
            directory: Of a complete seed.
        """
        content = json.loads((directory / "result.json").read_text())
        del content["rows_per_second"]
        content["directory"] = directory
        content["metrics"] = {s: _with_nan(m) for s, m in content["metrics"].items()}
        content["fit"] = _fit(content["fit"])
        content["phases"] = {name: _fit(fit) for name, fit in content.get("phases", {}).items()}
        return cls(**content)


def _fit(content: Mapping[str, Any]) -> FitResult:
    return FitResult(**{**content, "best": _with_nan(content["best"])})


def goal_of(train: FitConfig) -> dict[str, int | None]:
    """How much training is asked for: what may grow between stop and resume.

    Args:
        train: Of an experiment.
    """
    return {
        "num_epochs": train.num_epochs,
        "max_steps": train.max_steps,
        "early_stop_patience": train.early_stop_patience,
    }


def _with_nan(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in values.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class _Training:
    """The last training of a job, and how those before it ended."""

    model: CTRModel
    tables: EmbeddingOptimizer | None
    trainer: Trainer
    fit: FitResult
    done: dict[str, FitResult]


@dataclasses.dataclass(frozen=True, slots=True)
class SeedJob:
    """What to do for one seed.

    Args:
        experiment: What to train.
        prepared: The data.
        oracle: Best reachable metrics by split, where known.
        seed: Of this job.
        directory: Its folder.
        resume: Go on from the last checkpoint if there is one.
        show: How to show progress.
        device: ``cpu`` or ``cuda``.
        on_evaluation: Called on every rank with the step and the validation metrics.
        storage: Where checkpoints lie instead, if ranks do not share the folder.
        report: Whether there are predictions, plots and a model card beside the model.
    """

    experiment: Experiment
    prepared: Prepared
    oracle: Mapping[str, Mapping[str, float]]
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
            RecsysError: See `Trainer`, `evaluate`, `save_artefact`.
        """
        ranks = Ranks.current()
        if ranks.first:
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / "result.json").unlink(missing_ok=True)
            write_json(self.directory / "environment.json", environment())
        start = time.perf_counter()
        backend = resolve_backend(self.experiment.embedding.backend, self.device, ranks.world_size)
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
        result = SeedResult(self.seed, self.directory, fit, metrics, seconds=seconds, **facts)
        if ranks.first:
            step = int(best.state["progress"]["step"])
            self._save(model, state, step, evaluations, result)
            seconds["report"] = time.perf_counter() - fitted
            result.save()
        ranks.wait()
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
            tables = self._attach(model, backend, ranks)
            # After the start values, which depend on the seed alone: dropout differs by rank.
            seed_everything((self.seed * 1_000_003 + ranks.rank + number * 7919) % 2**32)
            config = phase_config(self.experiment.train, phases[number])
            folder = folder_of(self.directory, phases, number)
            phase = phases[number]
            trained = number > 0 and phase.start == "inherit"
            away = self.storage and self.storage / folder.relative_to(self.directory).as_posix()
            task = ClickTask(model, config, tables, ranks)
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

    def _attach(self, model: CTRModel, backend: Backend, ranks: Ranks) -> EmbeddingOptimizer | None:
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
        plan = getattr(model.embeddings.store, "plan", None)
        if plan is not None and ranks.first:
            write_json(self.directory / "plan.json", plan.to_json())
            self._say(f"{plan}\n")
        return tables

    def _say(self, text: str) -> None:
        if Ranks.current().first and self.show != "none":
            tqdm.write(text, file=sys.stderr)

    def _loader(self, split: str, ranks: Ranks) -> BatchLoader:
        train, pin = self.experiment.train, self.device == "cuda"
        config = LoaderConfig(batch_size=train.eval_batch_size, pin_memory=pin)
        if split == "train":
            config = LoaderConfig(
                batch_size=train.batch_size, shuffle=train.shuffle, seed=self.seed, pin_memory=pin
            )
        return BatchLoader(self.prepared, split, config, ranks.rank, ranks.world_size)

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


def save_predictions(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """Labels and probabilities of every judged row as Parquet.

    Columns: ``split``; ``label`` and ``probability`` (``label.<task>`` with several tasks);
    ``weight`` and ``group`` (hashed) where there are any.

    Args:
        path: Replaced as a whole.
        evaluations: By split, rows in file order (by rank with several ranks).
    """
    if not evaluations:
        return
    writer = None
    with whole_file(path) as draft:
        for evaluation in evaluations:
            rows_table = _predictions_table(evaluation)
            writer = writer or pyarrow.parquet.ParquetWriter(draft, rows_table.schema)
            writer.write_table(rows_table)
        assert writer is not None
        writer.close()


def _predictions_table(evaluation: Evaluation) -> pa.Table:
    found = evaluation.predictions
    rows = len(found.labels)
    columns: dict[str, Any] = {"split": pa.array([evaluation.name] * rows, pa.string())}
    probabilities = found.probabilities
    for number, task in enumerate(found.tasks):
        end = "" if len(found.tasks) == 1 else f".{task}"
        columns[f"label{end}"] = found.labels[:, number].astype("int8")
        columns[f"probability{end}"] = probabilities[:, number]
    if found.weights is not None:
        columns["weight"] = found.weights
    if found.groups is not None:
        columns["group"] = found.groups
    return pa.table(columns)


def table_bytes(model: RecModel, tables: EmbeddingOptimizer | None, ranks: Ranks) -> dict[str, int]:
    """Bytes of tables and their optimizer on all ranks, by purpose.

    Args:
        model: Trained.
        tables: The optimizer, None for a model without tables.
        ranks: Of the job.
    """
    if tables is None:
        return {"total": 0}
    mine = model.embeddings.bytes("train", tables)
    parts = ranks.gather_objects({**dataclasses.asdict(mine), "total": mine.total})
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def num_parameters(model: RecModel) -> dict[str, int]:
    """Numbers in dense layers and in tables.

    Args:
        model: Any.
    """
    return {
        "dense": sum(parameter.numel() for parameter in dense_parameters(model).values()),
        "tables": model.embeddings.num_rows_parameters(),
    }


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
