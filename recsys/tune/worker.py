"""One worker of a study: asks for candidates, turns down what costs too much, trains the rest.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
import statistics
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import optuna
import torch
from optuna.trial import TrialState

from recsys.embeddings.scheme import Dtype
from recsys.errors import BudgetInfeasible, ConfigError, RecsysError
from recsys.train.run import RunOptions, run
from recsys.train.storage import remove
from recsys.train.tracking import read_metrics
from recsys.tune.cost import REASONS, Cost, Costs
from recsys.tune.experiment_kinds import workload_of
from recsys.tune.halving import goes_on, losses
from recsys.tune.objectives import COSTS
from recsys.tune.space import Candidate
from recsys.tune.study import Study, quiet
from recsys.tune.sweep import Sweep
from recsys.tune.twins import add_twin, other_dtypes
from recsys.tune.workload import Judged, Searched

logger = logging.getLogger(__name__)

_DRAWS = 300  # candidates turned down in a row before a worker gives up
_SIGN_S = 30.0  # between two signs of life where others share the storage


_NO_TIME = {"seconds": 0.0, "cpu_seconds": 0.0}


class _Clock:
    """What a trial takes; seconds of the processor are those of this process."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def facts(self) -> dict[str, float]:
        return {
            "seconds": time.perf_counter() - self._wall,
            "cpu_seconds": time.process_time() - self._cpu,
        }


class Lagging(Exception):
    """A trial that others are far ahead of. Never leaves the worker."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker needs to know; it can be sent to another process.

    Args:
        sweep: What to search.
        experiment: Around which experiment.
        directory: Of the study.
        storage: A database, None for the journal in the folder.
        cache_dir: Where data is fetched to and prepared.
        prepared: Folder of the prepared data; None for kinds of models that need none.
        threads: Of torch.
        parallel: Whether there are other workers.
        until: No new trial after this time (seconds since 1970).
        keep_models: Whether models that are not on the front are kept.
    """

    sweep: Sweep
    experiment: Searched
    directory: Path
    storage: str | None
    cache_dir: Path
    prepared: Path | None
    threads: int
    parallel: bool
    until: float | None = None
    keep_models: bool = False

    def open(self, costs: Costs) -> Study:
        """The study.

        Args:
            costs: Of the experiment's data.
        """
        space = self.sweep.space_of(self.experiment, costs.tables(self.experiment))
        return Study(self.directory, self.sweep, space, self.storage, self.parallel)

    def costs(self) -> Costs:
        """Knows what candidates cost."""
        lookup = "lookup_us" in self.sweep.objectives
        workload = workload_of(self.experiment, self.cache_dir, self.prepared)
        return Costs(self.experiment, workload, self.sweep.limits, lookup)


def work(task: Task, name: str | None = None, costs: Costs | None = None) -> int:
    """Trains candidates until there are enough, time is up or a signal comes.

    Args:
        task: What to do.
        name: Of this worker in the study; by default a new one.
        costs: Of the task, where they are known in this process.

    Returns:
        How many were trained here.

    Raises:
        BudgetInfeasible: No candidate keeps the limits.
    """
    torch.set_num_threads(task.threads)
    costs = costs or task.costs()
    study = task.open(costs)
    with quiet(), study.worker(name) as known:
        return Worker(task, study, costs, known).run()


