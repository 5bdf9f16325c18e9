"""SimGCL: noise on the layers instead of changed graphs.

Train it: ``recsys train --config configs/graph/sim_gcl.yaml``.

Stability: caller
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from recsys.cf_contrast import ContrastiveModel
from recsys.graph.perturbation import perturb
from recsys.types import PairBatch


class SimGCL(ContrastiveModel):
    """LightGCN without layer 0, and two noisy passes whose vectors of a node should agree.

        E'_k = A E'_{k-1} + eps sign(A E'_{k-1}) u_k / |u_k|,  z' = (E'_1 + ... + E'_K) / K

    with u_k uniform in [0, 1), drawn anew for every pass. Loss: BPR of the vectors without noise,
    L2 of the rows, and InfoNCE between the two passes over the users and over the items of the
    batch.

    Args:
        config: Noise, layers, weights.
        graph: The training pairs.

    Source:
        Yu et al., "Are Graph Augmentations Necessary? Simple Graph Contrastive Learning for
        Recommendation", SIGIR 2022; layers as in SELFRec. Differs from SELFRec: L2 is
        that of the rows of layer 0, squared, as in LightGCN; negatives' rows count too.

    Example:
        >>> import torch
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> graph = InteractionGraph(2, 1, torch.tensor([0, 1]), torch.tensor([0, 0]))
        >>> model = SimGCL(SimGCL.Config(num_layers=1), graph).eval()
        >>> users, _ = model.vectors()
        >>> torch.equal(users[0], users[1])  # both are the item's row, without their own
        True
    """

    class Config(ContrastiveModel.Config):
        """Options of SimGCL."""

        num_layers: int = Field(default=3, ge=1)
        """K, steps of propagation."""
        noise: float = Field(default=0.1, ge=0)
        """eps, the length of the noise of every row in every layer."""
        contrast_weight: float = Field(default=0.5, ge=0)
        """Of the contrastive loss."""

    config: Config
    first_layer: ClassVar[int] = 1

    def noisy(self, rows: Tensor) -> Tensor:
        """Vectors of one pass with noise, (U + I, D).

        Args:
            rows: Of layer 0, users first.
        """
        adj, total = self.on_device(rows), None
        for _ in range(self.config.num_layers):
            rows = perturb(adj @ rows, self.config.noise)
            total = rows if total is None else total + rows
        assert total is not None
        return total / self.config.num_layers

    def loss(self, batch: PairBatch) -> Tensor:
        """See `EmbeddingModel`."""
        rows = self.rows()
        vectors = self.gather(self.propagated(rows), batch)
        loss = self.pair_loss(vectors, self.gather(rows, batch), batch)
        return loss + self.contrastive_loss(self.noisy(rows), self.noisy(rows), batch, rows)
