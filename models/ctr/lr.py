"""Logistic regression.

Train it: ``python examples/train_ctr.py --config configs/ctr/lr.yaml``.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys.base import CTRModel
from recsys.schema import Schema
from recsys.types import Batch


class LR(CTRModel):
    """Logistic regression: one weight an id, one weight a number.

    ``logit = b + sum_f w_f + sum_j x_j * w_j``

    The calibrated floor that every other model has to beat, and the cheapest to serve.

    Args:
        config: Start values.
        schema: A fitted schema.

    Shape:
        - input: Batch of B rows
        - output: (B, T) logits, all weights a task's own

    Raises:
        SchemaError: See `recsys.base.CTRModel`.

    Source:
        McMahan et al., "Ad Click Prediction: a View from the Trenches", KDD 2013, Section 2.
        Differs: trained by the library's optimizers, not by FTRL-Proximal.

    Example:
        >>> from recsys.testing.data import random_batch, tiny_schema
        >>> schema = tiny_schema()
        >>> model = LR(LR.Config(init_std=0.0), schema)
        >>> model(random_batch(schema, batch_size=1)).tolist()
        [[0.0]]

    Stability: caller
    """

    class Config(CTRModel.Config):
        """Options of `LR`. Numbers are used as they are, whatever ``numeric`` says."""

        embedding_dim: int = Field(default=1, ge=1, le=1)
        """Always 1: an id has one weight."""

    groups: ClassVar[tuple[str, ...]] = ("linear",)

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__(config, schema)
        self.bias = nn.Parameter(torch.empty(self.num_tasks))
        self.initialize()

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Bias 0."""
        if not self.bias.is_meta:
            nn.init.zeros_(self.bias)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, T)."""
        return self.inputs(batch).linear + self.bias
