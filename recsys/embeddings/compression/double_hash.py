"""Several hashes into one table: ids share rows, but seldom all of them.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recsys.embeddings.compression.bucketed import Bucketed
from recsys.embeddings.compression.hashing import HashEncoder
from recsys.embeddings.scheme import Concat, Decoder, Part
from recsys.errors import ConfigError
from recsys.schema import TableSpec


class Sum(Decoder):
    """The sum of the probes' vectors.

    Shape:
        - as `Decoder`, all probes of one width
    """

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Adds them up."""
        if len(probes) == 2:
            return probes[0] + probes[1]
        return torch.stack(tuple(probes)).sum(0)


class DoubleHash(Bucketed):
    """K hashes into one table of M rows: ``e(x) = sum_k E[h_k(x)]``, or the K rows side by side.

    Two ids get one vector only where all K hashes agree, which has a chance of about M^-K instead
    of 1/M. Summed, rows have the width D; side by side, ``D / K``, and there are K times as many.
    With ``multiplex`` one table serves all logical tables of a width, each with its own hashes.

    Rows start with ``std / sqrt(K)`` where summed. A table of width 1 is always summed.

    Memory: summed ``4 (M + 1) D + 8 K`` bytes a table, side by side ``4 (M + 1) D / K + 8 K``;
    multiplexed the rows once and 8 K bytes a table. It reaches any budget.

    Configuration::

        compression: {scheme: {kind: double_hash, num_hashes: 2, combine: sum}, ratio: 0.1}

    Raises:
        ConfigError: ``combine=concat`` and a width that K does not divide.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=1000, embedding_dim=8,
        ...                   feature_names=("user",), pooling="sum")
        >>> DoubleHash().plan([table], budget=3216)["user"].num_buckets
        99

    Source:
        Zhang et al., "Model Size Reduction Using Frequency Based Double Hashing for Recommender
        Systems", RecSys 2020 (two hashes; their rows of its own for frequent ids are left out:
        see ``adapt_emb``), and Serra, Karatzoglou, "Getting Deep Recommenders Fit: Bloom
        Embeddings for Sparse Binary Input/Output Networks", RecSys 2017 (K hashes, summed). A
        row that two hashes of one id name counts twice, in a Bloom filter once.
    """

    narrow: ClassVar[bool] = True
    kind: Literal["double_hash"] = "double_hash"
    """Name in configurations."""
    num_hashes: int = Field(default=2, ge=2)
    """K."""
    combine: Literal["sum", "concat"] = "sum"
    """How K rows become one vector."""

    def rows_per_id(self, table: TableSpec) -> float:
        """More rows where each is a part of the width."""
        return table.embedding_dim / self._width(table)

    def _width(self, table: TableSpec) -> int:
        """Width of the physical rows."""
        dim, hashes = table.embedding_dim, self.num_hashes
        if self.combine == "sum" or dim == 1:
            return dim
        if dim % hashes:
            raise ConfigError(
                f"scheme `{self.kind}`, table `{table.name}`: combine=concat cuts the width into "
                f"num_hashes={hashes} equal parts, got embedding_dim={dim}. Use a width that "
                f"{hashes} divides, other `num_hashes`, or combine=sum."
            )
        return dim // hashes

    def part(self, table: TableSpec) -> Part:
        """K probes of one physical table."""
        buckets = self.buckets()
        width, dim, hashes = self._width(table), table.embedding_dim, self.num_hashes
        owner = f"shared@double_hash{dim}" if self.multiplex else f"{table.name}@double_hash"
        init, decoder = table.init, Concat()
        if width == dim:
            init = init.model_copy(update={"std": init.std / math.sqrt(hashes)})
            decoder = Sum()
        sizes = {"num_embeddings": buckets + 1, "embedding_dim": width}
        probe = table.model_copy(update={"name": owner, "init": init, **sizes})
        names = [f"{table.name}#{number}" for number in range(hashes)]
        encoder = HashEncoder(names, [buckets] * hashes, self.salt)
        return Part((probe,) * hashes, encoder, decoder)
