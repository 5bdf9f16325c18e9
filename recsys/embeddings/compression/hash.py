"""The hashing trick: ids share rows by a salted hash.

Stability: experimental
"""

from __future__ import annotations

from typing import ClassVar, Literal

from recsys.embeddings.compression.bucketed import Bucketed
from recsys.embeddings.compression.hashing import HashEncoder
from recsys.embeddings.scheme import Decoder, Part
from recsys.schema import TableSpec


class Hash(Bucketed):
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

    def part(self, table: TableSpec) -> Part:
        """One hashed probe."""
        buckets = self.buckets()
        owner = f"shared@hash{table.embedding_dim}" if self.multiplex else f"{table.name}@hash"
        probe = table.model_copy(update={"name": owner, "num_embeddings": buckets + 1})
        return Part((probe,), HashEncoder([table.name], [buckets], self.salt), Decoder())
