"""DLRM.

Train it: ``python examples/train_ctr.py --config configs/ctr/dlrm.yaml``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from recsys.base import CTRModel
from recsys.errors import SchemaError
from recsys.layers.interaction.dot import DotInteraction
from recsys.layers.mlp import MLP, MLPConfig
from recsys.schema import Schema
from recsys.types import Batch


class DLRM(CTRModel):
    """Facebook's deep learning recommendation model: dot products between all fields.

    ``z = MLP_bottom(x)``, one vector for all numbers together;
    ``p = {<t_i, t_j> : i < j}`` over ``t = [v_1, ..., v_F, z]``;
    ``logit = MLP_top([z; p])``

    The workload that recommendation hardware and compression papers are measured on. Without
    numeric features there is no ``z``.

    Args:
        config: Widths and start values.
        schema: A fitted schema.

    Shape:
        - input: Batch of B rows
        - output: (B, T) logits, the last layer's columns

    Raises:
        SchemaError: See `recsys.base.CTRModel`; or there is nothing to interact: a single field
            and no number.

    Source:
        Naumov et al., "Deep Learning Recommendation Model for Personalization and Recommendation
        Systems", 2019, Sections 2.1.4 and 2.2. Differs: ``z`` stands last among the fields, not
        first, which only permutes ``p``; with ``numeric: embed`` numbers are fields of their own
        and there is no bottom MLP.

    Example:
        >>> from recsys.testing.data import random_batch, tiny_schema
        >>> schema = tiny_schema()
        >>> model = DLRM(DLRM.Config(embedding_dim=4), schema)
        >>> model(random_batch(schema, batch_size=3)).shape
        torch.Size([3, 1])

    Stability: caller
    """

    class Config(CTRModel.Config):
        """Options of `DLRM`."""

        numeric: Literal["embed", "dense"] = "dense"
        """``dense``: through the bottom MLP, as in the paper. ``embed``: as fields."""
        bottom_mlp: MLPConfig = MLPConfig(hidden_units=(512, 256))
        """From the numbers; a last layer of width ``embedding_dim`` is added."""
        top_mlp: MLPConfig = MLPConfig(hidden_units=(512, 256))
        """From the interactions to the logits."""

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__(config, schema)
        dim, vectors, width = config.embedding_dim, self.num_fields, 0
        self.bottom = None
        if self.dense_width:
            hidden = (*config.bottom_mlp.hidden_units, dim)
            bottom = config.bottom_mlp.model_copy(update={"hidden_units": hidden})
            self.bottom = MLP(self.dense_width, bottom)
            vectors, width = vectors + 1, dim
        if vectors < 2 and self.bottom is None:
            raise SchemaError(
                "DLRM needs numeric features or at least two fields to interact, got the "
                f"features {[feature.name for feature in schema.features]}. Use LR or WideDeep."
            )
        self.interaction = DotInteraction(vectors)
        self.top = MLP(width + self.interaction.out_features, config.top_mlp, self.num_tasks)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, T)."""
        inputs = self.inputs(batch)
        fields_BFD = inputs.fields
        if self.bottom is None or inputs.dense is None:
            return self.top(self.interaction(fields_BFD))
        # Bottom: all numbers become one more vector.
        z_BD = self.bottom(inputs.dense)
        # Interaction: every pair of vectors.
        pairs = self.interaction(torch.cat([fields_BFD, z_BD.unsqueeze(1)], dim=1))
        # Top.
        return self.top(torch.cat([z_BD, pairs], dim=1))
