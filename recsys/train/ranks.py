"""What the ranks of one job say to each other. With one process nothing is said.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed import distributed_c10d

from recsys.errors import RecsysError, TrainingError

_Result = TypeVar("_Result")
_NUMBERS = itertools.count()  # of the calls of `patiently`, the same on all ranks
_POLL_S = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Ranks:
    """This process among the processes of a job.

    Args:
        rank: Number of this process.
        world_size: Number of processes.
        group: What they talk over; by default the group of the job. A thread needs its own.
    """

    rank: int = 0
    world_size: int = 1
    group: distributed.ProcessGroup | None = None

    @classmethod
    def current(cls) -> Ranks:
        """From the process group that the caller made, or one process."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    def apart(self) -> Ranks:
        """The same ranks with a group of their own on the CPU, for a thread. Collective."""
        if self.world_size == 1:
            return self
        return dataclasses.replace(self, group=distributed.new_group(backend="gloo"))

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def same_start(self, tensors: Sequence[Tensor]) -> None:
        """Copies the first rank's values to all ranks.

        Args:
            tensors: Dense weights and buffers, equally shaped everywhere.
        """
        if self.world_size > 1:
            for tensor in tensors:
                value = tensor.data
                if value.dtype == torch.int16:  # neither gloo nor nccl knows it
                    value = value.view(torch.uint8)
                distributed.broadcast(value, src=0)

    def check_equal(self, value: int, what: str) -> None:
        """Stops all ranks where they would otherwise wait for each other forever.

        Args:
            value: This rank's number.
            what: What it counts.

        Raises:
            TrainingError: The ranks differ.
        """
        if self.world_size == 1:
            return
        values = self.gather_objects(value)
        if len(set(values)) > 1:
            raise TrainingError(
                f"every rank must have the same number of {what}, got {values} by rank. Use a "
                "loader that pads the last batch with rows of weight 0."
            )

    def gather_objects(self, value: Any) -> list[Any]:
        """The value of every rank, on every rank.

        Args:
            value: Small; it is pickled on the way between our own processes.
        """
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value, group=self.group)
        return values

    def on_first(self, action: Callable[[], _Result]) -> _Result:
        """What the first rank's action gives, on all ranks; an error of it is raised on all.

        Args:
            action: Called on the first rank only. Its result must be picklable.
        """
        if self.world_size == 1:
            return action()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = action()
            except RecsysError as error:
                outcome[1] = error
        distributed.broadcast_object_list(outcome, src=0, group=self.group)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def patiently(self, action: Callable[[], _Result], mine: bool) -> _Result | None:
        """Returns when every rank that has something to do has done it, however long it takes.

        For work that may last longer than ranks wait for each other in a step.

        Args:
            action: What to do.
            mine: Whether this rank does it.

        Returns:
            What the action gave here.

        Raises:
            TrainingError: It failed on another rank.
        """
        if self.world_size == 1:
            return action() if mine else None
        store = distributed_c10d._get_default_store()
        name = f"recsys/patiently/{next(_NUMBERS)}"
        try:
            found = action() if mine else None
        except Exception as error:
            store.set(f"{name}/failed", f"rank {self.rank}: {error}")
            raise
        store.add(f"{name}/done", 1)
        while store.add(f"{name}/done", 0) < self.world_size:
            if store.check([f"{name}/failed"]):
                raise TrainingError(store.get(f"{name}/failed").decode())
            time.sleep(_POLL_S)
        return found

    def mean(self, value: float) -> float:
        """The mean over ranks.

        Args:
            value: This rank's.
        """
        if self.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total)
        return float(total) / self.world_size

    def wait(self) -> None:
        """Returns when every rank is here."""
        if self.world_size > 1:
            distributed.barrier(group=self.group)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank.

        Args:
            flag: This rank's.
        """
        if self.world_size == 1:
            return flag
        value = torch.tensor(float(flag))
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return bool(value)


class GradientAverage:
    """Averages the dense gradients of all ranks in one flat all-reduce.

    Args:
        parameters: The dense parameters, in the same order on every rank.
        ranks: Of the job.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], ranks: Ranks) -> None:
        self._parameters, self._ranks = list(parameters), ranks

    def __call__(self) -> None:
        """Replaces each gradient by the mean over ranks; a missing one counts as zero.

        One that all ranks miss stays missing, as on one rank: a step that does not use a weight
        does not move it.
        """
        if self._ranks.world_size == 1 or not self._parameters:
            return
        missing = [parameter.grad is None for parameter in self._parameters]
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        ranks_with = gradients[0].new_tensor([float(not absent) for absent in missing])
        flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), ranks_with])
        distributed.all_reduce(flat)
        if any(missing):  # else no need to wait for the device
            found = flat[-len(missing) :].tolist()
            for parameter, count in zip(self._parameters, found):
                parameter.grad = parameter.grad if count else None
        flat /= self._ranks.world_size
        start = 0
        for gradient in gradients:
            end = start + gradient.numel()
            gradient.copy_(flat[start:end].view_as(gradient))
            start = end


class WeightSum:
    """Sum of row weights over all ranks, asked for before forward and read after it.

    Args:
        weights: This rank's, or None for 1 a row.
        batch_size: Rows of this rank's batch.
        ranks: Of the job.
        device: Where the loss is.
    """

    def __init__(
        self, weights: Tensor | None, batch_size: int, ranks: Ranks, device: torch.device
    ) -> None:
        self._size = float(batch_size) if weights is None else None
        self._work = None
        if weights is not None:
            self._sum = weights.sum()
        elif ranks.world_size > 1:
            self._sum = torch.tensor(float(batch_size), device=device)
        if ranks.world_size > 1:
            self._size = None
            self._work = distributed.all_reduce(self._sum, async_op=True)

    def value(self) -> Tensor | float:
        """The sum, at least a tiny number so that a batch of padding has loss 0."""
        if self._size is not None:
            return self._size
        if self._work is not None:
            self._work.wait()
        return self._sum.clamp_min(1e-12)
