"""Aspect embeddings: a vector of an item for every aspect, by heads over shared features.

Train it: ``recsys train --config configs/aspect/aspect_embedding.yaml``.

Stability: caller
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys.aspect_model import AspectModel
from recsys.errors import ConfigError
from recsys.graph.aspect_batches import AspectBatch
from recsys.graph.aspects import AspectTable
from recsys.layers.conditional_attention import ConditionalCrossAttention
from recsys.losses.in_batch import in_batch
from recsys.types import Batch


class AspectEmbedding(AspectModel):
    """Items that share a label of an aspect should be nearest in the vectors of that aspect.

    Features become fields: the weighted sum of a text's gram vectors, the id's vector, a projection
    of each fixed vector. With ``linear`` heads ``z_a = W_a [fields]``. With ``attention`` heads
    every aspect has a query that looks through the tokens of an item (its grams one by one, its id
    and its fixed vectors): ``z_a = W LN(CrossAttention(e_a, tokens))``. ``shared`` has one linear
    head for all aspects: a generic vector that was trained on the same pairs, to compare with.
    With ``residual`` a head adds to the fixed vectors, from nothing on: where there is little to
    learn from, an untrained vector is better than a trained one.

    Loss: the in-batch contrast both ways round, over pairs of one aspect. Items of the batch that
    share a label with the query are no negatives.

    Args:
        config: Heads, widths, loss.
        table: Items, texts, labels and splits.

    Raises:
        ConfigError: Attention over items that have one token: it would be a linear head. Or
            residual heads of another width than the fixed vectors.

    Source:
        Ostendorff et al., "Specialized Document Embeddings for Aspect-based Similarity of Research
        Papers", JCDL 2022 (the siamese variant: one space for every aspect, ranked within a batch).
        Differs: heads over shared features in place of one transformer for every aspect. Attention:
        `recsys.layers.conditional_attention`.

    Example:
        >>> from recsys.graph.aspects import AspectRule, aspect_table
        >>> table = aspect_table({"a": "red ball", "b": "red car", "c": "blue car"},
        ...     ["a", "b", "b", "c"], ["colour", "colour", "kind", "kind"],
        ...     ["red", "red", "car", "car"], AspectRule(valid=0, test=0))
        >>> model = AspectEmbedding(AspectEmbedding.Config(vector_dim=8), table)
        >>> model.reset_parameters(1)
        >>> model.eval().vectors("kind").shape
        torch.Size([3, 8])
    """

    class Config(AspectModel.Config):
        """Options of aspect embeddings."""

        heads: Literal["linear", "attention", "shared"] = "linear"
        """How vectors are made of features."""
        vector_dim: int = Field(default=64, ge=1)
        """Width of the vectors."""
        attention_heads: int = Field(default=4, ge=1)
        """Heads of the attention; divides ``embedding_dim``."""
        residual: bool = False
        """Whether vectors start as the fixed ones; ``vector_dim`` must be their width."""
        temperature: float = Field(default=0.05, gt=0)
        """Of the loss."""
        prefixes: tuple[int, ...] | None = None
        """Widths whose first entries are trained as vectors of their own, rising to
        ``vector_dim``; None trains the whole vector alone."""

    config: Config

    def __init__(self, config: Config, table: AspectTable) -> None:
        super().__init__(config, table)
        width = config.embedding_dim
        if config.residual and config.vector_dim != self.fixed_width:
            raise ConfigError(
                f"vector_dim: residual heads add to the fixed vectors, so expected their width "
                f"{self.fixed_width}, got {config.vector_dim}. Set it, or text.axes."
            )
        self.attention: ConditionalCrossAttention | None = None
        if config.heads == "attention":
            if self.num_fields == 1 and "text" not in self.schema.keys:
                raise ConfigError(
                    "heads: an item has one token here, over which attention is a linear head. Set "
                    "heads to linear, or give items more features."
                )
            if width % config.attention_heads:
                raise ConfigError(
                    f"attention_heads: expected a number that divides embedding_dim={width}, got "
                    f"{config.attention_heads}."
                )
            self.attention = ConditionalCrossAttention(
                len(self.aspects), width, config.attention_heads
            )
            self.output = nn.Linear(width, config.vector_dim)
        else:
            count = 1 if config.heads == "shared" else len(self.aspects)
            self.heads = nn.ModuleList(
                nn.Linear(self.fields_width, config.vector_dim, bias=False) for _ in range(count)
            )

    def reset_parameters(self, seed: int) -> None:
        """See `RecModel`. Residual heads start at zero."""
        super().reset_parameters(seed)
        if self.config.residual:
            last = self.heads if self.attention is None else self.output
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def tokens(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens of all items, the item of each, and their weights.

        Args:
            batch: From `features`.

        Returns:
            (L, D), (L,) and (L,).
        """
        tokens, items, everybody = [], [], torch.arange(batch.batch_size, device=batch.dense.device)
        for key in self.schema.keys:
            found, lengths = self.embeddings.sequence(batch, "embedding", key)
            tokens.append(found)
            items.append(everybody.repeat_interleave(lengths))
        weights = batch.value_weights
        assert weights is not None
        projected = self.projected(batch)
        ones = weights.new_ones(len(projected) * batch.batch_size)
        return (
            torch.cat([*tokens, *projected]),
            torch.cat([*items, *(everybody for _ in projected)]),
            torch.cat([weights, ones]),
        )

    def encode(self, batch: Batch, aspect: int) -> Tensor:
        """See `AspectModel`."""
        if self.attention is None:
            head = self.heads[0 if self.config.heads == "shared" else aspect]
            found = head(self.fields(batch))
        else:
            tokens, item, weights = self.tokens(batch)
            seen = self.attention(tokens, item, batch.batch_size, aspect, weights)
            found = self.output(seen)
        return found + self.fixed(batch) if self.config.residual else found

    def loss(self, batch: AspectBatch) -> Tensor:
        """See `AspectModel`."""
        anchors, positives = self.both(batch)
        return in_batch(
            anchors, positives, known=batch.alike, symmetric=True, prefixes=self.config.prefixes,
            temperature=self.config.temperature,
        )  # fmt: skip
