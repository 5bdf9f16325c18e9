"""DCN-V2.

Train it: ``python examples/train_ctr.py --config configs/ctr/dcn_v2.yaml``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from recsys.base import CTRModel
from recsys.layers.initialization import initialize
from recsys.layers.interaction.cross_net import CrossNetConfig, cross_net
from recsys.layers.mlp import MLP, MLPConfig
from recsys.schema import Schema
from recsys.types import Batch


class DCNv2(CTRModel):
    """Improved deep and cross network: explicit interactions of bounded order, and a deep network.

    With ``x_0 = [v_1; ...; v_F]`` and cross layers ``x_{l+1} = x_0 * (W_l x_l + b_l) + x_l``:

    - parallel: ``logit = w^T [x_L; MLP(x_0)] + b``
    - stacked: ``logit = w^T MLP(x_L) + b``

    The best accuracy for its cost among the models here. ``cross.kind`` trades the full matrix
    for low-rank factors or a mixture of them.

    Args:
        config: Widths, cross network and start values.
        schema: A fitted schema.

    Shape:
        - input: Batch of B rows
        - output: (B, T) logits. Tasks share everything but the last layer.

    Raises:
        SchemaError: See `recsys.base.CTRModel`.

    Source:
        Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale
        Learning to Rank Systems", WWW 2021, Sections 3.1 to 3.5. Differs: numbers are fields
        scaled by their value (``numeric: embed``), or part of ``x_0`` as they are
        (``numeric: dense``, the paper's form).

    Example:
        >>> from recsys.testing.data import random_batch, tiny_schema
        >>> schema = tiny_schema()
        >>> config = DCNv2.Config(embedding_dim=4, cross=CrossNetConfig(kind="low_rank", rank=2))
        >>> DCNv2(config, schema)(random_batch(schema, batch_size=3)).shape
        torch.Size([3, 1])

    Stability: caller
    """

    class Config(CTRModel.Config):
        """Options of `DCNv2`."""

        structure: Literal["parallel", "stacked"] = "parallel"
        """Deep network beside the cross network, or on top of it."""
        cross: CrossNetConfig = CrossNetConfig()
        """The cross network."""
        mlp: MLPConfig = MLPConfig()
        """The deep network."""

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__(config, schema)
        self.parallel = config.structure == "parallel"
        self.cross = cross_net(self.flat_width, config.cross)
        self.mlp = MLP(self.flat_width, config.mlp)
        width = self.mlp.out_features + (self.flat_width if self.parallel else 0)
        self.head = nn.Linear(width, self.num_tasks)
        initialize(self.head)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, T)."""
        inputs = self.inputs(batch)
        x0 = inputs.flat()
        crossed = self.cross(x0)
        if self.parallel:
            return self.head(torch.cat([crossed, self.mlp(inputs.deep())], dim=1))
        return self.head(self.mlp(crossed))
