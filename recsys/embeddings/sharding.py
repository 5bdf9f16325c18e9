"""Which rank holds which table: rules, a small placer for CPU ranks, and the printable plan.

Stability: experimental
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from recsys.embeddings.store import PhysicalTable
from recsys.errors import ShardingError, did_you_mean
from recsys.schema import Frozen

Kind = Literal[
    "data_parallel",
    "table_wise",
    "row_wise",
    "column_wise",
    "table_row_wise",
    "table_column_wise",
    "grid_shard",
]
"""How a table is spread, in torchrec's words."""
CPU_KINDS = ("data_parallel", "table_wise", "row_wise", "column_wise")
"""Those that CPU ranks take; the others divide tables by hosts of GPUs."""
ALIGN = 4
"""FBGEMM's kernels want widths that are multiples of this."""
_EVERYWHERE = ("data_parallel", "row_wise")


class TableRule(Frozen):
    """Where one table has to be."""

    kind: Kind
    """``data_parallel`` keeps a copy on every rank, ``table_wise`` the whole table on one,
    ``row_wise`` and ``column_wise`` an equal part on each. ``table_row_wise``,
    ``table_column_wise`` and ``grid_shard`` (parts by host) are for GPUs."""
    ranks: tuple[int, ...] | None = None
    """Which ranks: one for ``table_wise``, several for ``column_wise``. None leaves it to the
    placer, and is all that the other kinds take."""


class ShardingConfig(Frozen):
    """How tables are spread over ranks.

    Configuration::

        embedding:
          sharding: {placement: auto, tables: {C3: {kind: row_wise}}, rank_memory: 2_000_000_000}
    """

    placement: Literal["auto", "data_parallel", "table_wise", "row_wise", "column_wise"] = "auto"
    """Of all tables that no rule names. ``auto``: on CPU big tables row-wise, the others whole,
    largest first; on GPU what torchrec's planner finds cheapest."""
    tables: dict[str, TableRule] = Field(default_factory=dict)
    """Exceptions by table: ``<group>.<table>``, or ``<table>`` for every group that has it. The
    name of a compressed table stands for all tables that it is made of."""
    rank_memory: int | None = Field(default=None, ge=1)
    """Bytes that tables and their optimizer state may take on each rank. None measures: four
    fifths of what the host (and its container) has free, shared by the ranks on it; on GPU what
    the device has."""

    def rule_of(self, table: PhysicalTable) -> TableRule | None:
        """The rule for a physical table.

        Args:
            table: Named ``<group>.<table>`` or ``<group>.<table>@<role>``.
        """
        name = table.spec.name
        for known in (name, name.partition("@")[0]):
            for key in (f"{table.group}.{known}", known):
                if key in self.tables:
                    return self.tables[key]
        return None

    def check_names(self, tables: Sequence[PhysicalTable]) -> None:
        """Refuses rules that no table answers to.

        Args:
            tables: All there are.

        Raises:
            ShardingError: One of them.
        """
        names = {name for table in tables for name in (table.spec.name, table.name)}
        names |= {name.partition("@")[0] for name in names}
        for rule in self.tables:
            if rule not in names:
                raise ShardingError(
                    f"embedding.sharding.tables: no table `{rule}`. {did_you_mean(rule, names)}"
                )


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """Where one table lives.

    Args:
        table: ``<group>.<table>``.
        kind: See `TableRule`.
        ranks: Who holds a part, or a copy where ``data_parallel``.
        bytes: Weights and optimizer state of one copy.
    """

    table: str
    kind: str
    ranks: tuple[int, ...]
    bytes: int

    @property
    def bytes_a_rank(self) -> int:
        """What each of ``ranks`` holds of it."""
        return self.bytes if self.kind == "data_parallel" else -(-self.bytes // len(self.ranks))


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
                loads[rank] += placement.bytes_a_rank
        return loads

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "world_size": self.world_size,
            "rank_bytes": self.rank_bytes(),
            "tables": [dataclasses.asdict(placement) for placement in self.placements],
        }

    def __str__(self) -> str:
        total = max(1, sum(placement.bytes for placement in self.placements))
        rows = [("table", "type", "ranks", "bytes", "share")]
        for item in self.placements:
            share = f"{item.bytes / total:.0%}"
            rows.append((item.table, item.kind, _spell(item.ranks), f"{item.bytes:_}", share))
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


