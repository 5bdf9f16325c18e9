"""Batches of training pairs with negatives.

A batch is a pure function of the seed, the epoch, its place in the epoch and the rank, so a
position is a few numbers and resuming gives the very same batches.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from recsys.errors import CheckpointError, ConfigError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.negatives import NegativeSampler, SamplingConfig, Scorer
from recsys.types import PairBatch


class PairLoader:
    """Iterates over the batches of one epoch; every ``for`` is one pass.

    An epoch has as many pairs as the graph has edges. Ranks share every step's
    ``batch_size * world_size`` pairs, so all have equally many batches; of the last step, which is
    short, their parts differ by one pair at most. Where it has fewer pairs than there are ranks,
    the first pairs of the epoch are used once more.

    Args:
        graph: The training pairs, on the CPU.
        config: Which pairs and negatives.
        batch_size: Pairs of a batch on each rank.
        seed: Of the order and of all draws, 0 or more.
        rank: This process.
        world_size: Number of processes that share the pairs out.
        scorer: The model's scores, for hard negatives: users (B,) and items (B, P) to (B, P).
            Those negatives depend on the model too, not only on the position.

    Raises:
        ConfigError: A number is out of range, or there is no scorer for hard negatives.
        DataError: A user has seen all items, see `NegativeSampler`.

    Source:
        ``by="user"``: He et al., "LightGCN", SIGIR 2020, as in LightGCN-PyTorch.

    Example:
        >>> graph = InteractionGraph(2, 3, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]))
        >>> for batch in PairLoader(graph, batch_size=2):
        ...     print(batch.user.tolist(), batch.item.tolist(), batch.negatives.tolist())
        [0, 0] [1, 0] [[2], [2]]
        [1] [2] [[1]]
    """

    def __init__(
        self,
        graph: InteractionGraph,
        config: SamplingConfig | None = None,
        batch_size: int = 2048,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        scorer: Scorer | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} is not in 0 .. {world_size - 1} (world_size - 1).")
        if batch_size < 1 or seed < 0:
            raise ConfigError(
                f"expected a batch_size of 1 or more and a seed of 0 or more, got {batch_size} "
                f"and {seed}."
            )
        self.graph, self.config = graph, config or SamplingConfig()
        self.batch_size, self.seed = batch_size, seed
        self.rank, self.world_size = rank, world_size
        self._sampler = NegativeSampler(graph, self.config, scorer)
        self._degrees, self._offsets = self._sampler.known.degrees, self._sampler.known.offsets
        self._active = self._degrees.nonzero()[:, 0]
        self._fingerprint = xxhash.xxh64(self._sampler.known.keys.numpy().data).hexdigest()
        self._epoch, self._done = 0, 0  # done: pairs of the epoch that all ranks have had
        self._resumes = False  # whether the next pass begins at the position

    @property
    def _step(self) -> int:
        """Pairs of all ranks' batches together."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on every rank."""
        return -(-self.graph.num_edges // self._step)

    def batches_left(self) -> int:
        """Batches from the position to the end of the epoch, the same on every rank."""
        return -(-max(0, self.graph.num_edges - self._done) // self._step)

    def __iter__(self) -> Iterator[PairBatch]:
        if not self._resumes:
            self._done = 0
        self._resumes = False
        epoch, total = self._epoch, self.graph.num_edges
        order = self._order(epoch) if self.config.by == "edge" and self._done < total else None
        while self._done < total:
            start, self._done = self._done, self._done + self._step
            yield self._batch(epoch, start, order)
        self._epoch, self._done = epoch + 1, 0

    def _order(self, epoch: int) -> Tensor:
        """The pairs in the order of an epoch, the same on every rank."""
        generator = self._generator(epoch)
        return torch.randperm(self.graph.num_edges, generator=generator)

    def _batch(self, epoch: int, start: int, order: Tensor | None) -> PairBatch:
        """This rank's part of the step that begins with pair ``start`` of the epoch."""
        generator = self._generator(epoch, start, self.rank)
        end = min(start + self._step, self.graph.num_edges)
        if order is None:
            places = range(start + self.rank, max(end, start + self.world_size), self.world_size)
            return self._sampler.complete(*self._of_users(len(places), generator), generator)
        pairs = order[start:end]
        if len(pairs) < self.world_size:
            more = torch.arange(self.world_size - len(pairs)) % len(order)
            pairs = torch.cat([pairs, order[more]])
        mine = pairs[self.rank :: self.world_size]
        user, item = (t.index_select(0, mine) for t in (self.graph.user, self.graph.item))
        return self._sampler.complete(user, item, generator)

    def _of_users(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Users drawn uniformly, and one item of each."""
        at = torch.randint(len(self._active), (count,), generator=generator)
        user = self._active.index_select(0, at)
        degrees = self._degrees.index_select(0, user)
        draws = torch.rand(count, dtype=torch.float64, generator=generator)
        within = torch.minimum((draws * degrees).long(), degrees - 1)
        places = self._offsets.index_select(0, user) + within
        return user, self.graph.item.index_select(0, places)

    def _generator(self, *place: int) -> torch.Generator:
        """Of all draws at one place."""
        words = np.random.SeedSequence([self.seed, *place]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))

    # -------------------------------------------------------------------------------- position

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next pass; a position loaded for that epoch is kept.

        Args:
            epoch: From 0. Without a call every complete pass moves on by one.
        """
        if epoch != self._epoch:
            self._epoch, self._done, self._resumes = epoch, 0, False

    def state_dict(self) -> dict[str, Any]:
        """The position: epoch, pairs that all ranks have had, and what these numbers depend on."""
        return {"epoch": self._epoch, "pairs": self._done, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next pass begin after the batches that had been delivered.

        Args:
            state: From ``state_dict`` of a loader of the same pairs and options. Where the number
                of ranks differs, the ranks there are now share out the pairs that are left.

        Raises:
            CheckpointError: The pairs or the options differ, so the position has no meaning.
        """
        for name, mine in self._identity().items():
            if state.get(name) != mine:
                raise CheckpointError(
                    f"the loader's position was saved with {name}={state.get(name)!r}, but now "
                    f"{name}={mine!r}. Resume with the same data and options, or start anew."
                )
        self._epoch, self._done, self._resumes = int(state["epoch"]), int(state["pairs"]), True

    def _identity(self) -> dict[str, Any]:
        return {
            "sampling": self.config.model_dump(),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "data": self._fingerprint,
        }
