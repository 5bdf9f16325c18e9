"""What loaders of training batches of a graph share: epochs, ranks, an exact position.

Stability: internal
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from recsys.errors import CheckpointError, ConfigError

B = TypeVar("B")


class EpochLoader(abc.ABC, Generic[B]):
    """Batches of one epoch after the other, each a function of seed, epoch, place and rank.

    An epoch has ``total`` examples. Ranks share every step's ``batch_size * world_size`` examples,
    so all have equally many batches.

    Args:
        total: Examples of an epoch.
        batch_size: Of a batch on each rank.
        seed: Of the order and of all draws, 0 or more.
        rank: This process.
        world_size: Number of processes that share the examples out.

    Raises:
        ConfigError: A number is out of range.
    """

    unit: ClassVar[str]
    """What examples are called in a position."""

    def __init__(self, total: int, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} is not in 0 .. {world_size - 1} (world_size - 1).")
        if batch_size < 1 or seed < 0:
            raise ConfigError(
                f"expected a batch_size of 1 or more and a seed of 0 or more, got {batch_size} "
                f"and {seed}."
            )
        self.total, self.batch_size, self.seed = total, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self._epoch, self._done = 0, 0  # done: examples of the epoch that all ranks have had
        self._resumes = False  # whether the next pass begins at the position

    @abc.abstractmethod
    def batch(self, epoch: int, start: int, order: Tensor | None) -> B:
        """This rank's part of a step.

        Args:
            epoch: From 0.
            start: Example of the epoch that the step begins with.
            order: Of the epoch.
        """

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What a position depends on, as JSON values."""

    def order(self, epoch: int) -> Tensor | None:
        """The examples in the order of an epoch, the same on every rank; None where all are drawn.

        Args:
            epoch: From 0.
        """
        return torch.randperm(self.total, generator=self.generator(epoch))

    @property
    def step(self) -> int:
        """Examples of all ranks' batches together."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on every rank."""
        return -(-self.total // self.step)

    def batches_left(self) -> int:
        """Batches from the position to the end of the epoch, the same on every rank."""
        return -(-max(0, self.total - self._done) // self.step)

    def __iter__(self) -> Iterator[B]:
        if not self._resumes:
            self._done = 0
        self._resumes = False
        epoch = self._epoch
        order = self.order(epoch) if self._done < self.total else None
        while self._done < self.total:
            start, self._done = self._done, self._done + self.step
            yield self.batch(epoch, start, order)
        self._epoch, self._done = epoch + 1, 0

    def share(self, order: Tensor, start: int) -> Tensor:
        """This rank's examples of the step that begins with one; each rank has one at least.

        Args:
            order: Of the epoch.
            start: A place in it.
        """
        mine = order[start : start + self.step]
        if len(mine) < self.world_size:
            more = torch.arange(self.world_size - len(mine)) % len(order)
            mine = torch.cat([mine, order[more]])
        return mine[self.rank :: self.world_size]

    def generator(self, *place: int) -> torch.Generator:
        """Of all draws at one place.

        Args:
            place: Numbers from 0.
        """
        return generator_of(self.seed, *place)

    # -------------------------------------------------------------------------------- position

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next pass; a position loaded for that epoch is kept.

        Args:
            epoch: From 0. Without a call every complete pass moves on by one.
        """
        if epoch != self._epoch:
            self._epoch, self._done, self._resumes = epoch, 0, False

    def state_dict(self) -> dict[str, Any]:
        """The position: epoch, examples that all ranks have had, and what these depend on."""
        return {"epoch": self._epoch, self.unit: self._done, **self.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next pass begin after the batches that had been delivered.

        Args:
            state: From ``state_dict`` of a loader of the same data and options. Where the number
                of ranks differs, the ranks there are now share out the examples that are left.

        Raises:
            CheckpointError: The data or the options differ, so the position has no meaning.
        """
        for name, mine in self.identity().items():
            if state.get(name) != mine:
                raise CheckpointError(
                    f"the loader's position was saved with {name}={state.get(name)!r}, but now "
                    f"{name}={mine!r}. Resume with the same data and options, or start anew."
                )
        self._epoch, self._done, self._resumes = int(state["epoch"]), int(state[self.unit]), True


def generator_of(*place: int) -> torch.Generator:
    """A generator whose draws depend on some numbers alone, say a seed and an epoch.

    Args:
        place: Numbers from 0.
    """
    words = np.random.SeedSequence(place).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


class InTurn:
    """In every epoch all batches of one loader, then all of the next: alternating optimization.

    Args:
        loaders: Two or more, of the same ranks.

    Raises:
        ConfigError: There are fewer than two.
    """

    def __init__(self, loaders: Sequence[EpochLoader[Any]]) -> None:
        if len(loaders) < 2:
            raise ConfigError(f"expected two or more loaders to take in turn, got {len(loaders)}.")
        self.loaders = tuple(loaders)
        self._epoch, self._turn, self._resumes = 0, 0, False

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on every rank."""
        return sum(len(loader) for loader in self.loaders)

    def batches_left(self) -> int:
        """Batches from the position to the end of the epoch, the same on every rank."""
        later = sum(len(loader) for loader in self.loaders[self._turn + 1 :])
        return self.loaders[self._turn].batches_left() + later

    def __iter__(self) -> Iterator[Any]:
        first = self._turn if self._resumes else 0
        resumes, self._resumes, epoch = self._resumes, False, self._epoch
        for turn in range(first, len(self.loaders)):
            self._turn, loader = turn, self.loaders[turn]
            if not (resumes and turn == first):
                loader.set_epoch(epoch)
            yield from loader
        self._epoch, self._turn = epoch + 1, 0
        self.loaders[0].set_epoch(epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next pass; a position loaded for that epoch is kept.

        Args:
            epoch: From 0.
        """
        if epoch != self._epoch:
            self._epoch, self._turn, self._resumes = epoch, 0, False
            self.loaders[0].set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The position: whose turn it is, and where that loader is."""
        position = self.loaders[self._turn].state_dict()
        others = {str(n): loader.identity() for n, loader in enumerate(self.loaders)}
        return {"epoch": self._epoch, "turn": self._turn, "position": position, "data": others}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next pass begin after the batches that had been delivered.

        Args:
            state: From ``state_dict`` of loaders of the same data and options.

        Raises:
            CheckpointError: The position is that of other loaders.
        """
        turn, data = state.get("turn", -1), state.get("data", {})
        mine = {str(n): loader.identity() for n, loader in enumerate(self.loaders)}
        if not 0 <= turn < len(self.loaders) or data != mine:
            raise CheckpointError(
                "the position is that of other loaders, data or options. Resume with the same, or "
                "start anew."
            )
        self._epoch, self._turn, self._resumes = int(state["epoch"]), int(turn), True
        self.loaders[turn].load_state_dict(state["position"])
