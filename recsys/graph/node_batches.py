"""Batches of labelled nodes, with the part of the graph that they need.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
import xxhash
from torch import Tensor

from recsys.graph.epoch_loader import EpochLoader
from recsys.graph.neighbors import NeighborSampler, SampledLayers


@dataclasses.dataclass(frozen=True, slots=True)
class NodeBatch:
    """Nodes to learn from.

    Args:
        nodes: Numbers.
        labels: Their classes.
        sampled: Operators over the neighbours that were drawn; None for the whole graph.

    Shape:
        - nodes, labels: (B,) int64
    """

    nodes: Tensor
    labels: Tensor
    sampled: SampledLayers | None = None

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self.nodes)


class NodeLoader(EpochLoader[NodeBatch]):
    """Iterates over the batches of one epoch; every ``for`` is one pass.

    Args:
        nodes: Numbers of the training nodes.
        labels: Their classes.
        batch_size: Nodes of a batch; None for all in one.
        sampler: Draws the neighbours of a batch; None for the whole graph.
        seed: Of the order and of all draws.
        device: Where batches go.

    Raises:
        ConfigError: A number is out of range.

    Example:
        >>> loader = NodeLoader(torch.tensor([4, 7]), torch.tensor([0, 1]))
        >>> [batch.nodes.tolist() for batch in loader]
        [[4, 7]]
    """

    unit: ClassVar[str] = "nodes"

    def __init__(
        self,
        nodes: Tensor,
        labels: Tensor,
        batch_size: int | None = None,
        sampler: NeighborSampler | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        size = max(len(nodes), 1) if batch_size is None else batch_size
        super().__init__(len(nodes), size, seed, 0, 1)
        self.nodes, self.labels = nodes, labels
        self._shuffles, self._sampler, self._device = batch_size is not None, sampler, device
        both = torch.cat([nodes, labels]).numpy()
        self._fingerprint = xxhash.xxh64(both.data).hexdigest()

    def order(self, epoch: int) -> Tensor | None:
        """See `EpochLoader`; a batch of all nodes is never put in another order."""
        return super().order(epoch) if self._shuffles else None

    def batch(self, epoch: int, start: int, order: Tensor | None) -> NodeBatch:
        """See `EpochLoader`."""
        nodes, labels, sampled = self.nodes, self.labels, None
        if order is not None:
            chosen = self.share(order, start)
            nodes, labels = nodes[chosen], labels[chosen]
        if self._sampler is not None:
            sampled = self._sampler.sample(nodes, self.generator(epoch, start))
        return NodeBatch(nodes.to(self._device), labels.to(self._device), sampled)

    def identity(self) -> dict[str, Any]:
        """See `EpochLoader`."""
        fanouts = None if self._sampler is None else list(self._sampler.fanouts)
        return {
            "batch_size": self.batch_size, "fanouts": fanouts, "seed": self.seed,
            "data": self._fingerprint,
        }  # fmt: skip


def sampled_powers(sampled: SampledLayers, rows: Tensor) -> list[Tensor]:
    """``x, A x, A^2 x, ...`` of the nodes of a batch, as its sampled operators give them.

    Args:
        sampled: K operators.
        rows: x of ``sampled.nodes``, (M, D).

    Returns:
        K + 1 times (B, D).
    """
    found = [rows]
    for layer in reversed(sampled.layers):
        found = [rows[: layer.shape[0]], *(layer @ power for power in found)]
    return [power[sampled.position] for power in found]
