"""Hashed product quantization: a vector is put together of hashed pieces.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from recsys.embeddings.compression.budget import check_fixed
from recsys.embeddings.compression.hashing import HashEncoder
from recsys.embeddings.compression.multiplex import fit_share, keep_full, spans
from recsys.embeddings.scheme import Concat, Decoder, Part, Scheme
from recsys.schema import TableSpec


class ProductHash(Scheme):
    """A codebook E_j of M rows for every piece j of the vector.

        e(x) = concat_j E_j[1 + h_j(x) mod M],   j = 0 .. parts - 1

    Ids collide in single pieces, rarely in all. The pieces are D / parts wide; where that is no
    whole number the first ones are a column wider. With ``multiplex`` the tables of one width
    share their codebooks, each with hashes of its own.

    Memory: ``4 (M + 1) D + 8 parts`` bytes a table (rows 0 are PAD, 8 bytes a salt); multiplexed
    the codebooks count once.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=1000, embedding_dim=8,
        ...                   feature_names=("user",), pooling="sum")
        >>> plan = ProductHash(parts=2).plan([table], budget=3216)
        >>> plan["user"].num_buckets, [probe.name for probe in plan["user"].part(table).probes]
        (99, ['user@product_hash0', 'user@product_hash1'])

    Source:
        "CE" in Tsang and Ahle, "Clustering the Sketch: A Novel Approach to Embedding Table
        Compression", NeurIPS 2023, Section 2.1; "PQ" in Coleman et al., "Unified Embedding",
        NeurIPS 2023, who multiplex it. `UnifiedEmbedding` also shares rows between the pieces.
    """

    kind: Literal["product_hash"] = "product_hash"
    """Name in configurations."""
    parts: int = Field(default=4, ge=1)
    """Pieces of a vector; at most D."""
    num_buckets: int | None = Field(default=None, ge=1)
    """Rows of each codebook; None is set by the budget."""
    multiplex: bool = False
    """One set of codebooks for all tables of one width."""
    salt: int = Field(default=0, ge=0)
    """Seed of the hashes."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """Rows in proportion to the ids of each table, or of all that share codebooks."""
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
        """One hashed probe a piece, side by side."""
        self.need(num_buckets=self.num_buckets)
        assert self.num_buckets is not None
        dim, count = table.embedding_dim, min(self.parts, table.embedding_dim)
        owner = f"shared@product_hash{dim}-" if self.multiplex else f"{table.name}@product_hash"
        probes = tuple(
            table.model_copy(
                update={
                    "name": f"{owner}{piece}",
                    "num_embeddings": self.num_buckets + 1,
                    "embedding_dim": dim // count + (piece < dim % count),
                }
            )
            for piece in range(count)
        )
        names = [f"{table.name}#{piece}" for piece in range(count)]
        encoder = HashEncoder(names, [self.num_buckets] * count, self.salt)
        return Part(probes, encoder, Concat() if count > 1 else Decoder())
