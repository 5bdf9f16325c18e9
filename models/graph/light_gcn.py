"""LightGCN: nothing but propagation and a mean over layers.

Train it: ``recsys train --config configs/graph/light_gcn.yaml``.

Stability: caller
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from recsys.cf_graph import LinearModel
from recsys.errors import ConfigError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.neighbors import NeighborSampler
from recsys.types import PairBatch


class LightGCN(LinearModel):
    """Vectors are the mean of the table's rows and what neighbours pass on, layer by layer.

        E_k = A E_{k-1},  z = (E_0 + ... + E_K) / (K + 1),  A = D^-1/2 (adjacency) D^-1/2

    Trained by BPR, with L2 of the rows of layer 0 in the batch. With ``fanouts`` a step does not
    propagate over the whole graph but over drawn neighbours of its batch, so that its cost is that
    of the batch however large the graph, and ``embedding.mode: sparse`` may train the tables. On
    graphs below some ten million nodes that is slower, as a batch reaches most of them.

    Args:
        config: Layers, width, regularization.
        graph: The training pairs.

    Source:
        He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for
        Recommendation", SIGIR 2020. Differs: all layers are one operation, whose
        gradient is the same polynomial. Drawn neighbours are those of `NeighborSampler`: a
        layer's sums are right on average.

    Example:
        >>> import torch
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> graph = InteractionGraph(2, 2, torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> model = LightGCN(LightGCN.Config(num_layers=1), graph).eval()
        >>> users, items = model.vectors()
        >>> torch.allclose(users[0], items[0])  # each is the mean of both
        True
    """

    class Config(LinearModel.Config):
        """Options of LightGCN."""

        fanouts: tuple[int, ...] | None = Field(default=None, min_length=1)
        """Neighbours that are drawn for a node in training, for each layer, the batch's own
        first; None trains on all of them."""

        @model_validator(mode="after")
        def _check(self) -> Self:
            if self.fanouts is not None and len(self.fanouts) != self.num_layers:
                raise ConfigError(
                    f"fanouts: expected {self.num_layers}, one for each of num_layers, got "
                    f"{len(self.fanouts)}."
                )
            return self

    config: Config

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self.sampler: NeighborSampler | None = None
        if config.fanouts is not None:
            self.sampler = NeighborSampler(self.adjacency, config.fanouts)

    def loss(self, batch: PairBatch) -> Tensor:
        """See `EmbeddingModel`."""
        if self.sampler is None:
            return super().loss(batch)
        first, negatives = self.graph.num_users, self.negatives_of(batch)
        nodes = torch.cat([batch.user, batch.item + first, negatives.reshape(-1) + first])
        sampled = self.sampler.sample(nodes.cpu()).to(nodes.device)
        rows = self.look_up_nodes(sampled.nodes)
        size, shape = batch.batch_size, (*negatives.shape, rows.shape[1])
        triples = [
            (user, item, others.view(shape))
            for user, item, others in (
                found.split([size, size, negatives.numel()])
                for found in (sampled.propagate(rows), functional.embedding(sampled.position, rows))
            )
        ]
        return self.pair_loss(triples[0], triples[1], batch)
