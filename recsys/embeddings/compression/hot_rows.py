"""What schemes share that give some ids rows of their own and let the others share.

Stability: internal
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from recsys.embeddings.compression.budget import check_fixed, fit, full_bytes, smaller_of
from recsys.embeddings.scheme import Full, Scheme
from recsys.schema import TableSpec

_RATIOS = (1e-4, 1e-3, 1e-2, 1e-1, 0.5)
_SHARED = (0.1, 0.2, 0.3, 0.5, 0.7)


def shared_part(ratio: float) -> float:
    """Which part of a budget the shared rows get, the rest goes to rows of their own.

    Between the values that CAFE's authors use for Criteo, over the logarithm of the ratio.

    Args:
        ratio: Budget as a share of the full table.

    Example:
        >>> [round(shared_part(ratio), 3) for ratio in (1e-6, 0.001, 0.03, 1.0)]
        [0.1, 0.2, 0.395, 0.7]

    Source:
        ``cafe_hash_rate`` in ``tasks/criteo.json`` of github.com/HugoZHL/CAFE.
    """
    return float(np.interp(math.log10(ratio), np.log10(_RATIOS), _SHARED))


def level(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Shares a number out so that nobody gets more than another, unless the other has enough.

    Every example looks up one id of each single-valued table, so the k-th ids of all tables are
    about equally frequent: the same number of hot rows a table is about one threshold for all.

    Args:
        sizes: What each can use.
        total: What there is. A rest smaller than the number of takers is not given away.

    Example:
        >>> level({"sex": 2, "user": 900, "item": 50}, 100)
        {'sex': 2, 'user': 49, 'item': 49}
    """
    found: dict[str, int] = {}
    left = max(0, total)
    for done, (name, size) in enumerate(sorted(sizes.items(), key=lambda item: item[1])):
        found[name] = min(size, left // (len(sizes) - done))
        left -= found[name]
    return {name: found[name] for name in sizes}


class HotRows(Scheme, abc.ABC):
    """``hot_rows`` ids have rows of their own, the others share ``num_buckets`` rows by hash.

    Both kinds of rows are one physical table: row 0 is PAD, then come the rows that ids own, then
    those that are shared. With ``multiplex`` it is one table for all logical tables of a width:
    the owned rows of each lie one after the other, and the shared ones are everybody's.
    """

    owner_bytes: ClassVar[int] = 0
    """What an owned row takes beside its numbers, where it is served."""
    hot_rows: int | None = Field(default=None, ge=0)
    """Ids with rows of their own; None is set by the budget."""
    num_buckets: int | None = Field(default=None, ge=1)
    """Rows that the others share; None is set by the budget."""
    shared_share: float | None = Field(default=None, gt=0, le=1)
    """Part of the bytes for shared rows; None: less of it the smaller the budget."""
    multiplex: bool = False
    """One table for all features of one width: the rarer ids of all of them share rows."""
    hot_start: int = Field(default=0, ge=0)
    """Rows before the first owned one, PAD not counted. Written by `plan` where multiplexed."""
    shared_start: int | None = Field(default=None, ge=0)
    """Rows before the first shared one, PAD not counted; None: ``hot_rows``. Written by `plan`
    where multiplexed."""
    salt: int = Field(default=0, ge=0)
    """Seed of the hashes."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """Own rows in proportion to each table's; multiplexed the same number for every table."""
        kind = str(getattr(self, "kind", "?"))
        if budget is None or (self.hot_rows is not None and self.num_buckets is not None):
            self.need(hot_rows=self.hot_rows, num_buckets=self.num_buckets)
            return check_fixed(kind, tables, budget, self._at(tables, 1.0, 1.0))
        if full_bytes(tables) <= budget:
            return {table.name: Full() for table in tables}
        shared = self.shared_share
        if shared is None:
            shared = shared_part(budget / full_bytes(tables))
        return fit(kind, tables, budget, lambda share: self._at(tables, share, shared))

    def _at(self, tables: Sequence[TableSpec], share: float, shared: float) -> dict[str, Scheme]:
        """The plan that keeps this share of the bytes; a stated size stays as it is."""
        if self.multiplex:
            widths = dict.fromkeys(table.embedding_dim for table in tables)
            plan: dict[str, Scheme] = {}
            for width in widths:
                mine = [table for table in tables if table.embedding_dim == width]
                plan |= self._together(mine, share, shared)
            return plan
        plan = {}
        for table in tables:
            hot, buckets = self._sizes(table.num_embeddings, table.embedding_dim, share, shared)
            hot = min(hot, table.num_embeddings - 1)
            sizes = {"hot_rows": hot, "num_buckets": buckets}
            plan[table.name] = smaller_of(table, self.model_copy(update=sizes))
        return plan

    def _sizes(self, count: int, width: int, share: float, shared: float) -> tuple[int, int]:
        """Rows to own and rows to share for so many ids."""
        row = 4 * width
        own, rows = row + self.owner_bytes, max(1, math.ceil(share * count))
        if self.hot_rows is not None:
            return self.hot_rows, self.num_buckets or max(1, rows - self.hot_rows * own // row)
        buckets = self.num_buckets or max(1, math.ceil(shared * rows))
        return max(0, (rows - buckets) * row // own), buckets

    def _together(
        self, tables: Sequence[TableSpec], share: float, shared: float
    ) -> dict[str, Scheme]:
        """One physical table. Who gets a row for every id is held in full instead."""
        ids = {table.name: max(1, table.num_embeddings - 1) for table in tables}
        hot, buckets = self._sizes(sum(ids.values()), tables[0].embedding_dim, share, shared)
        if self.hot_rows is not None:
            hot = self.hot_rows * len(tables)
        own = level(ids, hot)
        plan: dict[str, Scheme] = {name: Full() for name in ids if own[name] == ids[name]}
        sharing = [name for name in ids if name not in plan]
        total, start = sum(own[name] for name in sharing), 0
        for name in sharing:
            sizes = {"hot_rows": own[name], "num_buckets": buckets}
            places = {"hot_start": start, "shared_start": total}
            plan[name] = self.model_copy(update=sizes | places)
            start += own[name]
        return plan

    def sizes(self) -> tuple[int, int, int, int]:
        """Own rows, shared rows, rows before the own ones, rows before the shared ones.

        Raises:
            ConfigError: They are not stated.
        """
        self.need(hot_rows=self.hot_rows, num_buckets=self.num_buckets)
        assert self.hot_rows is not None and self.num_buckets is not None
        before = self.hot_rows if self.shared_start is None else self.shared_start
        return self.hot_rows, self.num_buckets, self.hot_start, before

    def probe(self, table: TableSpec, role: str) -> TableSpec:
        """The physical table.

        Args:
            table: The logical one.
            role: What its name ends with.
        """
        _, buckets, _, before = self.sizes()
        owner = f"shared@{role}{table.embedding_dim}" if self.multiplex else f"{table.name}@{role}"
        rows = {"name": owner, "num_embeddings": 1 + before + buckets}
        return table.model_copy(update=rows)
