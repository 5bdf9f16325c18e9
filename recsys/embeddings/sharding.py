"""Which rank holds which table: a small placer for CPU ranks, and the printable plan.

Stability: experimental
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from recsys.embeddings.store import PhysicalTable
from recsys.errors import ShardingError


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """Where one table lives.

    Args:
        table: ``<group>.<table>``.
        kind: Whole on one rank, or its rows spread evenly over all.
        ranks: Who holds a part.
        bytes: Weights and optimizer state, over all ranks.
    """

    table: str
    kind: str
    ranks: tuple[int, ...]
    bytes: int


@dataclasses.dataclass(frozen=True)
class TablePlan:
    """All placements; ``print`` shows them as a table.

    Args:
        placements: One a table.
        world_size: Number of ranks.

    Example:
        >>> plan = TablePlan((Placement("embedding.user", "row_wise", (0, 1), 6000),
        ...                   Placement("embedding.ad", "table_wise", (1,), 2000)), 2)
        >>> print(plan)
        table           type        ranks  bytes  share
        embedding.user  row_wise    0-1    6_000    75%
        embedding.ad    table_wise  1      2_000    25%
        rank 0: 3_000 bytes (38%), rank 1: 5_000 bytes (62%)
    """

    placements: tuple[Placement, ...]
    world_size: int

    def rank_bytes(self) -> list[int]:
        """Bytes on every rank."""
        loads = [0] * self.world_size
        for placement in self.placements:
            for rank in placement.ranks:
                loads[rank] += placement.bytes // len(placement.ranks)
        return loads

    def __str__(self) -> str:
        total = max(1, sum(placement.bytes for placement in self.placements))
        rows = [("table", "type", "ranks", "bytes", "share")]
        for item in self.placements:
            ranks = str(item.ranks[0])
            if len(item.ranks) > 1:
                ranks = f"{item.ranks[0]}-{item.ranks[-1]}"
            share = f"{item.bytes / total:.0%}"
            rows.append((item.table, item.kind, ranks, f"{item.bytes:_}", share))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            "  ".join(
                cell.rjust(width) if i >= 3 else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths))
            )
            for row in rows
        ]
        loads = self.rank_bytes()
        whole = max(1, sum(loads))
        ranks = (f"rank {i}: {n:_} bytes ({n / whole:.0%})" for i, n in enumerate(loads))
        return "\n".join([*lines, ", ".join(ranks)])


Kind = Literal["row_wise", "table_wise", "column_wise"]
ALIGN = 4
"""FBGEMM's kernels want widths that are multiples of this."""


def place(
    tables: Sequence[PhysicalTable],
    table_bytes: Sequence[int],
    world_size: int,
    force: Kind | None = None,
) -> TablePlan:
    """Spreads tables over CPU ranks: big ones by rows, the rest whole, largest first.

    A table is big when it holds more than half of what one rank should hold. Column-wise
    sharding has to be asked for: with rowwise Adagrad it is another algorithm. Tables too narrow
    to be cut into columns stay whole.

    Args:
        tables: What to place.
        table_bytes: Weights and optimizer state of each.
        world_size: Number of ranks.
        force: Place all tables in this way.

    Raises:
        ShardingError: ``force=row_wise`` for a table with fewer rows than ranks.
    """
    fair = sum(table_bytes) / world_size
    loads, placed = [0.0] * world_size, {}
    for i in sorted(range(len(tables)), key=lambda i: -table_bytes[i]):
        rows = tables[i].spec.num_embeddings
        if force == "row_wise" and rows < world_size:
            raise ShardingError(
                f"table `{tables[i].name}` has {rows} rows, fewer than the {world_size} ranks: "
                "it cannot be placed row_wise. Leave the kind to the placer."
            )
        width = -(-tables[i].spec.embedding_dim // ALIGN) * ALIGN
        if force == "column_wise" and width % (ALIGN * world_size) == 0:
            kind, ranks = "column_wise", tuple(range(world_size))
            placed[i] = Placement(tables[i].name, kind, ranks, table_bytes[i])
            loads = [load + table_bytes[i] / world_size for load in loads]
            continue
        big = world_size > 1 and table_bytes[i] > fair / 2 and rows >= world_size
        if force == "row_wise" or (big and force is None):
            placed[i] = Placement(
                tables[i].name, "row_wise", tuple(range(world_size)), table_bytes[i]
            )
            loads = [load + table_bytes[i] / world_size for load in loads]
        else:
            rank = loads.index(min(loads))
            placed[i] = Placement(tables[i].name, "table_wise", (rank,), table_bytes[i])
            loads[rank] += table_bytes[i]
    return TablePlan(tuple(placed[i] for i in range(len(tables))), world_size)
