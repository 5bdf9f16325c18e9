"""The job on a Ray cluster: Ray starts the ranks, watches them and starts them again.

The only door to Ray Train. Each Ray worker runs `recsys.train.run.run` as one rank; tables,
checkpoints and resuming are those of any other start. The run folder must lie on a disk that all
workers see, or `RunOptions.storage` names storage that they reach; what Ray keeps itself are
metrics and pointers to our checkpoints.

Stability: experimental
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from recsys.aspect_config import AspectExperiment
from recsys.cf_config import AnyKind, kind_of
from recsys.errors import ConfigError, RecsysError, TrainingError
from recsys.folders import write_json
from recsys.node_config import NodeExperiment
from recsys.train.folder import locked
from recsys.train.ranks import Ranks
from recsys.train.run import RunOptions, run
from recsys.train.seed_result import SeedResult
from recsys.train.storage import Mirror, Place, place_of, write_text

_JOB, _FAILURE = "ray.json", "ray-failure.json"
_LOCK_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class RayOptions:
    """What to ask of a cluster.

    Args:
        workers: Ranks, or the least and the most: then a start (also one after a failure) takes as
            many as the cluster has room for, and goes on from the last checkpoint with them.
        address: Of a running cluster, or ``auto``; None starts one on this machine for the job.
        cpus_per_worker: Cores each worker reserves.
        gpu: One GPU a worker.
        records: Where Ray keeps metrics and pointers, a path or a URI that pyarrow knows; by
            default ``ray/`` in the run folder, or on ``storage``.
        max_failures: How often all ranks are started anew.
        resize_s: Seconds between two looks whether there is room for more workers, with a range.
    """

    workers: int | tuple[int, int] = 2
    address: str | None = None
    cpus_per_worker: float = 1.0
    gpu: bool = False
    records: str | None = None
    max_failures: int = 3
    resize_s: float = 60.0


def parse_workers(text: str) -> int | tuple[int, int]:
    """A number of workers, or ``least:most``.

    Args:
        text: Say ``4`` or ``2:8``.

    Raises:
        ConfigError: It is neither.
    """
    numbers = text.split(":")
    if len(numbers) > 2 or not all(number.strip().isdecimal() for number in numbers):
        raise ConfigError(f"workers {text!r}: expected a number, or the least and the most, 2:8.")
    found = tuple(int(number) for number in numbers)
    return (found[0], found[1]) if len(found) == 2 else found[0]


def run_on_ray(
    experiment: AnyKind,
    run_dir: Path | str,
    options: RunOptions | None = None,
    cluster: RayOptions | None = None,
) -> SeedResult:
    """Trains one seed on the workers of a Ray cluster.

    A worker that dies costs the steps since the last checkpoint. An error of recsys itself (bad
    data, a loss that is not finite) is not tried again: it would come back.

    Args:
        experiment: What to train on what, with one seed.
        run_dir: On storage that all workers see.
        options: Cache, resume, device, storage. The cache need not be shared.
        cluster: How many workers, where.

    Raises:
        ConfigError: Several seeds or ranks, or a senseless number of workers.
        TrainingError: The job failed more often than ``max_failures``, or with an error of recsys.
    """
    options, cluster = options or RunOptions(), cluster or RayOptions()
    directory = Path(run_dir).resolve()
    base = directory if options.storage is None else place_of(options.storage)
    _check(experiment, options, cluster)
    job = uuid.uuid4().hex
    trainer = TorchTrainer(
        _loop,
        train_loop_config={
            "experiment": experiment.model_dump(mode="json"),
            "run_dir": str(directory),
            "cache_dir": str(Path(options.cache_dir).resolve()),
            "storage": None if options.storage is None else str(base),
            "resume": options.resume,
            "show": options.show,
            "device": options.device or ("cuda" if cluster.gpu else "cpu"),
            "job": job,
        },
        torch_config=TorchConfig(
            backend=None if cluster.gpu else "gloo", timeout_s=math.ceil(options.timeout_s)
        ),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers,
            elastic_resize_monitor_interval_s=cluster.resize_s,
            use_gpu=cluster.gpu,
            resources_per_worker={"CPU": cluster.cpus_per_worker},
        ),
        run_config=RunConfig(
            name=f"recsys-{job[:8]}",
            storage_path=cluster.records or str(base / "ray"),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    started = not ray.is_initialized()
    if started:
        ray.init(address=cluster.address or "local", include_dashboard=False)
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise TrainingError(
            f"the job failed more than {cluster.max_failures} times. Last: {_cause(error)} "
            f"Checkpoints are kept in {base}; run it again with resume to go on."
        ) from error
    finally:
        if started:
            ray.shutdown()
    failure = _failure(base, job)
    if failure:
        raise TrainingError(f"on rank {failure['rank']} of {failure['ranks']}: {failure['error']}")
    if options.storage is not None:
        Mirror(directory, base).pull()
    return SeedResult.load(directory)


def _check(experiment: AnyKind, options: RunOptions, cluster: RayOptions) -> None:
    if len(experiment.seeds) > 1:
        raise ConfigError(
            f"a Ray job trains one seed, got {list(experiment.seeds)}. Submit one job a seed, or "
            "train several seeds without Ray."
        )
    if isinstance(experiment, NodeExperiment | AspectExperiment):
        kind = (
            "classifier of nodes" if isinstance(experiment, NodeExperiment) else "model of aspects"
        )
        raise ConfigError(f"a {kind} is trained in one process. Train it without Ray (--ray).")
    if options.ranks > 1:
        raise ConfigError(
            f"with Ray every worker is a rank, got ranks={options.ranks}. Set `workers` instead."
        )
    least, most = cluster.workers if isinstance(cluster.workers, tuple) else (cluster.workers,) * 2
    if not 1 <= least <= most:
        raise ConfigError(
            f"workers must be at least 1, and the least no more than the most, got "
            f"{cluster.workers}."
        )


def _cause(error: Exception) -> str:
    """What happened to the first worker, in a line."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    for rank, failure in sorted(failures.items()):
        lines = str(failure).strip().splitlines()
        return f"rank {rank}: {lines[-1] if lines else type(failure).__name__}"
    return str(error).strip().splitlines()[0]


