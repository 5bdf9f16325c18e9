"""Batches of triples, each with a tail that the graph does not have.

Stability: caller
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
import xxhash
from torch import Tensor

from recsys.errors import DataError
from recsys.graph.collaborative_knowledge import CollaborativeKnowledge
from recsys.graph.epoch_loader import EpochLoader
from recsys.types import TripleBatch

_STREAM = 0x747269  # so that draws are not those of the pairs with the same seed


class UnknownTails:
    """Tails that the graph does not have, every one equally likely, without rejection.

    Args:
        graph: With all known triples.

    Raises:
        DataError: A head has every node as a tail of one relation.

    Example:
        >>> edge = torch.tensor([0]), torch.tensor([0]), torch.tensor([1])
        >>> unknown = UnknownTails(CollaborativeKnowledge(1, 1, 2, ("interact",), *edge))
        >>> unknown.draw(torch.tensor([0]), torch.Generator()).tolist()  # 1 is known
        [0]
    """

    def __init__(self, graph: CollaborativeKnowledge) -> None:
        self._nodes = graph.num_nodes
        new = torch.ones(len(graph), dtype=torch.bool)
        new[1:] = (graph.head.diff() != 0) | (graph.relation.diff() != 0)
        self._group = new.cumsum(0) - 1  # of edges with one head and relation, which lie together
        self._first = new.nonzero()[:, 0]
        ends = torch.cat([self._first[1:], torch.tensor([len(graph)])])
        self._unknown = self._nodes - (ends - self._first)
        full = (self._unknown == 0).nonzero()[:, 0]
        if len(full):
            edge = int(self._first[full[0]])
            raise DataError(
                f"node {int(graph.head[edge])} has all {self._nodes} nodes as tails of "
                f"`{graph.relations[int(graph.relation[edge])]}`: no triple of it is unknown."
            )
        rank = torch.arange(len(graph)) - self._first[self._group]
        self._unknown_before = self._group * self._nodes + graph.tail - rank

    def draw(self, edges: Tensor, generator: torch.Generator) -> Tensor:
        """A node for each edge that its head does not have as a tail of its relation.

        Draws a number r and finds the unknown tail number r.

        Args:
            edges: Positions, (B,).
            generator: Of the draws.

        Returns:
            (B,) int64.
        """
        group = self._group[edges]
        count = self._unknown[group]
        draws = torch.rand(len(edges), dtype=torch.float64, generator=generator)
        r = torch.minimum((draws * count).long(), count - 1)
        before = torch.searchsorted(self._unknown_before, group * self._nodes + r, right=True)
        return r + before - self._first[group]


class TripleLoader(EpochLoader[TripleBatch]):
    """Every triple once an epoch, inverse ones and interactions too; every ``for`` is one pass.

    Args:
        graph: On the CPU.
        batch_size: Triples of a batch on each rank.
        seed: Of the order and of all draws, 0 or more.
        rank: This process.
        world_size: Number of processes that share the triples out.

    Raises:
        ConfigError: A number is out of range.
        DataError: A head has every node as a tail of one relation.

    Source:
        Wang et al., "KGAT: Knowledge Graph Attention Network for Recommendation", KDD 2019: the
        negative tails. Differs: the official code draws heads, and one triple of each, so that
        triples of heads with few come more often.

    Example:
        >>> edges = torch.tensor([[0, 1], [0, 1], [1, 0]])
        >>> graph = CollaborativeKnowledge(1, 1, 3, ("interact", "inverse interact"), *edges)
        >>> for batch in TripleLoader(graph, batch_size=2):
        ...     print(batch.head.tolist(), batch.tail.tolist(), batch.negative.tolist())
        [0, 1] [1, 0] [2, 2]
    """

    unit: ClassVar[str] = "triples"

    def __init__(
        self,
        graph: CollaborativeKnowledge,
        batch_size: int = 2048,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(len(graph), batch_size, seed, rank, world_size)
        self.graph, self._tails = graph, UnknownTails(graph)
        edges = np.stack([part.numpy() for part in (graph.head, graph.relation, graph.tail)])
        self._fingerprint = xxhash.xxh64(edges.data).hexdigest()

    def order(self, epoch: int) -> Tensor:
        """See `EpochLoader`."""
        return torch.randperm(self.total, generator=self.generator(_STREAM, epoch))

    def batch(self, epoch: int, start: int, order: Tensor | None) -> TripleBatch:
        """See `EpochLoader`."""
        mine = self.share(self.order(epoch) if order is None else order, start)
        graph = self.graph
        head, relation, tail = (t[mine] for t in (graph.head, graph.relation, graph.tail))
        generator = self.generator(_STREAM, epoch, start, 1 + self.rank)
        return TripleBatch(head, relation, tail, self._tails.draw(mine, generator))

    def identity(self) -> dict[str, Any]:
        """See `EpochLoader`."""
        return {"batch_size": self.batch_size, "seed": self.seed, "data": self._fingerprint}
