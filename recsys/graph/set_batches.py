"""Training batches of whole sets: all items of some users, or of some bundles.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import torch
import xxhash
from scipy.sparse import csr_array
from torch import Tensor

from recsys.graph.epoch_loader import EpochLoader
from recsys.graph.interaction_graph import InteractionGraph


@dataclasses.dataclass(frozen=True, slots=True)
class SetBatch:
    """Sets of items, filled up to one length.

    Args:
        user: Number of every set.
        items: Numbers of its items; 0 where ``real`` is not set.
        real: Which places are items of the set.

    Shape:
        - user: (B,) int64
        - items: (B, N) int64
        - real: (B, N) bool

    Example:
        >>> history = csr_array(np.array([[0, 1.0, 1], [1, 0, 0]]))
        >>> batch = SetBatch.of(history, torch.tensor([4, 5]))
        >>> batch.items.tolist(), batch.real.tolist()
        ([[1, 2], [0, 0]], [[True, True], [True, False]])
    """

    user: Tensor
    items: Tensor
    real: Tensor

    @classmethod
    def of(cls, history: csr_array, user: Tensor) -> SetBatch:
        """The items of every row.

        Args:
            history: Sparse (B, I).
            user: Number of every row.
        """
        counts = np.diff(history.indptr)
        real = np.arange(counts.max(initial=0)) < counts[:, None]
        items = np.zeros(real.shape, np.int64)
        items[real] = history.indices
        return cls(user, torch.from_numpy(items), torch.from_numpy(real))

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self.user)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SetBatch:
        """The same batch on another device."""
        return SetBatch(*(tensor.to(device, non_blocking=non_blocking)
                          for tensor in (self.user, self.items, self.real)))  # fmt: skip


class SetLoader(EpochLoader[SetBatch]):
    """Iterates over the batches of one epoch; every ``for`` is one pass over all sets.

    Args:
        graph: Every user with an item is a set.
        batch_size: Sets of a batch on each rank.
        seed: Of the order, and of what is left out of large sets.
        rank: This process.
        world_size: Number of processes that share the sets out.
        max_items: Larger sets are cut to so many items, drawn anew in every epoch.

    Raises:
        ConfigError: A number is out of range.
    """

    unit: ClassVar[str] = "sets"

    def __init__(
        self,
        graph: InteractionGraph,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        max_items: int = 200,
    ) -> None:
        self._matrix, self._max_items = graph.matrix(), max_items
        self._sets = graph.user_degrees().nonzero()[:, 0]
        super().__init__(len(self._sets), batch_size, seed, rank, world_size)
        pairs = torch.stack([graph.user, graph.item]).numpy()
        self._fingerprint = xxhash.xxh64(np.ascontiguousarray(pairs).data).hexdigest()

    def batch(self, epoch: int, start: int, order: Tensor | None) -> SetBatch:
        """See `EpochLoader`."""
        assert order is not None
        users = self._sets[self.share(order, start)]
        made = SetBatch.of(self._matrix[users.numpy()], users)
        if made.items.shape[1] <= self._max_items:
            return made
        keys = torch.rand(made.items.shape, generator=self.generator(epoch, 1, start, self.rank))
        kept = keys.masked_fill(~made.real, 2).argsort(1)[:, : self._max_items]
        return SetBatch(users, made.items.gather(1, kept), made.real.gather(1, kept))

    def identity(self) -> dict[str, Any]:
        """See `EpochLoader`."""
        return {
            "batch_size": self.batch_size, "seed": self.seed, "max_items": self._max_items,
            "data": self._fingerprint,
        }  # fmt: skip
