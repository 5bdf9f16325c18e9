"""LightGCN: nothing but propagation and a mean over layers.

Stability: caller
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from recsys.cf import EmbeddingModel
from recsys.graph.fold_in import mean_messages
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.propagation import Adjacency
from recsys.losses.bpr import bpr
from recsys.losses.regularization import l2_regularization
from recsys.types import PairBatch


class LightGCN(EmbeddingModel):
    """Vectors are the mean of the table's rows and what neighbours pass on, layer by layer.

        E_k = A E_{k-1},  z = (E_0 + ... + E_K) / (K + 1),  A = D^-1/2 (adjacency) D^-1/2

    Trained by BPR, with L2 of the rows of layer 0 in the batch.

    Args:
        config: Layers, width, regularization.
        graph: The training pairs.

    Source:
        He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for
        Recommendation", SIGIR 2020, eq. 3, 4, 15. Different: all layers are one operation, whose
        gradient is the same polynomial.

    Example:
        >>> import torch
        >>> graph = InteractionGraph(2, 2, torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> model = LightGCN(LightGCN.Config(num_layers=1), graph).eval()
        >>> users, items = model.vectors()
        >>> torch.allclose(users[0], items[0])  # each is the mean of both
        True
    """

    class Config(EmbeddingModel.Config):
        """Options of LightGCN."""

        num_layers: int = Field(default=3, ge=0)
        """K, steps of propagation."""
        l2: float = Field(default=1e-4, ge=0)
        """Weight of the L2 of the rows that a batch uses."""

    config: Config

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self.adjacency = Adjacency.bipartite(graph)

    def encode(self) -> Tensor:
        """See `EmbeddingModel`."""
        return self.propagated(self.rows())

    def propagated(self, rows: Tensor) -> Tensor:
        """Vectors from the rows of layer 0.

        Args:
            rows: Users first, (U + I, D).
        """
        self.adjacency = self.adjacency.to(rows.device)
        return self.adjacency.propagate(rows, self.config.num_layers)

    def messages(self) -> Tensor:
        """See `EmbeddingModel`."""
        rows = self.rows().detach()
        self.adjacency = self.adjacency.to(rows.device)
        return mean_messages(self.adjacency, rows, self.config.num_layers)

    def loss(self, batch: PairBatch) -> Tensor:
        """See `EmbeddingModel`."""
        rows = self.rows()
        user, item, negatives = self.gather(self.propagated(rows), batch)
        loss = bpr((user * item).sum(-1), (user.unsqueeze(1) * negatives).sum(-1))
        if self.config.l2:
            used = self.gather(rows, batch)
            loss = loss + self.config.l2 * l2_regularization(used, batch.batch_size)
        return loss
