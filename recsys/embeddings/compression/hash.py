"""The hashing trick: ids share rows by a salted hash.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from recsys.embeddings.compression.budget import check_fixed
from recsys.embeddings.compression.hashing import HashEncoder
from recsys.embeddings.compression.multiplex import fit_share, keep_full, spans
from recsys.embeddings.scheme import Decoder, Part, Scheme
from recsys.schema import TableSpec


class Hash(Scheme):
    """M rows instead of n: ``e(x) = E[h(x)]``, h(x) in 1 .. M.

    With ``multiplex`` one table of M rows serves all logical tables of a width, each with a hash
    of its own: the ids of a small table do not crowd a small physical one. It starts as the first
    of them asks.

    Memory: ``4 (M + 1) D + 8`` bytes a table (row 0 is PAD, 8 bytes of salt); multiplexed once
    ``4 (M + 1) D`` and 8 bytes a table. It reaches any budget.

    Configuration::

        compression: {scheme: {kind: hash, multiplex: true}, ratio: 0.1}

    Example:
        >>> table = TableSpec(name="user", num_embeddings=1000, embedding_dim=8,
        ...                   feature_names=("user",), pooling="sum")
        >>> Hash().plan([table], budget=3208)["user"].num_buckets
        99

    Source:
        Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009. Rows
        are not signed. The hash is a salted 64-bit mix, not ``x mod M``, because recsys indices
        are ordered by frequency.
    """

    narrow: ClassVar[bool] = True
    kind: Literal["hash"] = "hash"
    """Name in configurations."""
    num_buckets: int | None = Field(default=None, ge=1)
    """Rows that ids share; None is set by the budget."""
    multiplex: bool = False
    """One table for all features of one width."""
    salt: int = Field(default=0, ge=0)
    """Seed of the hash."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """Buckets in proportion to the rows of each table, or of all together."""
        if budget is None or self.num_buckets is not None:
            self.need(num_buckets=self.num_buckets)
            fixed: dict[str, Scheme] = {table.name: self for table in tables}
            fixed = keep_full(tables, fixed, self.multiplex)
            return check_fixed(self.kind, tables, budget, fixed)
        found = spans(tables, self.multiplex)

        def at(share: float) -> dict[str, Scheme]:
            return {
                name: self.model_copy(update={"num_buckets": max(1, math.ceil(share * total))})
                for name, (_, total) in found.items()
            }

        return fit_share(self.kind, tables, budget, self.multiplex, at)

    def part(self, table: TableSpec) -> Part:
        """One hashed probe."""
        self.need(num_buckets=self.num_buckets)
        assert self.num_buckets is not None
        owner = f"shared@hash{table.embedding_dim}" if self.multiplex else f"{table.name}@hash"
        probe = table.model_copy(update={"name": owner, "num_embeddings": self.num_buckets + 1})
        return Part((probe,), HashEncoder([table.name], [self.num_buckets], self.salt), Decoder())
