"""Factorization machine.

Train it: ``python examples/train_ctr.py --config configs/ctr/fm.yaml``.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from recsys.base import CTRModel
from recsys.layers.interaction.factorization_machine import FactorizationMachine
from recsys.schema import Schema
from recsys.types import Batch


class FM(CTRModel):
    """Factorization machine: first-order weights and all pairs of fields.

    ``logit = b + sum_f w_f + sum_{i<j} <v_i, v_j>``

    Learns which ids go together from few examples, with two small vectors instead of a weight for
    every pair. The floor for models with interactions.

    Args:
        config: Width and start values.
        schema: A fitted schema.

    Shape:
        - input: Batch of B rows
        - output: (B, T) logits. Tasks share the pairwise term, the rest is their own.

    Raises:
        SchemaError: See `recsys.base.CTRModel`.

    Source:
        Rendle, "Factorization Machines", ICDM 2010, Equation 1 and Lemma 3.1. Differs: a bag of
        ids is one field (its pooled vector), so ids of one bag are not paired with each other;
        with ``numeric: dense`` numbers have first-order weights only.

    Example:
        >>> from recsys.testing.data import random_batch, tiny_schema
        >>> schema = tiny_schema()
        >>> model = FM(FM.Config(embedding_dim=4), schema)
        >>> model(random_batch(schema, batch_size=3)).shape
        torch.Size([3, 1])

    Stability: caller
    """

    class Config(CTRModel.Config):
        """Options of `FM`."""

    groups: ClassVar[tuple[str, ...]] = ("embedding", "linear")

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__(config, schema)
        self.fm = FactorizationMachine()
        self.bias = nn.Parameter(torch.empty(self.num_tasks))
        self.initialize()

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Bias 0."""
        if not self.bias.is_meta:
            nn.init.zeros_(self.bias)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, T)."""
        inputs = self.inputs(batch)
        first_order = self.bias + inputs.linear
        second_order = inputs.pairs(self.fm)
        return first_order + second_order
