"""Means over triples of what a relation makes of a tail, without a vector for every triple.

Stability: caller
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from recsys.graph.propagation import Adjacency


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RelationalMean:
    """``out_h = mean of e_r * x_t over the triples (h, r, t)``; 0 without any. It never changes.

    The tails of one head and relation, a group, are summed up first: there are two sparse products,
    and one vector for each group. Make one with `of`.

    Args:
        sums: Tails of every group, (G, N).
        spread: Groups of every head, (N, G).
        head: Of every group.
        relation: Of every group.
        counts: Triples of every head.

    Shape:
        - head, relation: (G,) int64
        - counts: (N,) float32

    Source:
        Wang et al., "Learning Intents behind Interactions with Knowledge Graph for Recommendation",
        WWW 2021, its aggregation of entities.

    Example:
        >>> edges = torch.tensor([[0, 0], [0, 1], [1, 2]])
        >>> mean = RelationalMean.of(*edges, num_nodes=3)
        >>> mean(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[10.0], [100.0]]))
        tensor([[105.],
                [  0.],
                [  0.]])
    """

    sums: Adjacency
    spread: Adjacency
    head: Tensor
    relation: Tensor
    counts: Tensor

    @classmethod
    def of(cls, head: Tensor, relation: Tensor, tail: Tensor, num_nodes: int) -> RelationalMean:
        """Of some triples.

        Args:
            head: Of every triple, (E,) int64.
            relation: Of every triple, (E,) int64.
            tail: Of every triple, (E,) int64.
            num_nodes: N, heads and tails alike.
        """
        size = int(relation.max()) + 1 if len(relation) else 1
        groups, group = (head * size + relation).unique(return_inverse=True)
        heads, places = groups // size, torch.arange(len(groups))
        return cls(
            Adjacency.from_edges(group, tail, len(groups), num_nodes),
            Adjacency.from_edges(heads, places, num_nodes, len(groups)),
            heads, groups % size, torch.bincount(head, minlength=num_nodes).float(),
        )  # fmt: skip

    def __call__(self, x: Tensor, vectors: Tensor) -> Tensor:
        """The means.

        Args:
            x: Rows of the nodes, (N, D).
            vectors: Of the relations, (R, D).

        Returns:
            (N, D).
        """
        groups = (self.sums @ x) * torch.nn.functional.embedding(self.relation, vectors)
        return (self.spread @ groups) / self.counts.clamp(min=1)[:, None]

    def drop_edges(self, p: float, generator: torch.Generator | None = None) -> RelationalMean:
        """Means over what is left when each triple is left out with probability p.

        Args:
            p: From 0, below 1.
            generator: Of the draws.
        """
        place = self.counts.device if generator is None else generator.device
        draws = torch.rand(self.sums.num_edges, generator=generator, device=place)
        kept = (draws >= p).float().to(self.counts.device)
        heads = self.head.index_select(0, self.sums.row)
        counts = torch.zeros_like(self.counts).index_add_(0, heads, kept)
        return dataclasses.replace(self, sums=self.sums.reweight(kept), counts=counts)

    def to(self, device: torch.device | str) -> RelationalMean:
        """The same on another device; itself where it is there already."""
        if torch.empty(0, device=device).device == self.counts.device:
            return self
        names = (field.name for field in dataclasses.fields(self))
        return dataclasses.replace(self, **{n: getattr(self, n).to(device) for n in names})
