"""Unified Embedding: one table for all features.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys.embeddings.compression.budget import check_fixed, full_bytes
from recsys.embeddings.compression.hashing import HashEncoder
from recsys.embeddings.compression.shared_table import (
    by_start,
    half_width,
    share_out,
    side_by_side,
)
from recsys.embeddings.scheme import Decoder, Full, Part, Scheme
from recsys.errors import SchemaError, did_you_mean
from recsys.layers.initialization import normal_
from recsys.schema import Name, TableSpec


class UnifiedEmbedding(Scheme):
    """Feature multiplexing: all tables read one table E of M rows and ``chunk`` columns.

        e_t(x) = concat_k E[1 + h(x; t, k) mod M],   k = 0 .. K_t - 1

    K_t is ``ceil(D / chunk)``; where D is no multiple of ``chunk`` the last columns are cut off.
    So tables of all widths share the same rows, and any budget can be reached. The default for
    tables that do not fit.

    Memory: ``4 (M + 1) chunk`` bytes for all tables (row 0 is PAD), and 8 bytes a probe for salts.
    A table named in ``probes`` takes another ``4 D K chunk`` bytes, unless K is K_t.

    Example:
        >>> tables = [TableSpec(name=name, num_embeddings=rows, embedding_dim=16,
        ...                     feature_names=(name,), pooling="sum")
        ...           for name, rows in (("user", 1000), ("item", 600))]
        >>> plan = UnifiedEmbedding().plan(tables, budget=10_000)
        >>> plan["user"].chunk, plan["user"].num_buckets
        (8, 310)
        >>> [probe.name for probe in plan["item"].part(tables[1]).probes]
        ['shared@unified8', 'shared@unified8']

    Source:
        Coleman et al., "Unified Embedding: Battle-Tested Feature Representations for Web-Scale ML
        Systems", NeurIPS 2023, Section 5 (and the Unified Embedding Module of TensorFlow
        Recommenders). There the number of probes is also the width that the model sees. Here the
        model states the width D, so another number of probes is followed by a learned K chunk x D
        matrix.
    """

    narrow: ClassVar[bool] = True
    kind: Literal["unified"] = "unified"
    """Name in configurations."""
    chunk: int | None = Field(default=None, ge=1)
    """Columns of the shared table; at most the widest table's width. None: half of that, rounded
    up to a multiple of 4, so that ids rarely share all of their vector."""
    num_buckets: int | None = Field(default=None, ge=1)
    """Rows that ids share; None is set by the budget."""
    probes: dict[Name, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Lookups of single tables, where they are not to be ``ceil(D / chunk)``. Tables of width 1
    always have one. A name that `compress` finds no table for is refused."""
    pool: int = Field(default=0, ge=0)
    """Which shared table: tables that start differently (`TableSpec.init`) cannot share rows.
    Set by the plan."""
    salt: int = Field(default=0, ge=0)
    """Seed of the hash."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """The largest shared table that fits; everything in `Full` where that fits."""
        if budget is None:
            self.need(num_buckets=self.num_buckets)
        elif self.num_buckets is None and full_bytes(tables) <= budget:
            return {table.name: Full() for table in tables}
        pools = by_start(tables)
        widest = [max(table.embedding_dim for table in mine) for mine in pools]
        chunks = [min(self.chunk or half_width(width), width) for width in widest]

        def at(pool: int, rows: int) -> Scheme:
            sizes = {"chunk": chunks[pool], "pool": pool, "num_buckets": rows}
            return self.model_copy(update=sizes)

        if self.num_buckets is not None:
            count = self.num_buckets
            fixed = {t.name: at(pool, count) for pool, mine in enumerate(pools) for t in mine}
            return check_fixed(self.kind, tables, budget, fixed)
        assert budget is not None
        return share_out(self.kind, budget, pools, [4 * chunk for chunk in chunks], at)

    def check_names(self, tables: Collection[str]) -> None:
        """Refuses ``probes`` of tables that are not there, or held in another way."""
        for name in self.probes:
            if name not in tables:
                raise SchemaError(
                    f"scheme `{self.kind}`: `probes` names `{name}`, but holds no table of that "
                    f"name. {did_you_mean(name, tables)}"
                )

    def part(self, table: TableSpec) -> Part:
        """Probes of the shared table, side by side."""
        self.need(chunk=self.chunk, num_buckets=self.num_buckets)
        assert self.chunk is not None and self.num_buckets is not None
        whole = -(-table.embedding_dim // self.chunk)
        count = whole if table.embedding_dim == 1 else self.probes.get(table.name, whole)
        probe = table.model_copy(
            update={
                "name": f"shared@unified{self.chunk}" + (f"-{self.pool}" if self.pool else ""),
                "num_embeddings": self.num_buckets + 1,
                "embedding_dim": self.chunk,
            }
        )
        names = [f"{table.name}#{number}" for number in range(count)]
        encoder = HashEncoder(names, [self.num_buckets] * count, self.salt)
        if count != whole:
            decoder = Projection(count * self.chunk, table.embedding_dim)
        else:
            decoder = side_by_side(count * self.chunk, table.embedding_dim)
        return Part((probe,) * count, encoder, decoder)


class Projection(Decoder):
    """The probes' vectors side by side, times a learned matrix.

    Args:
        width: Of all probes together.
        dim: D.

    Shape:
        - as `Decoder`
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, dim))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Draws a matrix that keeps the variance of the rows."""
        normal_(self.weight, self.weight.shape[0] ** -0.5, generator)

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Concatenates and multiplies."""
        return torch.cat(list(probes), dim=1) @ self.weight