class Worker:
    """See `work`.

    Args:
        task: What to do.
        study: Opened.
        costs: Of candidates.
        name: Of this worker in the study.
    """

    def __init__(self, task: Task, study: Study, costs: Costs, name: str) -> None:
        self._task, self._study, self._costs, self._name = task, study, costs, name
        self._sweep, self._workload = task.sweep, costs.workload

    def run(self) -> int:
        """Trains candidates."""
        done = 0
        while (found := self._next()) is not None:
            trial, candidate, cost, experiment = found
            with _signs(trial, self._study.shared):
                if not self._train(trial, candidate, cost, experiment):
                    break
            done += 1
        return done

    # ------------------------------------------------------------------------------- drawing

    def _next(self) -> tuple[optuna.Trial, Candidate, Cost, Searched] | None:
        """A candidate that keeps the limits."""
        until = self._task.until
        with self._study.alone():
            for _ in range(_DRAWS):
                if self._study.enough() or (until is not None and time.time() > until):
                    return None
                trial = self._study.inner.ask()
                trial.set_user_attr("alive", time.time())
                trial.set_user_attr("home", self._study.home)
                trial.set_user_attr("worker", self._name)  # the last: with it the others count
                found = self._admitted(trial)
                if found is not None:
                    return found
        text = (
            f"{_DRAWS:,} candidates in a row were turned down by `limits`. Raise the limits, or "
            "let the space reach smaller tables."
        )
        if any(row.trained for row in self._study.rows()):
            logger.warning("%s The search ends here.", text)
            return None
        raise BudgetInfeasible(text, self._costs.most_bytes or 0)

    def _admitted(
        self, trial: optuna.Trial
    ) -> tuple[optuna.Trial, Candidate, Cost, Searched] | None:
        """The trial with its cost; None if it was turned down or makes no sense."""
        candidate = self._study.space.ask(trial)
        trial.set_user_attr("settings", _plain(candidate.settings))
        trial.set_user_attr("dtype", candidate.dtype)
        try:
            experiment = candidate.experiment(self._study.space.base)
            cost = self._costs.of(experiment, cast(Dtype, candidate.dtype))
        except RecsysError as error:
            self._failed(trial, error)
            return None
        facts = self._sizes(cost.bytes)
        if cost.lookup_us is not None:
            facts["lookup_us"] = cost.lookup_us
        trial.set_user_attr("facts", facts)
        if self._sweep.limits.any:
            for limit in REASONS:
                trial.set_constraint(limit, cost.refused.get(limit, ("", 0.0))[1])
        if cost.refused:
            why = "; ".join(text for text, _ in cost.refused.values())
            trial.set_user_attr("rejected", why)
            self.tell(trial, None, TrialState.PRUNED)
            return None
        if "folder" not in trial.user_attrs:
            trial.set_user_attr("folder", f"trials/{trial.number:05d}")
        return trial, candidate, cost, experiment

    def one(self, trial: optuna.Trial) -> None:
        """Judges a candidate that somebody else drew.

        Args:
            trial: Running.
        """
        found = self._admitted(trial)
        if found is not None:
            self._train(*found)

    def tell(
        self, trial: optuna.Trial, values: Sequence[float] | None, state: TrialState | None
    ) -> None:
        """Ends a trial.

        Args:
            trial: Running.
            values: By objective, where it is complete.
            state: Else.
        """
        self._study.inner.tell(trial, values, state)

    def _failed(self, trial: optuna.Trial, error: BaseException) -> None:
        trial.set_user_attr("error", f"{type(error).__name__}: {error}")
        self.tell(trial, None, TrialState.FAIL)

    # ------------------------------------------------------------------------------- training

    def _train(
        self, trial: optuna.Trial, candidate: Candidate, cost: Cost, experiment: Searched
    ) -> bool:
        """Trains all seeds and tells the study; False after a signal, to be gone on with."""
        start = _Clock()
        folder = self._task.directory / trial.user_attrs["folder"]
        dtype = cast(Dtype, candidate.dtype)
        dtypes = (dtype, *cast(tuple[Dtype, ...], other_dtypes(self._study.space, dtype)))
        judged: list[Judged] = []
        speed: list[float] = []
        try:
            for number, seed in enumerate(experiment.seeds):
                watch = (
                    None
                    if number
                    else self._watch(trial, cost, experiment, folder / f"seed-{seed}")
                )
                result = self._run(experiment, seed, folder / f"seed-{seed}", watch)
                if result is None:
                    return False
                speed.append(result)
                where = folder / f"seed-{seed}"
                judged.append(self._workload.judge(where, experiment, dtypes))
            if dtype in judged[0].refused:
                raise ConfigError(judged[0].refused[dtype])
        except Lagging as stopped:
            trial.set_user_attr("stopped", str(stopped))
            self._tell_seconds(trial, start)
            self.tell(trial, None, TrialState.PRUNED)
        except (KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:  # noqa: BLE001, said in the study, which goes on
            self._tell_seconds(trial, start)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "error.txt").write_text("".join(traceback.format_exception(error)))
            self._failed(trial, error)
        else:
            for other in dtypes[1:]:
                if not any(other in one.refused for one in judged):
                    self._twin(trial, other, self._facts(judged, other, speed, None))
            self._complete(trial, self._facts(judged, dtype, speed, start))
        self._tidy(folder)
        return True

    def _twin(self, trial: optuna.Trial, dtype: Dtype, facts: dict[str, Any]) -> None:
        """Tells the study what the trial is worth in another dtype, if that keeps the limits."""
        limits = ((self._costs.most_bytes, "bytes"), (self._costs.limits.lookup_us, "lookup_us"))
        if any(most is not None and facts[name] > most for most, name in limits):
            return
        values = [self._value(name, facts) for name in self._sweep.objectives]
        if all(value == value for value in values):
            frozen = self._study.inner._storage.get_trial(trial._trial_id)
            add_twin(self._study, frozen, dtype, values, facts)

    def _complete(self, trial: optuna.Trial, facts: dict[str, Any]) -> None:
        """Tells the study what came out. Tables that training made too large are turned down."""
        trial.set_user_attr("facts", facts)
        most = self._costs.most_bytes
        if most is not None and facts["bytes"] > most:
            text = f"{facts['bytes']:,} bytes after training, and at most {most:,} are allowed"
            trial.set_user_attr("rejected", text)
            self.tell(trial, None, TrialState.PRUNED)
            return
        values = [self._value(name, facts) for name in self._sweep.objectives]
        wrong = [name for name, value in zip(self._sweep.objectives, values) if value != value]
        if wrong:
            self._failed(trial, ValueError(f"{wrong[0]} is not a number"))
        else:
            self.tell(trial, values, None)

    def _run(
        self,
        experiment: Searched,
        seed: int,
        folder: Path,
        watch: Callable[[int, Mapping[str, float]], None] | None,
    ) -> float | None:
        """Rows a second of one training; None after a signal."""
        one = self._workload.trained(experiment, self._task.threads, lean=True)
        one = one.model_copy(update={"seeds": (seed,)})
        again = (folder / "config.json").exists()
        options = RunOptions(
            self._task.cache_dir, resume=again, show="none", on_evaluation=watch, report=False
        )
        result = run(one, folder, options)
        return None if result.interrupted else result.rows_per_second

    def _watch(
        self, trial: optuna.Trial, cost: Cost, experiment: Searched, folder: Path
    ) -> Callable[[int, Mapping[str, float]], None] | None:
        """Told of evaluations in training; raises `Lagging`."""
        pruner, first = self._sweep.pruner, self._sweep.objectives[0]
        if pruner.kind == "none":
            return None
        train = experiment.train
        last = train.num_epochs * train.evaluations_per_epoch  # after which nothing is saved
        if train.epochs_per_evaluation > 1:
            last = math.ceil(train.num_epochs / train.epochs_per_evaluation)

        def told(step: int, metrics: Mapping[str, float]) -> None:
            number = sum(
                line["kind"] == "valid" and line["step"] <= step for line in read_metrics(folder)
            )
            if pruner.kind != "halving":
                trial.report(metrics[first], number)
                if number < last and trial.should_prune():
                    raise Lagging(f"{first} {metrics[first]:.5f} at evaluation {number}")
                return
            if number >= last or not _is_stage(number, pruner.first, pruner.reduction):
                return
            values = [self._value(name, {**_facts_of(cost), "valid": metrics})
                      for name in self._sweep.objectives]  # fmt: skip
            stages = {**trial.user_attrs.get("stages", {}), str(number): values}
            trial.set_user_attr("stages", stages)
            others = self._at_stage(trial.number, str(number))
            mine = losses(values, self._sweep.directions)
            if not goes_on(mine, others, pruner.reduction):
                raise Lagging(f"{first} {metrics[first]:.5f} at evaluation {number}")

        return told

    def _at_stage(self, number: int, stage: str) -> list[tuple[float, ...]]:
        """What the others had at a stage."""
        return [
            losses(other.user_attrs["stages"][stage], self._sweep.directions)
            for other in self._study.inner.get_trials(deepcopy=False)
            if other.number != number
            and "lost" not in other.user_attrs
            and stage in other.user_attrs.get("stages", {})
        ]

    def _value(self, name: str, facts: Mapping[str, Any]) -> float:
        return float(facts[name] if name in COSTS else facts["valid"][name])

    def _facts(
        self, judged: list[Judged], dtype: Dtype, speed: list[float], start: _Clock | None
    ) -> dict[str, Any]:
        """What is known of a trained candidate; without a start, of its twin."""
        sizes = [one.infer_bytes[dtype] for one in judged if dtype in one.infer_bytes]
        lookups = [one.lookups[dtype] for one in judged if dtype in one.lookups]
        means: dict[str, dict[str, float]] = {}
        sds: dict[str, dict[str, float]] = {}
        for split in judged[0].metrics[dtype]:
            for name in judged[0].metrics[dtype][split]:
                values = [one.metrics[dtype][split][name] for one in judged]
                means.setdefault(split, {})[name] = statistics.fmean(values)
                if len(values) > 1:
                    sds.setdefault(split, {})[name] = statistics.stdev(values)
        return {
            **self._sizes(round(statistics.fmean(sizes)) if sizes else 0),
            **({"lookup_us": 1e6 / statistics.median(lookups)} if lookups else {}),
            **means,
            "sd": sds,
            "rows_per_second": statistics.fmean(speed),
            **(_NO_TIME if start is None else start.facts()),
        }

    def _sizes(self, size: int) -> dict[str, float]:
        """Bytes, as such and as a share of the full tables; nothing where there are no tables."""
        if not self._workload.has_tables:
            return {}
        return {"bytes": size, "ratio": size / max(1, self._costs.full_bytes)}

    def _tell_seconds(self, trial: optuna.Trial, start: _Clock) -> None:
        facts = {**trial.user_attrs.get("facts", {}), **start.facts()}
        trial.set_user_attr("facts", facts)

    def _tidy(self, folder: Path) -> None:
        """Removes checkpoints, and models that are not on the front."""
        for seed in folder.glob("seed-*"):
            for part in (seed, *seed.glob("phase-*")):
                for name in ("checkpoints", "phases", "tensorboard"):
                    remove(part / name)
        if self._task.keep_models:
            return
        best = {row.folder for row in self._study.front()}
        for row in self._study.rows():
            if row.folder and row.folder not in best and row.state in ("complete", "stopped"):
                for model in (self._task.directory / row.folder).glob("seed-*/model"):
                    shutil.rmtree(model, ignore_errors=True)


def _facts_of(cost: Cost) -> dict[str, float]:
    facts: dict[str, float] = {"bytes": cost.bytes}
    return facts if cost.lookup_us is None else {**facts, "lookup_us": cost.lookup_us}


def _is_stage(number: int, first: int, reduction: int) -> bool:
    """Whether an evaluation is the first, the third, the ninth, ..."""
    stage = first
    while stage < number:
        stage *= reduction
    return stage == number


def _plain(value: Any) -> Any:
    """As JSON reads it back."""
    return json.loads(json.dumps(value))


class _signs:
    """Writes the time into a trial now and then, for workers of other hosts."""

    def __init__(self, trial: optuna.Trial, wanted: bool) -> None:
        self._trial, self._wanted, self._end = trial, wanted, threading.Event()

    def _beat(self) -> None:
        while not self._end.wait(_SIGN_S):
            self._trial.set_user_attr("alive", time.time())

    def __enter__(self) -> None:
        if self._wanted:
            self._thread = threading.Thread(target=self._beat, daemon=True)
            self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._end.set()
        if self._wanted:
            self._thread.join()
