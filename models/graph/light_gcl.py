"""LightGCL: vectors of the graph should agree with those of its few leading singular vectors.

Train it: ``recsys train --config configs/graph/light_gcl.yaml``.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recsys.cf_contrast import ContrastiveModel
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.products import sparse_dense, transposed
from recsys.graph.spectrum import normalized, top_eigenvectors
from recsys.types import PairBatch


class LightGCL(ContrastiveModel):
    """LightGCN with a sum of layers, and a second view over the best approximation of rank q.

        E_k = A E_{k-1},  z = E_0 + ... + E_K
        G_k = A_q E_{k-1},  g = E_0 + G_1 + ... + G_K

    with ``A_q`` the normalized adjacency of which the q leading singular vectors of users by items
    are left. Loss: BPR of z, L2 of all rows, and InfoNCE between g and z over the users and over
    the items and negatives, each against all of its kind. As ``g = E_0 + A_q (E_0 + ... +
    E_{K-1})``, both views cost one propagation and a product of rank q.

    Args:
        config: Rank, layers, weights.
        graph: The training pairs.

    Source:
        Cai et al., "LightGCL: Simple Yet Effective Graph Contrastive Learning for Recommendation",
        ICLR 2023, and the released code, whose products are not scaled to cosines
        and whose numerator is limited. Differs: one thinned-out graph a step for all layers where
        the code draws one a layer; the contrast is over the batch of pairs, not over one of its
        own; shared negatives stay out of it.

    Example:
        >>> import torch
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> graph = InteractionGraph(2, 2, torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> model = LightGCL(LightGCL.Config(rank=2), graph)
        >>> rows = model.rows().detach()
        >>> vectors, view = model.both_views(rows)
        >>> torch.allclose(vectors, view, atol=1e-6)  # rank 2 is all there is
        True
    """

    class Config(ContrastiveModel.Config):
        """Options of LightGCL."""

        num_layers: int = Field(default=2, ge=1)
        """K, steps of propagation."""
        rank: int = Field(default=5, ge=1)
        """q, singular vectors."""
        dropout: float = Field(default=0.0, ge=0, lt=1)
        """With which probability an edge is left out of a step, the others growing to match."""
        l2: float = Field(default=1e-7, ge=0)
        """Weight of the squares of all rows."""
        contrast_among: Literal["batch", "all"] = "all"
        """What a node's vector is chosen from: the nodes of the batch, or all of its kind."""
        normalize: bool = False
        """Whether products are cosines, as in the paper's text."""

    config: Config
    combine: ClassVar[Literal["mean", "sum"]] = "sum"

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self.contrast = dataclasses.replace(
            self.contrast, normalize=config.normalize, limit=5.0
        )  # fmt: skip
        self._factors: tuple[Tensor, Tensor] | None = None

    def factors(self) -> tuple[Tensor, Tensor]:
        """P (U, q) and Q (I, q) with ``P Q^T`` the approximation, computed when first needed."""
        if self._factors is None:
            matrix, _ = normalized(self.graph.matrix())
            back = transposed(matrix)
            _, right = top_eigenvectors(
                lambda x: sparse_dense(back, sparse_dense(matrix, x)),
                self.graph.num_items, self.config.rank, 0, lambda line: None,
            )  # fmt: skip
            self._factors = sparse_dense(matrix, right), right  # R V V^T
        return self._factors

    def both_views(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors z, and those of the approximation, (U + I, D) each.

        Args:
            rows: Of layer 0, users first.
        """
        config, adj = self.config, self.on_device(rows)
        if self.training and config.dropout:
            adj = adj.drop_edges(config.dropout, renormalize=False)
        inner = adj.propagate(rows, config.num_layers - 1, "sum")
        left, right = (factor.to(rows.device) for factor in self.factors())
        users, items = inner.split([self.graph.num_users, self.graph.num_items])
        view = torch.cat([left @ (right.T @ items), right @ (left.T @ users)])
        return rows + adj @ inner, rows + view

    def loss(self, batch: PairBatch) -> Tensor:
        """See `EmbeddingModel`."""
        rows = self.rows()
        vectors, view = self.both_views(rows)
        triple = self.gather(vectors, batch)
        loss = self.ranking_loss(triple, batch, self.graph.num_items)
        loss = loss + self.config.l2 * rows.square().sum()
        with_negatives = batch.negatives is not None and batch.negatives.dim() == 2
        return loss + self.contrastive_loss(
            view, vectors, batch, rows, counted=True, with_negatives=with_negatives
        )
