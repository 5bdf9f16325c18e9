"""Frequent ids have rows of their own, the others share by hash.

Stability: experimental
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from recsys.embeddings.compression.hashing import HashEncoder
from recsys.embeddings.compression.hot_rows import HotRows
from recsys.embeddings.scheme import Decoder, Encoder, Part
from recsys.schema import PAD_INDEX, TableSpec


class HotFirstEncoder(Encoder):
    """Row ``hot_start + x`` up to the last hot index, else ``shared_start + h(x)``.

    Args:
        name: Of the table; salts the hash.
        hot_rows: Indices with a row of their own: 1 to this.
        num_buckets: Rows that the others share.
        hot_start: Rows before the own ones, PAD not counted.
        shared_start: Rows before the shared ones, PAD not counted.
        salt: Seed of the hash.

    Shape:
        - as `Encoder`
    """

    def __init__(
        self,
        name: str,
        hot_rows: int,
        num_buckets: int,
        hot_start: int,
        shared_start: int,
        salt: int,
    ) -> None:
        super().__init__()
        self.hot_rows, self.hot_start, self.shared_start = hot_rows, hot_start, shared_start
        self.hash = HashEncoder([name], [num_buckets], salt)

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Writes the salt: of the name alone, not of the run's seed."""
        self.hash.initialize(generator)

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The row of every index."""
        shared = self.hash(indices)[0] + self.shared_start
        rows = torch.where(indices <= self.hot_rows, indices.int() + self.hot_start, shared)
        return (rows.masked_fill(indices == PAD_INDEX, PAD_INDEX),)


class AdaptEmb(HotRows):
    """Indices up to ``hot_rows`` have rows of their own, the others share ``num_buckets`` rows.

    Index order is frequency order, so nothing is counted or stored, and a lookup costs what
    `Hash` costs. Multiplexed, tables of few ids have a row for each of them, and of the larger
    ones the same number of the most frequent ids.

    Memory: ``4 D (1 + hot_rows + num_buckets)`` bytes a table, and 8 for the salt; multiplexed
    ``4 D (1 + hot_rows of all tables + num_buckets)``, and 8 a table.

    Example:
        >>> tables = [TableSpec(name=name, num_embeddings=rows, embedding_dim=8,
        ...                     feature_names=(name,), pooling="sum")
        ...           for name, rows in (("user", 1000), ("country", 20))]
        >>> plan = AdaptEmb(shared_share=0.5).plan(tables[:1], budget=3200)["user"]
        >>> plan.hot_rows, plan.num_buckets
        (49, 49)
        >>> plan = AdaptEmb(shared_share=0.5, multiplex=True).plan(tables, budget=3200)
        >>> plan["country"].kind, plan["user"].hot_rows, plan["user"].num_buckets
        ('full', 29, 49)

    Source:
        DeepRec's adaptive embedding, as in "Experimental Analysis of Large-scale Learnable Vector
        Storage Compression", VLDB 2024 (AdaptEmb). Differs: the share of frequent ids follows the
        budget and not the table, so that any budget is reached; no remap (there, n words that
        are not counted); the hash is a salted mix, not ``x mod M``.
    """

    narrow: ClassVar[bool] = True
    by_frequency: ClassVar[bool] = True
    kind: Literal["adapt_emb"] = "adapt_emb"
    """Name in configurations."""

    def part(self, table: TableSpec) -> Part:
        """One probe."""
        hot, buckets, start, before = self.sizes()
        encoder = HotFirstEncoder(table.name, hot, buckets, start, before, self.salt)
        return Part((self.probe(table, "adapt"),), encoder, Decoder())
