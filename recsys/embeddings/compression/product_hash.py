"""Hashed product quantization: a vector is put together of hashed pieces.

Stability: experimental
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recsys.embeddings.compression.bucketed import Bucketed
from recsys.embeddings.compression.hashing import HashEncoder
from recsys.embeddings.scheme import Concat, Decoder, Part
from recsys.schema import TableSpec


class ProductHash(Bucketed):
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

    def part(self, table: TableSpec) -> Part:
        """One hashed probe a piece, side by side."""
        buckets = self.buckets()
        dim, count = table.embedding_dim, min(self.parts, table.embedding_dim)
        owner = f"shared@product_hash{dim}-" if self.multiplex else f"{table.name}@product_hash"
        probes = tuple(
            table.model_copy(
                update={
                    "name": f"{owner}{piece}",
                    "num_embeddings": buckets + 1,
                    "embedding_dim": dim // count + (piece < dim % count),
                }
            )
            for piece in range(count)
        )
        names = [f"{table.name}#{piece}" for piece in range(count)]
        encoder = HashEncoder(names, [buckets] * count, self.salt)
        return Part(probes, encoder, Concat() if count > 1 else Decoder())