def _spell(ranks: tuple[int, ...]) -> str:
    """``0-3`` for all of them, else one by one."""
    if len(ranks) > 1 and ranks == tuple(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]}-{ranks[-1]}"
    return ",".join(str(rank) for rank in ranks)


def place(
    tables: Sequence[PhysicalTable],
    table_bytes: Sequence[int],
    world_size: int,
    config: ShardingConfig | None = None,
    rank_memory: Sequence[int] | None = None,
    cheaper: Mapping[str, int] | None = None,
) -> TablePlan:
    """Spreads tables over CPU ranks: big ones by rows, the rest whole, largest first.

    A table is big when it holds more than half of what one rank should hold, or fits no rank as a
    whole. Column-wise sharding has to be asked for: with rowwise Adagrad it is another algorithm.
    With ``placement=column_wise`` tables too narrow to be cut stay whole.

    Args:
        tables: What to place.
        table_bytes: Weights and optimizer state of each.
        world_size: Number of ranks.
        config: Rules.
        rank_memory: Bytes that each rank has for tables; None does not look.
        cheaper: Other ways to train them, and the bytes of all tables then, for the error.

    Raises:
        ShardingError: A rule cannot be kept, or the tables do not fit.
    """
    config = config or ShardingConfig()
    config.check_names(tables)
    placer = _Placer(tables, table_bytes, world_size, config, rank_memory)
    plan = placer.place(spread=False)
    if rank_memory is not None and not _fits(plan, rank_memory):
        plan = placer.place(spread=True)
        if not _fits(plan, rank_memory):
            raise _unfit(plan, rank_memory, cheaper or {})
    return plan


def _fits(plan: TablePlan, memory: Sequence[int]) -> bool:
    return all(load <= most for load, most in zip(plan.rank_bytes(), memory))


