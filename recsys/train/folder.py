"""The run folder: who may write it, and whether a run in it can go on.

    config.yaml, config.json   the resolved experiment
    environment.json           versions, machine, command
    plan.json                  which rank holds which table, where they are sharded
    metrics.jsonl              loss and metrics over time (tensorboard/ beside it)
    checkpoints/               to resume from
    phase-<n>-<name>/          metrics.jsonl and checkpoints/ of trainings before the last one,
                               for compression schemes that train several times
    phases/                    where the latest of several trainings started
    model/                     the artefact
    predictions.parquet        labels and probabilities of valid and test
    plots/, MODEL_CARD.md      for people
    result.json                the final numbers; there once the run is complete

With several seeds these are in ``seed-<n>/`` each, and ``summary.json`` is on top.

Stability: caller
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recsys.config import AnyExperiment, validate
from recsys.config_text import read_mapping
from recsys.errors import ConfigError
from recsys.train.storage import Place

FREE = (
    "name", "seeds", "train.num_epochs", "train.max_steps", "train.early_stop_patience",
    "train.eval_batch_size", "train.log_every", "train.num_threads", "train.checkpoint_every",
    "train.keep_checkpoints", "train.bootstrap_samples", "train.slices", "embedding.sharding",
    "train.background_checkpoints", "train.pipeline",
)  # fmt: skip
"""Settings that may change between stop and resume."""


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keeps other jobs out of a run folder; a job that dies lets go by itself.

    Args:
        run_dir: Made if it is missing.

    Raises:
        ConfigError: Another job works in it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / ".lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise ConfigError(
                f"{run_dir}: another job works in this folder ({owner}). Wait for it, or choose "
                "another folder."
            ) from None
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def check_free(folder: Place, there: bool, resume: bool) -> None:
    """Refuses to start in a folder that holds a run, or to resume in one that holds none.

    Args:
        folder: The run folder, or its copy on storage.
        there: Whether it holds a run.
        resume: Whether a run is to go on.

    Raises:
        ConfigError: See above.
    """
    if not resume and there:
        raise ConfigError(
            f"{folder} holds a run already. Add --resume to go on with it, or choose another "
            "folder."
        )
    if resume and not there:
        raise ConfigError(
            f"{folder}: there is no run to resume (no config.json). Start without resume."
        )


def open_run(run_dir: Path, experiment: AnyExperiment, resume: bool) -> None:
    """Checks that the folder fits what is asked, and writes the configuration.

    Args:
        run_dir: Locked.
        experiment: What to run.
        resume: Go on with what is there.

    Raises:
        ConfigError: Without ``resume`` there is a run already; with it there is none, or one of
            another experiment.
    """
    path = run_dir / "config.json"
    check_free(run_dir, path.exists(), resume)
    if resume:
        _check_same(run_dir, _stored(path, experiment), experiment)
    experiment.save(path)
    experiment.save(run_dir / "config.yaml")


def _stored(path: Path, like: AnyExperiment) -> AnyExperiment:
    return validate(type(like), read_mapping(path), (), str(path))


def _check_same(run_dir: Path, before: AnyExperiment, now: AnyExperiment) -> None:
    one, two = (_flat(e.model_dump(mode="json")) for e in (before, now))
    changed = [
        f"{place} was {one.get(place)!r}, is {two.get(place)!r}"
        for place in sorted(one.keys() | two.keys())
        if one.get(place) != two.get(place) and not place.startswith(FREE)
    ]
    if changed:
        raise ConfigError(
            f"{run_dir}: a resumed run must equal the one that was stopped, but "
            f"{'; '.join(changed)}. Take the changes back, or start in another folder."
        )


def _flat(values: Any, place: str = "") -> dict[str, Any]:
    if not isinstance(values, dict) or not values:
        return {place: values}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{place}.{key}" if place else key)
    return found
