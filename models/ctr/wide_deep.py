"""Wide & Deep.

Train it: ``python examples/train_ctr.py --config configs/ctr/wide_deep.yaml``.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from recsys.base import CTRModel
from recsys.layers.mlp import MLP, MLPConfig
from recsys.schema import Schema
from recsys.types import Batch


class WideDeep(CTRModel):
    """A linear model that memorizes and a deep network that generalizes, trained together.

    ``logit = sum_f w_f + MLP([v_1; ...; v_F])``

    Ties DeepFM on most public logs and is cheaper, because no pairs of fields are formed.

    Args:
        config: Widths and start values.
        schema: A fitted schema.

    Shape:
        - input: Batch of B rows
        - output: (B, T) logits. First-order weights and the last layer are a task's own.

    Raises:
        SchemaError: See `recsys.base.CTRModel`.

    Source:
        Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016, Section 3.
        Differs: the wide part has the features themselves, no cross products made by hand; both
        parts share one optimizer setting instead of FTRL and AdaGrad.

    Example:
        >>> from recsys.testing.data import random_batch, tiny_schema
        >>> schema = tiny_schema()
        >>> model = WideDeep(WideDeep.Config(embedding_dim=4), schema)
        >>> model(random_batch(schema, batch_size=3)).shape
        torch.Size([3, 1])

    Stability: caller
    """

    class Config(CTRModel.Config):
        """Options of `WideDeep`."""

        mlp: MLPConfig = MLPConfig()
        """The deep part."""

    groups: ClassVar[tuple[str, ...]] = ("embedding", "linear")

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__(config, schema)
        self.mlp = MLP(self.flat_width, config.mlp, out_features=self.num_tasks)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, T)."""
        inputs = self.inputs(batch)
        wide = inputs.linear
        deep = self.mlp(inputs.deep())
        return wide + deep