class _Placer:
    """Places tables once; see `place`."""

    def __init__(
        self,
        tables: Sequence[PhysicalTable],
        table_bytes: Sequence[int],
        world_size: int,
        config: ShardingConfig,
        rank_memory: Sequence[int] | None,
    ) -> None:
        self.tables, self.table_bytes, self.world_size = tables, table_bytes, world_size
        self.config, self.rank_memory = config, rank_memory
        self.rules = [config.rule_of(table) for table in tables]
        self.loads: list[int] = []

    def place(self, spread: bool) -> TablePlan:
        """A plan, tables with a rule first.

        Args:
            spread: Every table that may be is cut into rows, however small.
        """
        self.loads = [0] * self.world_size
        numbers = range(len(self.tables))
        placed: dict[int, Placement] = {}
        for i in sorted(numbers, key=lambda i: (self.rules[i] is None, -self.table_bytes[i])):
            rule = self.rules[i]
            found = self._auto(i, spread) if rule is None else self._ruled(i, rule)
            placed[i] = found
            for rank in found.ranks:
                self.loads[rank] += found.bytes_a_rank
        return TablePlan(tuple(placed[i] for i in numbers), self.world_size)

    def _ruled(self, i: int, rule: TableRule) -> Placement:
        """Where the rule of a table puts it."""
        name, ranks, everywhere = self.tables[i].name, rule.ranks, tuple(range(self.world_size))
        place = f"embedding.sharding, table `{name}`, kind={rule.kind}"
        if rule.kind not in CPU_KINDS:
            raise ShardingError(f"{place}: CPU ranks know {', '.join(CPU_KINDS)}. Use one of them.")
        if ranks is not None and rule.kind in _EVERYWHERE:
            raise ShardingError(f"{place} is spread over all ranks, got ranks={list(ranks)}.")
        if ranks is not None and (not ranks or sorted({*ranks} & {*everywhere}) != sorted(ranks)):
            raise ShardingError(
                f"{place}: expected different ranks of 0 to {self.world_size - 1}, got "
                f"{list(ranks)}."
            )
        if rule.kind == "table_wise":
            if ranks is not None and len(ranks) != 1:
                raise ShardingError(f"{place} wants one rank, got {list(ranks)}.")
            return self._at(i, rule.kind, ranks or (self._least(i),))
        if rule.kind == "row_wise":
            return self._by_rows(i)
        if rule.kind == "column_wise":
            ranks = ranks or everywhere
            if not self._cuts(i, len(ranks)):
                raise ShardingError(
                    f"{place}: its width {self.tables[i].spec.embedding_dim} cannot be cut into "
                    f"{len(ranks)} parts of a multiple of {ALIGN}. Use fewer `ranks`, or row_wise."
                )
            return self._at(i, rule.kind, ranks)
        return self._at(i, rule.kind, everywhere)

    def _auto(self, i: int, spread: bool) -> Placement:
        """Where ``placement`` puts a table without a rule."""
        placement, everywhere = self.config.placement, tuple(range(self.world_size))
        if placement == "row_wise":
            return self._by_rows(i)
        if placement == "data_parallel":
            return self._at(i, placement, everywhere)
        if placement == "column_wise" and self._cuts(i, self.world_size):
            return self._at(i, placement, everywhere)
        rank = self._least(i)
        cut = self.tables[i].spec.num_embeddings >= self.world_size > 1 and placement == "auto"
        big = self.table_bytes[i] > sum(self.table_bytes) / self.world_size / 2
        if cut and (big or spread or not self._has_room(rank, i)):
            return self._by_rows(i)
        return self._at(i, "table_wise", (rank,))

    def _by_rows(self, i: int) -> Placement:
        rows = self.tables[i].spec.num_embeddings
        if rows < self.world_size:
            raise ShardingError(
                f"table `{self.tables[i].name}` has {rows} rows, fewer than the {self.world_size} "
                "ranks: it cannot be placed row_wise. Leave the kind to the placer."
            )
        return self._at(i, "row_wise", tuple(range(self.world_size)))

    def _at(self, i: int, kind: str, ranks: tuple[int, ...]) -> Placement:
        return Placement(self.tables[i].name, kind, ranks, self.table_bytes[i])

    def _cuts(self, i: int, parts: int) -> bool:
        """Whether a table's columns can be divided."""
        width = -(-self.tables[i].spec.embedding_dim // ALIGN) * ALIGN
        return width % (ALIGN * parts) == 0

    def _has_room(self, rank: int, i: int) -> bool:
        memory = self.rank_memory
        return memory is None or self.loads[rank] + self.table_bytes[i] <= memory[rank]

    def _least(self, i: int) -> int:
        """The least loaded rank, of those that have room if any has."""
        ranks = range(self.world_size)
        return min(ranks, key=lambda rank: (not self._has_room(rank, i), self.loads[rank]))


def _unfit(plan: TablePlan, memory: Sequence[int], cheaper: Mapping[str, int]) -> ShardingError:
    """What is too large, how much is missing, and what would fit."""
    needed, there = sum(plan.rank_bytes()), sum(memory)
    over = {
        rank: load - most
        for rank, (load, most) in enumerate(zip(plan.rank_bytes(), memory))
        if load > most
    }
    largest = sorted(plan.placements, key=lambda item: -item.bytes)[:3]
    names = ", ".join(f"`{item.table}` {item.bytes:,} ({item.kind})" for item in largest)
    rank, missing = max(over.items(), key=lambda item: item[1])
    lines = [
        f"the tables do not fit: with optimizer state they take {needed:,} bytes, and "
        f"{len(memory)} ranks have {there:,} for them. Rank {rank} would hold "
        f"{plan.rank_bytes()[rank]:,} bytes and has {memory[rank]:,}: {missing:,} are missing. "
        f"Largest tables: {names}. What would fit:"
    ]
    share = min(most / load for load, most in zip(plan.rank_bytes(), memory) if load)
    for kind, total in cheaper.items():
        if total <= share * needed:
            lines.append(f"  embedding.{kind}: {total:,} bytes")
    ratio = math.floor(80 * share) / 100  # a margin for optimizer state of narrower rows
    if ratio > 0:
        lines.append(
            f"  model.compression={{scheme: {{kind: unified}}, ratio: {ratio:g}}} (or less of what "
            "it is now; `recsys compress` measures what that costs)"
        )
    ranks = math.ceil(needed / (there / len(memory)))
    if needed > there and all(item.kind != "data_parallel" for item in plan.placements):
        lines.append(f"  {ranks} ranks of this size")
    else:
        lines.append("  placement=auto without rules, if there are any")
    return ShardingError("\n".join(lines))
