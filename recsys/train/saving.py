"""What a checkpoint of a training holds: weights, optimizers, generators, the position.

Stability: internal
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from recsys.embeddings.parts import TensorPart
from recsys.errors import CheckpointError
from recsys.fit_config import FitConfig
from recsys.train.background import BackgroundWriter
from recsys.train.checkpoint import Checkpoint, CheckpointStore
from recsys.train.ranks import Ranks
from recsys.train.state import random_state, set_random_state
from recsys.train.step import TrainStep


class TrainingCheckpoints:
    """Saves and restores a training.

    Args:
        store: Where to.
        step: Has the model and the optimizers.
        ranks: Of the job.
        background: Write a copy while training goes on; with one rank it is not worth a copy.
    """

    def __init__(
        self, store: CheckpointStore, step: TrainStep, ranks: Ranks, background: bool
    ) -> None:
        self.store, self._step, self._ranks = store, step, ranks
        self._writer: BackgroundWriter | None = None
        if ranks.world_size > 1 and background:
            self._writer = BackgroundWriter(store, ranks)

    def save(self, number: int, position: Mapping[str, Any], best: bool) -> None:
        """Every rank writes its part of the tables, the first one the rest.

        Args:
            number: The step.
            position: JSON values.
            best: Whether it is the best so far.

        Raises:
            CheckpointError: It (or the one before, in the background) could not be written.
        """
        step, model = self._step, self._step.model
        random = self._ranks.gather_objects(random_state(step.device))
        apart = self._ranks.world_size > 1 and bool(model.embeddings.groups)
        parts: dict[str, list[TensorPart]] = {}
        states: dict[str, Tensor] = {}
        if apart and step.tables is not None:
            rows = (
                dataclasses.replace(part, name=f"embeddings.{part.name}")
                for part in model.embeddings.parts()
            )
            parts = {"model": list(rows), "tables": step.tables.parts()}
            states = step.tables.rest()
        elif step.tables is not None:
            states = step.tables.state_dict()
        with model.embeddings.tables_apart() if apart else contextlib.nullcontext():
            weights = model.state_dict()
        tensors: dict[str, dict[str, Tensor]] = {
            "model": weights,
            "optimizer": step.dense.state_dict(),
            "tables": states,
            "random": {
                f"{rank}.{name}": value
                for rank, state in enumerate(random)
                for name, value in state.items()
            },
        }
        state = {
            **position,
            "world_size": self._ranks.world_size,
            "config": step.config.model_dump(mode="json"),
        }
        if self._writer is not None:
            state = json.loads(json.dumps(state))  # of this step, whatever comes
            self._writer.save(number, tensors, state, best=best, parts=parts)
        else:
            self.store.save(number, tensors, state, best=best, parts=parts, ranks=self._ranks)

    def wait(self) -> None:
        """Returns when every checkpoint is on disk.

        Raises:
            CheckpointError: One could not be written.
        """
        if self._writer is not None:
            self._writer.wait()

    def restore(self) -> Checkpoint:
        """Puts weights, optimizers and generators back where the last checkpoint has them.

        A rank that the checkpoint does not know keeps its generators.

        Returns:
            The checkpoint, for the position.

        Raises:
            CheckpointError: There is none, or it is of another job.
        """
        found, step = self.store.load("last", self._ranks), self._step
        _check_same_job(found, step.config)
        step.model.load_state_dict(found.tensors["model"])
        step.dense.load_state_dict(found.tensors["optimizer"])
        if step.tables is not None:
            step.tables.load_state_dict(found.tensors["tables"])
        mine = f"{self._ranks.rank}."
        random = found.tensors["random"]
        random = {k.removeprefix(mine): v for k, v in random.items() if k.startswith(mine)}
        if random:
            set_random_state(random, step.device)
        return found


def _check_same_job(found: Checkpoint, config: FitConfig) -> None:
    """What decides where in the data a run is must not change in the middle of an epoch."""
    if not found.state["progress"]["batch"]:
        return
    before, now = found.state["config"], config.model_dump(mode="json")
    for name in ("batch_size", "shuffle", "sampling"):
        if before.get(name) != now.get(name):
            raise CheckpointError(
                f"{found.path}: the run was stopped within an epoch with {name}={before[name]} "
                f"and cannot go on with {name}={now[name]}. Resume with the value it had."
            )
