"""Checkpoints that are written while training goes on.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from recsys.embeddings.parts import TensorPart
from recsys.train.checkpoint import CheckpointStore
from recsys.train.ranks import Ranks
from recsys.train.storage import Place


class BackgroundWriter:
    """Copies what is to be saved, and saves the copy in a thread.

    One checkpoint is written at a time: the next one waits for it. A checkpoint that could not be
    written is an error of the next call.

    Args:
        store: Where to.
        ranks: Of the job. The threads of all ranks talk over a group of their own.
    """

    def __init__(self, store: CheckpointStore, ranks: Ranks) -> None:
        self._store, self._ranks = store, ranks.apart()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="recsys-checkpoint")
        self._running: Future[Place] | None = None

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        *,
        best: bool,
        parts: Mapping[str, Sequence[TensorPart]],
    ) -> None:
        """Starts to write a checkpoint. Every rank calls it.

        Args:
            step: As in `CheckpointStore.save`, like the others.
            tensors: Copied.
            state: JSON values that nobody changes any more.
            best: Whether it is the best so far.
            parts: Copied.

        Raises:
            CheckpointError: The one before could not be written.
        """
        self.wait()
        copies = {group: {n: _copy(t) for n, t in mine.items()} for group, mine in tensors.items()}
        blocks = {
            group: [dataclasses.replace(part, values=_copy(part.values)) for part in mine]
            for group, mine in parts.items()
        }
        self._running = self._pool.submit(
            self._store.save, step, copies, state, best=best, parts=blocks, ranks=self._ranks
        )

    def wait(self) -> None:
        """Returns when everything is written.

        Raises:
            CheckpointError: It could not be.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()


def _copy(tensor: Tensor) -> Tensor:
    """On the CPU, sharing nothing."""
    return tensor.detach().to("cpu", copy=True)
