"""The hashing trick: ids share rows by a salted hash.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from recsys.embeddings.compression.budget import check_fixed, fit, smaller_of
from recsys.embeddings.compression.hashing import HashEncoder
from recsys.embeddings.scheme import Decoder, Part, Scheme
from recsys.schema import TableSpec


class Hash(Scheme):
    """Row ``1 + h(x; salt) mod M``: M rows instead of n.

    With ``multiplex`` one table of M rows serves all logical tables, each with its own salt.

    Memory: ``4 (M + 1) D`` bytes a table (row 0 is PAD).

    Example:
        >>> table = TableSpec(name="user", num_embeddings=1000, embedding_dim=8,
        ...                   feature_names=("user",), pooling="sum")
        >>> Hash().plan([table], budget=3200)["user"].num_buckets
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
            return check_fixed(self.kind, tables, budget, fixed)
        return fit(self.kind, tables, budget, lambda share: self._at(tables, share))

    def _at(self, tables: Sequence[TableSpec], share: float) -> dict[str, Scheme]:
        """The plan that keeps this share of the rows."""
        rows = {table.name: table.num_embeddings for table in tables}
        if self.multiplex:
            by_width = {
                width: sum(rows[t.name] for t in tables if t.embedding_dim == width)
                for width in {table.embedding_dim for table in tables}
            }
            rows = {table.name: by_width[table.embedding_dim] for table in tables}
        plan: dict[str, Scheme] = {
            name: self.model_copy(update={"num_buckets": max(1, math.ceil(share * count))})
            for name, count in rows.items()
        }
        if self.multiplex:
            return plan
        return {table.name: smaller_of(table, plan[table.name]) for table in tables}

    def part(self, table: TableSpec) -> Part:
        """One hashed probe."""
        self.need(num_buckets=self.num_buckets)
        assert self.num_buckets is not None
        owner = f"shared@hash{table.embedding_dim}" if self.multiplex else f"{table.name}@hash"
        probe = table.model_copy(update={"name": owner, "num_embeddings": self.num_buckets + 1})
        return Part((probe,), HashEncoder([table.name], [self.num_buckets], self.salt), Decoder())
