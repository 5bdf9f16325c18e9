"""Sampled neighbourhoods, for graphs too large to propagate over whole.

A batch of nodes gets operators over the few nodes it needs, made of a fixed number of neighbours
a node. Everything is index arithmetic on tensors; no extension of PyG is needed.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.errors import ConfigError, DataError
from recsys.graph.propagation import Adjacency, Combine


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class SampledLayers:
    """What a batch of nodes needs of a graph.

    Args:
        nodes: The nodes whose rows to look up, each once; the batch's own nodes come first.
        layers: Operators from the batch outwards; layer k has a row for the first nodes that are
            needed after k steps and a column for those after k + 1.
        position: Of every node of the batch (which may repeat nodes) in ``nodes``.

    Shape:
        - nodes: (M,) int64
        - position: (B,) int64
    """

    nodes: Tensor
    layers: tuple[Adjacency, ...]
    position: Tensor

    def to(self, device: torch.device) -> SampledLayers:
        """The same elsewhere.

        Args:
            device: Where.
        """
        layers = tuple(layer.to(device) for layer in self.layers)
        return SampledLayers(self.nodes.to(device), layers, self.position.to(device))

    def propagate(self, x: Tensor, combine: Combine = "mean") -> Tensor:
        """What `Adjacency.propagate` gives for the batch, on average over the samples.

        Args:
            x: Rows of ``nodes``, (M, D).
            combine: ``mean``, ``sum`` or ``last``.

        Returns:
            (B, D).

        Raises:
            ConfigError: Another ``combine``.
        """
        if combine not in ("mean", "sum", "last"):
            raise ConfigError(f"combine: expected mean, sum or last, got {combine!r}.")
        total = x
        for layer in reversed(self.layers):
            total = layer @ total
            if combine != "last":  # Horner's rule: x + A (x + A (x + ...))
                total = total + x[: len(total)]
        if combine == "mean":
            total = total / (len(self.layers) + 1)
        return total[self.position]


class NeighborSampler:
    """Draws a fixed number of neighbours of every node, with replacement.

    With d neighbours of which k are drawn, each drawn edge has its value times d / k, so a layer's
    sums are right on average. The variance of a batch falls with k.

    Args:
        adjacency: Of the whole graph, square, on the CPU.
        fanouts: Neighbours a node at each step, the batch's own first.

    Raises:
        ConfigError: The matrix is not square, or a fan-out is not positive.

    Source:
        Hamilton et al., "Inductive Representation Learning on Large Graphs", NIPS 2017, algorithm
        2; here with replacement, so that shapes are fixed.

    Example:
        >>> ring = torch.arange(4)
        >>> adj = Adjacency.from_edges(ring, (ring + 1) % 4, 4, 4)
        >>> sampled = NeighborSampler(adj, [2]).sample(torch.tensor([3]))
        >>> sampled.nodes.tolist(), sampled.propagate(torch.tensor([[1.0], [5.0]]), "last").tolist()
        ([3, 0], [[5.0]])
    """

    def __init__(self, adjacency: Adjacency, fanouts: Sequence[int]) -> None:
        if adjacency.shape[0] != adjacency.shape[1] or not fanouts or min(fanouts) < 1:
            raise ConfigError(
                f"expected a square matrix and fan-outs of 1 or more, got {adjacency.shape} and "
                f"{list(fanouts)}."
            )
        self.adjacency, self.fanouts = adjacency, tuple(fanouts)
        self._degrees = adjacency.pattern.indptr.diff()

    def edges(self, nodes: Tensor, fanout: int, generator: torch.Generator | None) -> Tensor:
        """Positions of drawn edges of nodes.

        Args:
            nodes: (n,).
            fanout: How many of each.
            generator: Of the draws.

        Returns:
            (n, fanout) int64; -1 for a node without edges.
        """
        degrees = self._degrees[nodes][:, None]
        draws = torch.rand(len(nodes), fanout, dtype=torch.float64, generator=generator)
        within = torch.minimum((draws * degrees).long(), degrees - 1)
        found = self.adjacency.pattern.indptr[nodes][:, None] + within
        return found.masked_fill_(degrees == 0, -1)

    def neighbors(self, nodes: Tensor, generator: torch.Generator | None = None) -> list[Tensor]:
        """The drawn tree of neighbours, in fixed shapes.

        Args:
            nodes: (B,).
            generator: Of the draws.

        Returns:
            (B, k1), (B, k1, k2), ... int64; -1 where a node has no neighbour.
        """
        _check_nodes(nodes, self.adjacency)
        tree, last = [], nodes
        for fanout in self.fanouts:
            inside = last.clamp(min=0).flatten()
            edges = self.edges(inside, fanout, generator)
            found = self.adjacency.col[edges.clamp(min=0)].long().masked_fill_(edges < 0, -1)
            last = found.view(*last.shape, fanout).masked_fill_((last < 0)[..., None], -1)
            tree.append(last)
        return tree

    def sample(self, nodes: Tensor, generator: torch.Generator | None = None) -> SampledLayers:
        """Operators for a batch.

        Args:
            nodes: (B,), also repeated ones.
            generator: Of the draws.

        Raises:
            DataError: A number is out of range.
        """
        _check_nodes(nodes, self.adjacency)
        needed, position = torch.unique(nodes, return_inverse=True)
        layers = []
        for fanout in self.fanouts:
            edges = self.edges(needed, fanout, generator)
            scale = (self._degrees[needed] / fanout)[:, None].expand(-1, fanout)
            drawn = edges >= 0
            row = torch.arange(len(needed))[:, None].expand(-1, fanout)[drawn]
            edge = edges[drawn]
            neighbor = self.adjacency.col[edge].long()
            rows, new = len(needed), torch.unique(neighbor[_places(needed, neighbor) < 0])
            needed = torch.cat([needed, new])
            values = self.adjacency.values[edge] * scale[drawn]
            layers.append(
                Adjacency.from_edges(row, _places(needed, neighbor), rows, len(needed), values)
            )
        return SampledLayers(needed, tuple(layers), position)


def _places(nodes: Tensor, wanted: Tensor) -> Tensor:
    """Position in ``nodes`` of each number, -1 for those that are not there."""
    values, order = torch.sort(nodes)
    at = torch.searchsorted(values, wanted).clamp_(max=len(values) - 1)
    return torch.where(values[at] == wanted, order[at], -1)


def walk_neighbors(
    adjacency: Adjacency,
    nodes: Tensor,
    top: int,
    num_walks: int = 50,
    num_steps: int = 2,
    hops: int = 2,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """The nodes that random walks from a node visit most, with their shares of the visits.

    Args:
        adjacency: Of the graph, square, on the CPU; its values are not used.
        nodes: Where walks begin, (B,).
        top: T, how many to keep.
        num_walks: From every node.
        num_steps: Visits that count on every walk.
        hops: Edges from one such visit to the next: 2 between nodes of the same kind of a
            bipartite graph.
        generator: Of the draws.

    Returns:
        Nodes (B, T) int64, the most visited first (of equally visited ones the smaller number), -1
        where there are fewer; and their shares of the visits to those that are kept, (B, T)
        float32, 0 there. The start itself does not count.

    Raises:
        ConfigError: The matrix is not square, or a number is not positive.
        DataError: A node is out of range.

    Source:
        Ying et al., "Graph Convolutional Neural Networks for Web-Scale Recommender Systems", KDD
        2018, section 3.2 (importance-based neighbourhoods); walks of fixed length, no restarts.
    """
    if min(top, num_walks, num_steps, hops) < 1:
        raise ConfigError("expected top, num_walks, num_steps and hops of 1 or more.")
    sampler = NeighborSampler(adjacency, [1])
    _check_nodes(nodes, adjacency)
    starts = nodes.repeat_interleave(num_walks)
    at, visits = starts, []
    for _ in range(num_steps):
        for _ in range(hops):
            edge = sampler.edges(at.clamp(min=0), 1, generator)[:, 0]
            alive = (at >= 0) & (edge >= 0)
            at = torch.where(alive, adjacency.col[edge.clamp(min=0)].long(), -1)
        visits.append(torch.where(at == starts, -1, at).view(len(nodes), num_walks))
    return _most_visited(torch.cat(visits, 1), top)


def _most_visited(visits: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Of every row its most frequent numbers, -1 not counted."""
    ordered = visits.sort(1).values
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    run = new.cumsum(1) - 1
    counts = torch.zeros_like(ordered).scatter_add_(1, run, torch.ones_like(ordered))
    first = torch.full_like(ordered, -1).scatter_(1, run, ordered)  # number of every run
    counts = torch.where(first < 0, 0, counts)
    order = torch.sort(counts, dim=1, descending=True, stable=True).indices[:, :top]
    counts, first = counts.gather(1, order), first.gather(1, order)
    short = top - counts.shape[1]
    if short > 0:
        counts, first = (torch.nn.functional.pad(t, (0, short)) for t in (counts, first))
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return torch.where(counts > 0, first, -1), shares


def _check_nodes(nodes: Tensor, adjacency: Adjacency) -> None:
    count = adjacency.shape[0]
    if len(nodes) and not 0 <= int(nodes.min()) <= int(nodes.max()) < count:
        raise DataError(
            f"expected nodes from 0 to {count - 1}, got {int(nodes.min())} to {int(nodes.max())}."
        )
