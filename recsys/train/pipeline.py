"""How batches go through the step: one after the other, or with the next ones under way.

Stability: internal
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor

from recsys.errors import ConfigError
from recsys.train.step import TrainStep
from recsys.types import Batch


class Pipeline(Protocol):
    """Trains batches."""

    def run(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        """Gives each batch, on the device, when it has been trained, with its loss."""
        ...


class OneByOne:
    """Each batch is taken when the one before has been trained.

    Args:
        train: Trains on a batch, gives its loss.
        step: Says where the model is.
    """

    def __init__(self, train: Callable[[Batch], Tensor], step: TrainStep) -> None:
        self._train, self._device = train, step.device

    def run(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        """See `Pipeline`."""
        for batch in batches:
            if self._device.type != "cpu":
                batch = batch.to(self._device, non_blocking=True)
            yield batch, self._train(batch)


class Stretch:
    """Batches from here to the next stop. What was taken is trained, so that positions agree.

    Args:
        batches: Of the epoch.
        count: How many at most.
    """

    def __init__(self, batches: Iterator[Batch], count: int) -> None:
        self._batches, self._left = batches, count

    def __iter__(self) -> Iterator[Batch]:
        """Itself."""
        return self

    def __next__(self) -> Batch:
        """The next batch."""
        if not self._left:
            raise StopIteration
        self._left -= 1
        return next(self._batches)

    def end(self) -> None:
        """No more batches than those that were taken."""
        self._left = 0


def sparse_dist(
    asked: str, step: TrainStep, forward: Callable[[Batch], Tensor], alternates: bool
) -> Pipeline | None:
    """The pipeline that exchanges the next batch's indices while a batch is trained.

    Args:
        asked: ``train.pipeline``.
        step: On whose model.
        forward: The loss of a batch, with its graph.
        alternates: Whether some batches train something else than the step does.

    Returns:
        None where it is not asked for, and with ``auto`` on CPU, or where it cannot be.

    Raises:
        ConfigError: ``sparse_dist`` cannot be.
    """
    if asked == "none" or (asked == "auto" and step.device.type == "cpu"):
        return None
    embeddings = step.model.embeddings
    reason = ""
    if step.ranks.world_size == 1 or step.tables is None or not embeddings.store.tables:
        reason = "there is one rank, or no table to share out, and nothing to exchange"
    elif alternates:
        reason = "this training changes between batches for weights and batches for the structure"
    elif not embeddings.encodes_ahead:
        reason = "a compressed table chooses rows by what the batch before taught it"
    if not reason:
        module = importlib.import_module("recsys.embeddings.torchrec_pipeline")
        return module.SparseDistPipeline(embeddings, forward, step.update, step.device)
    if asked == "sparse_dist":
        raise ConfigError(
            f"train.pipeline=sparse_dist cannot be: {reason}. Set train.pipeline to auto or none."
        )
    return None
