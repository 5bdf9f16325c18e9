"""Frequent ids have rows of their own, the others share by hash.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from recsys.embeddings.compression.budget import check_fixed, fit, full_bytes, smaller_of
from recsys.embeddings.scheme import Decoder, Encoder, Part, Scheme
from recsys.hashing import hash_strings, splitmix64, to_buckets
from recsys.schema import PAD_INDEX, TableSpec

_RATIOS = (1e-4, 1e-3, 1e-2, 1e-1, 0.5)
_SHARED = (0.1, 0.2, 0.3, 0.5, 0.7)


def shared_share(ratio: float) -> float:
    """Which part of a budget the shared rows get, the rest goes to rows of frequent ids.

    Between the values that CAFE's authors use for Criteo, over the logarithm of the ratio.

    Args:
        ratio: Budget as a share of the full table.

    Example:
        >>> [round(shared_share(ratio), 3) for ratio in (1e-6, 0.001, 0.03, 1.0)]
        [0.1, 0.2, 0.395, 0.7]

    Source:
        ``cafe_hash_rate`` in ``tasks/criteo.json`` of github.com/HugoZHL/CAFE.
    """
    return float(np.interp(math.log10(ratio), np.log10(_RATIOS), _SHARED))


class HotFirstEncoder(Encoder):
    """Row ``x`` up to the last hot index, else ``1 + hot_rows + h(x) mod num_buckets``.

    Args:
        name: Of the table; salts the hash.
        hot_rows: Indices with a row of their own: 1 to this.
        num_buckets: Rows that the others share.
        salt: Seed of the hash.

    Shape:
        - as `Encoder`
    """

    def __init__(self, name: str, hot_rows: int, num_buckets: int, salt: int) -> None:
        super().__init__()
        self._name, self._salt = name, salt
        self.hot_rows, self.num_buckets = hot_rows, num_buckets
        self.salts: Tensor
        self.register_buffer("salts", torch.empty(1, dtype=torch.int64))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Writes the salt: of the name alone, not of the run's seed."""
        del generator
        if not self.salts.is_meta:
            self.salts.copy_(torch.from_numpy(hash_strings([self._name], self._salt)))

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The row of every index. PAD is below all hot ones, so it stays PAD."""
        hashed = to_buckets(splitmix64(indices.long() ^ self.salts), self.num_buckets)
        shared = (hashed + (1 + self.hot_rows)).int()
        return (torch.where(indices <= max(self.hot_rows, PAD_INDEX), indices.int(), shared),)


class AdaptEmb(Scheme):
    """Indices up to ``hot_rows`` have rows of their own, the others share ``num_buckets`` rows.

    Index order is frequency order, so nothing is counted or stored: both kinds of rows are one
    physical table, and a lookup costs what `Hash` costs.

    Memory: ``4 D (1 + hot_rows + num_buckets)`` bytes a table, and 8 for the salt.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=1000, embedding_dim=8,
        ...                   feature_names=("user",), pooling="sum")
        >>> plan = AdaptEmb(hot_share=0.5).plan([table], budget=3200)["user"]
        >>> plan.hot_rows, plan.num_buckets
        (49, 49)

    Source:
        DeepRec's adaptive embedding, as in "Experimental Analysis of Large-scale Learnable Vector
        Storage Compression", VLDB 2024 (AdaptEmb). Differs: the share of frequent ids follows the
        budget and not the table, so that any budget is reached; no remap (there, n words that
        are not counted); the hash is a salted mix, not ``x mod M``.
    """

    narrow: ClassVar[bool] = True
    kind: Literal["adapt_emb"] = "adapt_emb"
    """Name in configurations."""
    hot_rows: int | None = Field(default=None, ge=0)
    """How many of the most frequent indices have rows of their own; None is set by the budget."""
    num_buckets: int | None = Field(default=None, ge=1)
    """Rows that the others share; None is set by the budget."""
    hot_share: float | None = Field(default=None, ge=0, lt=1)
    """Part of the rows that belongs to frequent ids; None: more of it the smaller the budget."""
    salt: int = Field(default=0, ge=0)
    """Seed of the hash."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """Rows in proportion to those of each table."""
        if budget is None or (self.hot_rows is not None and self.num_buckets is not None):
            self.need(hot_rows=self.hot_rows, num_buckets=self.num_buckets)
            fixed: dict[str, Scheme] = {table.name: self for table in tables}
            return check_fixed(self.kind, tables, budget, fixed)
        hot = self.hot_share
        if hot is None:
            hot = 1 - shared_share(min(1.0, budget / full_bytes(tables)))
        return fit(self.kind, tables, budget, lambda share: self._at(tables, share, hot))

    def _at(self, tables: Sequence[TableSpec], share: float, hot: float) -> dict[str, Scheme]:
        """The plan that keeps this share of the rows; a stated size stays as it is."""
        plan = {}
        for table in tables:
            rows = max(1, math.ceil(share * table.num_embeddings))
            own = math.floor(hot * rows) if self.num_buckets is None else rows - self.num_buckets
            if self.hot_rows is not None:
                own = self.hot_rows
            own = min(max(own, 0), table.num_embeddings - 1)
            sizes = {"hot_rows": own, "num_buckets": self.num_buckets or max(1, rows - own)}
            plan[table.name] = smaller_of(table, self.model_copy(update=sizes))
        return plan

    def part(self, table: TableSpec) -> Part:
        """One probe."""
        self.need(hot_rows=self.hot_rows, num_buckets=self.num_buckets)
        assert self.hot_rows is not None and self.num_buckets is not None
        rows = 1 + self.hot_rows + self.num_buckets
        probe = table.model_copy(update={"name": f"{table.name}@adapt", "num_embeddings": rows})
        encoder = HotFirstEncoder(table.name, self.hot_rows, self.num_buckets, self.salt)
        return Part((probe,), encoder, Decoder())
