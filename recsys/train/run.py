"""The whole job: raw data in, a folder with a trained, judged, servable model out.

Stability: caller
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from recsys.aspect_config import AspectExperiment
from recsys.cf_config import AnyKind, CFExperiment
from recsys.config import Experiment
from recsys.data.prepare import prepare
from recsys.data.prepared import Prepared
from recsys.embeddings.backend import resolve_backend
from recsys.errors import ConfigError
from recsys.evaluate.evaluation import without_nan
from recsys.evaluate.stored_aspects import aspect_items
from recsys.folders import write_json
from recsys.node_config import NodeExperiment
from recsys.train.aspect_job import AspectJob
from recsys.train.click_job import ClickJob
from recsys.train.display import Show
from recsys.train.folder import check_free, locked, open_run
from recsys.train.graph_job import GraphJob
from recsys.train.launch import launch
from recsys.train.node_job import NodeJob
from recsys.train.ranking_job import RankingJob
from recsys.train.ranks import Ranks
from recsys.train.seed_job import SeedJob
from recsys.train.seed_result import SeedResult, goal_of
from recsys.train.storage import Mirror, place_of
from recsys.train.torchrun import joined, local_rank, restarts, started_by_torchrun
from recsys.train.watch import watched


@dataclasses.dataclass(frozen=True, slots=True)
class RunOptions:
    """Where and how a job runs: what is no part of the experiment.

    Args:
        cache_dir: Where data is fetched to and prepared.
        resume: Go on with the run in the folder.
        ranks: Local processes that share the tables.
        show: How to show progress.
        device: ``cpu`` or ``cuda``; None takes a GPU if there is one.
        on_evaluation: Called on every rank with the step and the validation metrics.
        timeout_s: How long ranks wait for each other before they fail.
        storage: A folder or URL that all hosts reach (``s3://bucket/runs/x``), where they do not
            share the run folder. Checkpoints go there, and a copy of everything else but plots for
            tensorboard; a run that is resumed comes from there.
        report: Whether there are predictions, plots and a model card beside the model.
    """

    cache_dir: Path = Path(".data")
    resume: bool = False
    ranks: int = 1
    show: Show = "auto"
    device: str | None = None
    on_evaluation: Callable[[int, Mapping[str, float]], None] | None = None
    timeout_s: float = 600.0
    storage: str | None = None
    report: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class RunResult:
    """What a job gave.

    Args:
        directory: The run folder.
        seeds: One result a seed, in the order of the experiment; fewer after an interruption.
        prepared: The data that was used, of models that predict clicks.
        oracle: Best reachable metrics by split, where known.
        prepare_seconds: Wall time until the data was ready, from the cache or made.
    """

    directory: Path
    seeds: tuple[SeedResult, ...]
    prepared: Prepared | None
    oracle: Mapping[str, Mapping[str, float]]
    prepare_seconds: float

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it; run again with ``resume`` to go on."""
        return any(seed.fit.interrupted for seed in self.seeds)

    @property
    def rows_per_second(self) -> float:
        """Training speed, mean over seeds."""
        return statistics.fmean(seed.fit.rows_per_second for seed in self.seeds)

    def metrics(self, split: str) -> dict[str, float]:
        """Mean over seeds.

        Args:
            split: ``valid`` or ``test``.
        """
        return {name: value["mean"] for name, value in self.spread(split).items()}

    def spread(self, split: str) -> dict[str, dict[str, float]]:
        """Mean and standard deviation (n - 1) over seeds of every metric.

        Args:
            split: ``valid`` or ``test``.
        """
        found = [seed.metrics[split] for seed in self.seeds if split in seed.metrics]
        result = {}
        for name in found[0] if found else ():
            values = [metrics[name] for metrics in found]
            sd = statistics.stdev(values) if len(values) > 1 else 0.0
            result[name] = {"mean": statistics.fmean(values), "sd": sd}
        return result


def run(experiment: AnyKind, run_dir: Path | str, options: RunOptions | None = None) -> RunResult:
    """Prepares the data (cached), trains every seed, judges and saves each.

    Under ``torchrun`` every process calls this and gets the result; one that was started anew after
    a failure goes on from the last checkpoint.

    Args:
        experiment: What to train on what.
        run_dir: The run folder; see `recsys.train.folder` for what is in it.
        options: Cache, resume, ranks, device.

    Raises:
        ConfigError: The folder is in use, holds another run, or there is nothing to resume.
        RecsysError: Data, training or a rank failed.
    """
    options, directory = options or RunOptions(), Path(run_dir)
    if options.ranks < 1:
        raise ConfigError(f"ranks must be at least 1, got {options.ranks}.")
    if not started_by_torchrun():
        return _run(experiment, directory, options, Ranks.current())
    if options.ranks > 1:
        raise ConfigError(
            f"torchrun has started {os.environ['WORLD_SIZE']} ranks, and ranks={options.ranks} "
            "asks for more inside of each. Leave `ranks` (`--ranks`) out."
        )
    with joined(_device(options), options.timeout_s) as ranks:
        return _run(experiment, directory, options, ranks)


def _run(experiment: AnyKind, directory: Path, options: RunOptions, ranks: Ranks) -> RunResult:
    """The job on this rank, or on ``options.ranks`` new ones."""
    count = max(options.ranks, ranks.world_size)
    resolve_backend(experiment.embedding.backend, _device(options), count)
    mirror = None
    if options.storage is not None:
        mirror = Mirror(directory, place_of(options.storage))
        told = _Mirrored(mirror, options.on_evaluation)
        options = dataclasses.replace(options, on_evaluation=told)
    with contextlib.ExitStack() as kept:

        def take() -> bool:
            kept.enter_context(locked(directory))
            there = (directory / "config.json").exists() if mirror is None else mirror.holds_run()
            resume = options.resume or (restarts() > 0 and there)
            if mirror is not None:
                check_free(mirror.storage, there, resume)  # before the run there is taken over
                mirror.pull()
            open_run(directory, experiment, resume)
            return resume

        options = dataclasses.replace(options, resume=ranks.on_first(take))
        start = time.perf_counter()
        prepared, oracle = None, {}
        if isinstance(experiment, Experiment):
            prepared, oracle = _prepared(experiment, Path(options.cache_dir), ranks)
        else:
            _fetched(experiment, Path(options.cache_dir), ranks)
        ready = time.perf_counter() - start
        folder = None if prepared is None else prepared.directory
        arguments = experiment, directory, options, folder, oracle
        if options.ranks > 1:
            seeds = launch(train_seeds, arguments, options.ranks, options.timeout_s)
        else:
            seeds = train_seeds(*arguments)
        result = RunResult(directory, seeds, prepared, oracle, ready)
        if ranks.first and len(experiment.seeds) > 1 and not result.interrupted:
            write_json(directory / "summary.json", without_nan(_summary(result)))
        if ranks.first and mirror is not None:
            mirror.push()
        return result


@dataclasses.dataclass(frozen=True, slots=True)
class _Mirrored:
    """After every evaluation, brings the copy on storage up to date."""

    mirror: Mirror
    inner: Callable[[int, Mapping[str, float]], None] | None

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        if Ranks.current().first:
            self.mirror.push()
        if self.inner is not None:
            self.inner(step, metrics)


def _prepared(
    experiment: Experiment, cache: Path, ranks: Ranks
) -> tuple[Prepared, Mapping[str, Mapping[str, float]]]:
    """The data, made by the first rank, then by the first of every other host, if it must be."""
    dataset = experiment.dataset.build()

    def make() -> tuple[Prepared, Mapping[str, Mapping[str, float]]]:
        splits = dataset.splits(cache)
        found = prepare(dataset.schema(), splits, cache / "prepared", experiment.prepare)
        return found, dataset.oracle(cache)

    found = ranks.patiently(make, ranks.first)
    found = ranks.patiently(make, local_rank() == 0 and not ranks.first) or found
    return found or make()


def _fetched(
    experiment: CFExperiment | NodeExperiment | AspectExperiment, cache: Path, ranks: Ranks
) -> None:
    """Files are fetched and made by the first rank, then by the first of every other host."""

    def make() -> None:
        if isinstance(experiment, NodeExperiment):
            experiment.dataset.build().nodes(cache)
            return
        if isinstance(experiment, AspectExperiment):
            aspect_items(experiment, cache)
            return
        dataset = experiment.dataset.build()
        dataset.splits(cache)
        dataset.knowledge(cache)

    ranks.patiently(make, ranks.first)
    ranks.patiently(make, local_rank() == 0 and not ranks.first)


def train_seeds(
    experiment: AnyKind,
    directory: Path,
    options: RunOptions,
    prepared_dir: Path | None,
    oracle: Mapping[str, Mapping[str, float]],
) -> tuple[SeedResult, ...]:
    """Every seed after the other, on this rank. Complete ones are taken as they are.

    Args:
        experiment: What to train on what.
        directory: The run folder.
        options: Of the run.
        prepared_dir: The prepared data, of models that predict clicks.
        oracle: Best reachable metrics by split, where known.
    """
    prepared = None if prepared_dir is None else Prepared.load(prepared_dir)
    threads, was = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if experiment.train.num_threads is not None:
        torch.set_num_threads(experiment.train.num_threads)
    torch.use_deterministic_algorithms(experiment.train.deterministic)
    results: list[SeedResult] = []
    with contextlib.ExitStack() as until:
        until.callback(torch.use_deterministic_algorithms, was)
        until.callback(torch.set_num_threads, threads)
        until.enter_context(watched(Ranks.current()))
        for seed in experiment.seeds:
            folder = directory if len(experiment.seeds) == 1 else directory / f"seed-{seed}"
            storage = None
            if options.storage is not None:
                storage = place_of(options.storage) / folder.relative_to(directory).as_posix()
            if options.resume and _complete(folder, experiment):
                results.append(SeedResult.load(folder))
                continue
            shared: dict[str, Any] = {
                "seed": seed, "directory": folder, "resume": options.resume,
                "show": options.show, "device": _device(options),
                "on_evaluation": options.on_evaluation, "storage": storage,
                "report": options.report,
            }  # fmt: skip
            job: SeedJob
            if isinstance(experiment, Experiment):
                assert prepared is not None
                shared |= {"prepared": prepared, "oracle": oracle}
                job = ClickJob(experiment=experiment, **shared)
            else:
                kind = _graph_job(experiment)
                job = kind(experiment=experiment, cache_dir=Path(options.cache_dir), **shared)
            results.append(job.run())
            if results[-1].fit.interrupted:
                break
    return tuple(results)


def _graph_job(experiment: AnyKind) -> type[GraphJob[Any, Any, Any]]:
    """What trains models of this kind, which are not models of clicks."""
    if isinstance(experiment, NodeExperiment):
        return NodeJob
    return AspectJob if isinstance(experiment, AspectExperiment) else RankingJob


def _device(options: RunOptions) -> str:
    return options.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _complete(folder: Path, experiment: AnyKind) -> bool:
    """Whether a seed is done, and no more or less training was asked for since."""
    done = (folder / "result.json").is_file()
    return done and SeedResult.load(folder).goal == goal_of(experiment.train)


def _summary(result: RunResult) -> dict[str, object]:
    splits = [name for name in ("valid", "test") if result.spread(name)]
    return {
        "seeds": [seed.seed for seed in result.seeds],
        "metrics": {split: result.spread(split) for split in splits},
        "by_seed": {
            str(seed.seed): {"directory": seed.directory.name, "metrics": seed.metrics}
            for seed in result.seeds
        },
        "oracle": {split: dict(values) for split, values in result.oracle.items()},
        "rows_per_second": result.rows_per_second,
        "prepare_seconds": result.prepare_seconds,
    }