# ------------------------------------------------------------------------------------ a worker


def _loop(config: dict[str, Any]) -> None:
    """Body of every worker; Ray has made the process group."""
    directory, job, ranks = Path(config["run_dir"]), config["job"], Ranks.current()
    base = directory if config["storage"] is None else place_of(config["storage"])
    again = ranks.on_first(lambda: _enter(directory, base, job))
    if ranks.on_first(lambda: _failure(base, job)):
        return  # the driver says it
    options = RunOptions(
        cache_dir=Path(config["cache_dir"]),
        resume=config["resume"] or again,
        show=config["show"],
        device=config["device"],
        on_evaluation=_Report(str(base), ranks),
        storage=config["storage"],
    )
    try:
        run(kind_of(config["experiment"]).parse(config["experiment"]), directory, options)
    except RecsysError as error:
        notes = " ".join(getattr(error, "__notes__", ()))
        text = f"{type(error).__name__}: {error} {notes}".strip()
        place = {"rank": ranks.rank, "ranks": ranks.world_size}
        write_text(base / _FAILURE, json.dumps({"job": job, **place, "error": text}))
        raise


def _enter(directory: Path, base: Place, job: str) -> bool:
    """Whether this job has been here before. Then waits for its dead ranks to let go."""
    path = base / _JOB
    same = path.is_file() and json.loads(path.read_text())["job"] == job
    end = time.monotonic() + (_LOCK_S if same else 0.0)
    while True:
        try:
            with locked(directory):
                base.mkdir(parents=True, exist_ok=True)
                write_text(path, json.dumps({"job": job}))
                return same and (base / "config.json").is_file()
        except ConfigError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.5)


def _failure(base: Place, job: str) -> dict[str, Any] | None:
    """The error of recsys that ended this job, if one did."""
    path = base / _FAILURE
    found = json.loads(path.read_text()) if path.is_file() else {}
    return found if found.get("job") == job else None


@dataclasses.dataclass(frozen=True, slots=True)
class _Report:
    """Tells Ray about an evaluation, with a pointer to our checkpoints."""

    run: str
    ranks: Ranks

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        content = {"step": step, **metrics}
        if not self.ranks.first:
            ray.train.report(content)
            return
        with tempfile.TemporaryDirectory(prefix="recsys-") as folder:
            write_json(Path(folder) / "pointer.json", {"run_dir": self.run, **content})
            ray.train.report(content, checkpoint=Checkpoint.from_directory(folder))
