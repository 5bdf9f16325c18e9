"""DeepFM.

Train it: ``python examples/train_ctr.py --config configs/ctr/deep_fm.yaml``.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from recsys.base import CTRModel
from recsys.layers.interaction.factorization_machine import FactorizationMachine
from recsys.layers.mlp import MLP, MLPConfig
from recsys.schema import Schema
from recsys.types import Batch


class DeepFM(CTRModel):
    """A factorization machine and a deep network over the same field vectors.

    ``logit = sum_f w_f + sum_{i<j} <v_i, v_j> + MLP([v_1; ...; v_F])``

    A strong default where there are many ids: pairs of fields are compared directly, and the deep
    part needs no feature engineering.

    Args:
        config: Widths and start values.
        schema: A fitted schema.

    Shape:
        - input: Batch of B rows
        - output: (B, T) logits. Tasks share the pairwise term; first-order weights and the last
          layer are their own.

    Raises:
        SchemaError: See `recsys.base.CTRModel`.

    Source:
        Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction",
        IJCAI 2017, Equations 1 to 4. Differs: numbers are fields scaled by their value
        (``numeric: embed``) or go to the deep part as they are (``numeric: dense``); the one bias
        is that of the last deep layer.

    Example:
        >>> from recsys.testing.data import random_batch, tiny_schema
        >>> schema = tiny_schema()
        >>> model = DeepFM(DeepFM.Config(embedding_dim=4), schema)
        >>> model(random_batch(schema, batch_size=3)).shape
        torch.Size([3, 1])

    Stability: caller
    """

    class Config(CTRModel.Config):
        """Options of `DeepFM`."""

        mlp: MLPConfig = MLPConfig()
        """The deep part."""

    groups: ClassVar[tuple[str, ...]] = ("embedding", "linear")

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__(config, schema)
        self.fm = FactorizationMachine()
        self.mlp = MLP(self.flat_width, config.mlp, out_features=self.num_tasks)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, T)."""
        inputs = self.inputs(batch)
        # Wide: one weight a feature.
        first_order = inputs.linear
        # FM: all pairs of fields.
        second_order = inputs.pairs(self.fm)
        # Deep: the same fields, side by side.
        deep = self.mlp(inputs.deep())
        return first_order + second_order + deep
