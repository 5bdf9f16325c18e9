"""Batches of training pairs with negatives.

A batch is a pure function of the seed, the epoch, its place in the epoch and the rank, so a
position is a few numbers and resuming gives the very same batches.

Stability: caller
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import xxhash
from torch import Tensor

from recsys.graph.epoch_loader import EpochLoader
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.negatives import NegativeSampler, SamplingConfig, Scorer
from recsys.types import PairBatch


class PairLoader(EpochLoader[PairBatch]):
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

    unit: ClassVar[str] = "pairs"

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
        super().__init__(graph.num_edges, batch_size, seed, rank, world_size)
        self.graph, self.config = graph, config or SamplingConfig()
        self._sampler = NegativeSampler(graph, self.config, scorer)
        self._degrees, self._offsets = self._sampler.known.degrees, self._sampler.known.offsets
        self._active = self._degrees.nonzero()[:, 0]
        self._fingerprint = xxhash.xxh64(self._sampler.known.keys.numpy().data).hexdigest()

    def order(self, epoch: int) -> Tensor | None:
        """See `EpochLoader`; users are drawn, not put in order."""
        return super().order(epoch) if self.config.by == "edge" else None

    def batch(self, epoch: int, start: int, order: Tensor | None) -> PairBatch:
        """See `EpochLoader`."""
        generator = self.generator(epoch, start, self.rank)
        if order is None:
            end = min(start + self.step, self.total)
            places = range(start + self.rank, max(end, start + self.world_size), self.world_size)
            return self._sampler.complete(*self._of_users(len(places), generator), generator)
        mine = self.share(order, start)
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

    def identity(self) -> dict[str, Any]:
        """See `EpochLoader`."""
        return {
            "sampling": self.config.model_dump(),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "data": self._fingerprint,
        }
