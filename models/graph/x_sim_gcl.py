"""XSimGCL: one noisy pass for ranking and for contrast.

Train it: ``recsys train --config configs/graph/x_sim_gcl.yaml``.

Stability: caller
"""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator
from torch import Tensor

from recsys.cf_contrast import ContrastiveModel
from recsys.errors import ConfigError
from recsys.graph.perturbation import perturb
from recsys.types import PairBatch


class XSimGCL(ContrastiveModel):
    """SimGCL with a single pass: its vectors are ranked, and told from those of its layer l.

        E'_k = A E'_{k-1} + eps sign(A E'_{k-1}) u_k / |u_k|,  z' = (E'_1 + ... + E'_K) / K

    Loss: BPR of z', L2 of the rows, and InfoNCE between z' and E'_l over the users and over the
    items of the batch. A step costs one propagation, as that of LightGCN does.

    Args:
        config: Noise, layers, weights.
        graph: The training pairs.

    Source:
        Yu et al., "XSimGCL: Towards Extremely Simple Graph Contrastive Learning for
        Recommendation", TKDE 2023, with the options of SELFRec for Yelp2018. Differs
        from SELFRec: L2 is that of the rows of layer 0, squared, as in LightGCN.

    Example:
        >>> import torch
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> graph = InteractionGraph(2, 1, torch.tensor([0, 1]), torch.tensor([0, 0]))
        >>> model = XSimGCL(XSimGCL.Config(num_layers=1), graph).eval()
        >>> users, _ = model.vectors()
        >>> torch.equal(users[0], users[1])  # both are the item's row, without their own
        True
    """

    class Config(ContrastiveModel.Config):
        """Options of XSimGCL."""

        num_layers: int = Field(default=3, ge=1)
        """K, steps of propagation."""
        noise: float = Field(default=0.2, ge=0)
        """eps, the length of the noise of every row in every layer."""
        contrast_layer: int = Field(default=1, ge=0)
        """l, the layer whose vectors are the second view; 0 for the rows themselves."""
        temperature: float = Field(default=0.15, gt=0)
        """Of the contrastive loss."""

        @model_validator(mode="after")
        def _check(self) -> Self:
            if self.contrast_layer > self.num_layers:
                raise ConfigError(
                    f"contrast_layer: expected one of the {self.num_layers} layers, got "
                    f"{self.contrast_layer}."
                )
            return self

    config: Config
    first_layer: ClassVar[int] = 1

    def noisy(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of a pass with noise, and those of its layer l, (U + I, D) each.

        Args:
            rows: Of layer 0, users first.
        """
        config, adj = self.config, self.on_device(rows)
        layers = [rows]
        for _ in range(config.num_layers):
            layers.append(perturb(adj @ layers[-1], config.noise))
        total = layers[1]
        for layer in layers[2:]:
            total = total + layer
        return total / config.num_layers, layers[config.contrast_layer]

    def loss(self, batch: PairBatch) -> Tensor:
        """See `EmbeddingModel`."""
        rows = self.rows()
        vectors, layer = self.noisy(rows)
        loss = self.pair_loss(self.gather(vectors, batch), self.gather(rows, batch), batch)
        return loss + self.contrastive_loss(vectors, layer, batch, rows)
