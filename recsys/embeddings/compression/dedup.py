"""Deduplication: train in full, share blocks of rows that came out alike, train on.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recsys.embeddings.compression.budget import check_fixed, fit, planned_bytes, smaller_of
from recsys.embeddings.compression.merging import merge
from recsys.embeddings.scheme import (
    Decoder,
    Encoder,
    Part,
    Phase,
    Scheme,
    SearchContext,
    Successor,
    Trained,
    successor_as_is,
)
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.schema import PAD_INDEX, TableSpec

_BLOCK_ROWS = tuple(2**k for k in range(13))


class BlockEncoder(Encoder):
    """Row of x: ``1 + B map[(x - 1) // B] + (x - 1) % B``.

    Args:
        blocks: How many the table has.
        kept: How many are stored.
        block_rows: B.

    Shape:
        - as `Encoder`
    """

    def __init__(self, blocks: int, kept: int, block_rows: int) -> None:
        super().__init__()
        self.kept, self.block_rows = kept, block_rows
        self.map: Tensor
        self.register_buffer("map", torch.empty(blocks, dtype=torch.int32))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Spreads the blocks evenly, until a merge says better."""
        del generator
        if not self.map.is_meta:
            self.map.copy_(torch.arange(self.map.shape[0], device=self.map.device) % self.kept)

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        """One tensor of rows."""
        places, real = (indices.long() - 1).clamp(min=0), indices != PAD_INDEX
        block = self.map.index_select(0, places // self.block_rows)
        return (((block * self.block_rows + places % self.block_rows + 1) * real).int(),)


class Dedup(Scheme):
    """Blocks of B rows that are alike become one: K of ``N = ceil((n - 1) / B)`` are kept.

    Two phases. ``train`` trains the full table, so training takes the memory of the full table
    and its optimizer state. Then blocks are merged, the most similar first, each into an earlier
    (more frequent) one that keeps its values, until the budget is met; ``finetune`` trains the
    shared blocks. Without a budget, ``threshold`` says how different merged blocks may be, and the
    size is known after training only.

    Memory: ``4 D (K B + 1) + 4 N`` bytes a table once merged, ``4 n D`` before.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=1001, embedding_dim=8,
        ...                   feature_names=("user",), pooling="sum")
        >>> found = Dedup(block_rows=4).plan([table], budget=9000)["user"]
        >>> found.kept_blocks  # (9000 - 4 * 250 - 32) / 128
        62

    Source:
        Zhou et al., "Serving Deep Learning Models with Deduplication from Relational Databases",
        PVLDB 15 (2022), as used for embeddings by Zhang et al., PVLDB 17 (2024,
        arXiv:2311.15578). There blocks have 10,000 rows, are ordered by magnitude and merged
        where 70 % of their numbers differ by less than .01; here blocks are small (the map is
        counted), earlier blocks win because indices are ordered by frequency, and distance decides,
        so that every budget above the floor is met exactly. Blocks are shared inside a table only.
    """

    kind: Literal["dedup"] = "dedup"
    """Name in configurations."""
    block_rows: int | None = Field(default=None, ge=1)
    """B. None: the smallest power of two whose map takes a quarter of the budget at most."""
    kept_blocks: int | None = Field(default=None, ge=1)
    """K; None is set by the budget or found by the threshold."""
    threshold: float | None = Field(default=None, ge=0)
    """Without a budget: largest distance of merged blocks, in norms of an average block."""
    finetune_epochs: float = Field(default=0.5, gt=0)
    """Length of the second phase as a share of the first."""
    merged: bool = False
    """Whether blocks are merged. Written by recsys."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """Blocks in proportion to the rows of each table."""
        if self.threshold is not None and budget is not None:
            raise ConfigError(
                f"scheme `{self.kind}`: expected a budget or a `threshold`, got {budget:,} bytes "
                f"and {self.threshold}. A budget says how much is merged; remove `threshold`."
            )
        if self.threshold is not None:
            self.need(block_rows=self.block_rows)
            return {table.name: self for table in tables}
        if budget is None or self.kept_blocks is not None:
            self.need(block_rows=self.block_rows, kept_blocks=self.kept_blocks)
            fixed = {table.name: smaller_of(table, self._of(table)) for table in tables}
            return check_fixed(self.kind, tables, budget, fixed)
        if self.block_rows is not None:
            return self._fit(tables, budget, self.block_rows)
        for rows in _BLOCK_ROWS:
            if sum(4 * _blocks(table, rows) for table in tables) <= budget / 4:
                try:
                    return self._fit(tables, budget, rows)
                except BudgetInfeasible:
                    break  # larger blocks need more for their rows
        floors = {r: planned_bytes(tables, self._at(tables, r, 0.0)) for r in _BLOCK_ROWS}
        return self._fit(tables, budget, min(floors, key=lambda rows: floors[rows]))

    def _fit(self, tables: Sequence[TableSpec], budget: int, rows: int) -> dict[str, Scheme]:
        return fit(self.kind, tables, budget, lambda share: self._at(tables, rows, share))

    def _at(self, tables: Sequence[TableSpec], rows: int, share: float) -> dict[str, Scheme]:
        """The plan that keeps this share of the blocks."""
        plan: dict[str, Scheme] = {}
        for table in tables:
            kept = max(1, int(share * _blocks(table, rows)))
            scheme = self.model_copy(update={"block_rows": rows, "kept_blocks": kept})
            plan[table.name] = smaller_of(table, scheme)
        return plan

    def _of(self, table: TableSpec) -> Dedup:
        """With no more blocks than a table has."""
        assert self.block_rows is not None and self.kept_blocks is not None
        kept = min(self.kept_blocks, _blocks(table, self.block_rows))
        return self.model_copy(update={"kept_blocks": kept})

    def part(self, table: TableSpec) -> Part:
        """The table itself; once merged, its kept blocks."""
        if not self.merged:
            return Part((table,), Encoder(), Decoder())
        self.need(block_rows=self.block_rows, kept_blocks=self.kept_blocks)
        assert self.block_rows is not None and self.kept_blocks is not None
        rows = self.kept_blocks * self.block_rows + 1
        probe = table.model_copy(update={"name": f"{table.name}@dedup", "num_embeddings": rows})
        blocks = _blocks(table, self.block_rows)
        return Part((probe,), BlockEncoder(blocks, self.kept_blocks, self.block_rows), Decoder())

    def phases(self) -> tuple[Phase, ...]:
        """Full, then shared."""
        return Phase("train"), Phase("finetune", epochs=self.finetune_epochs)

    def advance(
        self, phase: str, trained: Mapping[str, Trained], context: SearchContext
    ) -> dict[str, Successor]:
        """Merges the blocks of every table."""
        found: dict[str, Successor] = {}
        for name, table in trained.items():
            found[name] = merged(table, context.seed)
            scheme, rows = found[name].scheme, table.table.num_embeddings
            assert isinstance(scheme, Dedup)
            context.say(
                f"{name}: {rows:,} rows share {scheme.kept_blocks:,} blocks of {scheme.block_rows}"
            )
        return found

    def frozen(self, trained: Trained) -> Successor:
        """The shared blocks; merges them where that has not been done."""
        return successor_as_is(trained) if self.merged else merged(trained, 0)

    def frozen_scheme(self) -> Scheme:
        """Merged, where the size is known."""
        if self.merged or self.kept_blocks is None:
            return self
        return self.model_copy(update={"merged": True})


def merged(trained: Trained, seed: int) -> Successor:
    """A full table with its blocks merged.

    Args:
        trained: It.
        seed: Of the random directions.
    """
    scheme = trained.scheme
    assert isinstance(scheme, Dedup) and scheme.block_rows is not None
    rows, (weight,) = scheme.block_rows, trained.probes
    count, width = _blocks(trained.table, rows), weight.shape[1]
    padded = functional.pad(weight[1:], (0, 0, 0, count * rows - (weight.shape[0] - 1)))
    blocks = padded.reshape(count, rows * width)
    most = None
    if scheme.threshold is not None:
        most = scheme.threshold**2 * blocks.square().sum(1).mean().item()
    generator = torch.Generator().manual_seed(seed)
    owner = merge(blocks, scheme.kept_blocks or 1, generator, most)
    kept, block_map = torch.unique(owner, return_inverse=True)
    found = scheme.model_copy(update={"kept_blocks": kept.shape[0], "merged": True})
    table = torch.cat([weight[:1], blocks[kept].reshape(-1, width)])
    return Successor(found, (table,), {"map": block_map.int()})


def _blocks(table: TableSpec, rows: int) -> int:
    """Blocks of a table; PAD is in none."""
    return max(1, -(-(table.num_embeddings - 1) // rows))
