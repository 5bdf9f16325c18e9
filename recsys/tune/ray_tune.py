"""A search on a Ray cluster: workers as Ray tasks, or trials by Ray Tune.

The only door to Ray Tune. The study is the same as without Ray: by default the tasks are the
workers of `recsys.tune.worker` and Optuna's storage is all they share. The folder of the study must
lie on a disk that all hosts see; with a database (``storage``) only runs and reports lie there.

Stability: experimental
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import ray
from optuna.trial import TrialState
from ray import tune
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from recsys.errors import RecsysError
from recsys.tune.experiment_kinds import prepared_folder
from recsys.tune.samplers import Seeded
from recsys.tune.space import Space
from recsys.tune.study import Study, quiet
from recsys.tune.worker import Task, Worker, work

_NUMBER = "recsys_trial"


def on_cluster(address: str | None = None, cpus_per_worker: float = 1.0) -> Callable[..., None]:
    """Workers as Ray tasks, for `recsys.tune.tune.TuneOptions.start`.

    A task that dies with its host is started anew, and takes up the trial that it was at.

    Args:
        address: Of a running cluster, or ``auto``; None starts one on this machine.
        cpus_per_worker: Cores each worker reserves; it trains with as many threads.
    """

    def start(task: Task, workers: int) -> None:
        task = _for_hosts(task, cpus_per_worker)
        remote = ray.remote(num_cpus=cpus_per_worker, max_retries=3)(_work)
        with _cluster(address):
            try:
                ray.get([remote.remote(task) for _ in range(workers)])
            except ray.exceptions.RayTaskError as error:
                cause = error.as_instanceof_cause()
                if isinstance(cause, RecsysError):
                    raise type(error.cause)(*error.cause.args) from None
                raise

    return start


def with_ray_tune(address: str | None = None, cpus_per_worker: float = 1.0) -> Callable[..., None]:
    """Trials by Ray Tune with its ``OptunaSearch``, for `recsys.tune.tune.TuneOptions.start`.

    For clusters that run everything by Ray Tune. Its trials are those of the study. Limits are kept
    (a candidate that is turned down is an error to Ray Tune, and costs a trial); pruners are not
    used.

    Args:
        address: Of a running cluster, or ``auto``; None starts one on this machine.
        cpus_per_worker: Cores each trial reserves.
    """

    def start(task: Task, workers: int) -> None:
        task = _for_hosts(task, cpus_per_worker)
        study = task.open(task.costs())
        names, directions = list(task.sweep.objectives), task.sweep.directions
        search = OptunaSearch(
            space=_Drawn(study.space),
            metric=names,
            mode=["max" if direction == "maximize" else "min" for direction in directions],
            sampler=Seeded(task.sweep.sampler, study.space, parallel=True),
            storage=study.inner._storage,
            study_name=study.name,
        )
        left = study.goal - sum(row.trained for row in study.rows())
        if left <= 0:
            return
        with _cluster(address), quiet():
            tune.run(
                tune.with_resources(_trainable, {"cpu": cpus_per_worker}),
                config={"task": task},
                search_alg=ConcurrencyLimiter(search, max_concurrent=workers),
                num_samples=left,
                storage_path=str(task.directory / "ray"),
                name="tune",
                raise_on_failed_trial=False,
                verbose=0,
            )

    return start


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """A Ray cluster, ended if it was started here."""
    if ray.is_initialized():
        yield
        return
    ray.init(address=address or "local", include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def _for_hosts(task: Task, cpus: float) -> Task:
    """With absolute paths, and threads for the cores that a worker reserves."""
    return dataclasses.replace(
        task,
        directory=task.directory.resolve(),
        cache_dir=task.cache_dir.resolve(),
        threads=task.experiment.train.num_threads or max(1, int(cpus)),
    )


def _work(task: Task) -> int:
    """A worker on a host that may have to prepare the data first."""
    task = _at_home(task)
    task.open(task.costs()).take_up()  # what this task was at when its host was lost
    return work(task)


def _at_home(task: Task) -> Task:
    """With the data of this host."""
    if task.prepared is None or task.prepared.is_dir():
        return task
    found = prepared_folder(task.experiment, Path(task.cache_dir))
    return dataclasses.replace(task, prepared=found)


class _Drawn:
    """What ``OptunaSearch`` calls to draw: our space, and the number of the trial."""

    def __init__(self, space: Space) -> None:
        self._space = space

    def __call__(self, trial: Any) -> dict[str, int]:
        """Asks the trial; Ray Tune keeps what it answered, and this number."""
        self._space.ask(trial)
        return {_NUMBER: trial.number}


class _Told(Worker):
    """Trains a candidate of Ray Tune, which tells the study itself."""

    values: Sequence[float] | None = None

    def tell(
        self, trial: optuna.Trial, values: Sequence[float] | None, state: TrialState | None
    ) -> None:
        """Keeps the values."""
        del trial, state
        self.values = values


def _trainable(config: dict[str, Any]) -> None:
    """One trial of Ray Tune."""
    task = _at_home(config["task"])
    costs = task.costs()
    study: Study = task.open(costs)
    inner = study.inner.get_trials(deepcopy=False)[config[_NUMBER]]
    with quiet(), study.worker() as name:
        trial = optuna.Trial(study.inner, inner._trial_id)
        trial.set_user_attr("worker", name)
        worker = _Told(task, study, costs, name)
        worker.one(trial)
        if worker.values is None:
            attrs = trial.user_attrs
            why = attrs.get("rejected") or attrs.get("error") or "stopped"
            raise RuntimeError(f"trial {inner.number}: {why}")
        tune.report(dict(zip(task.sweep.objectives, worker.values, strict=True)))
