"""What schemes share that hash ids to ``num_buckets`` rows.

Stability: internal
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from recsys.embeddings.compression.budget import check_fixed
from recsys.embeddings.compression.multiplex import fit_share, keep_full, spans
from recsys.embeddings.scheme import Scheme
from recsys.schema import TableSpec


class Bucketed(Scheme):
    """Ids share ``num_buckets`` rows, of each table or of all of one width."""

    num_buckets: int | None = Field(default=None, ge=1)
    """Rows that ids share; None is set by the budget."""
    multiplex: bool = False
    """One physical table (or set of them) for all features of one width."""
    salt: int = Field(default=0, ge=0)
    """Seed of the hashes."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """Buckets in proportion to the rows of each table, or of all together."""
        kind = str(getattr(self, "kind", "?"))
        if budget is None or self.num_buckets is not None:
            self.need(num_buckets=self.num_buckets)
            fixed: dict[str, Scheme] = {table.name: self for table in tables}
            fixed = keep_full(tables, fixed, self.multiplex)
            return check_fixed(kind, tables, budget, fixed)
        found = spans(tables, self.multiplex)

        def at(share: float) -> dict[str, Scheme]:
            plan: dict[str, Scheme] = {}
            for table in tables:
                rows = share * found[table.name][1] * self.rows_per_id(table)
                plan[table.name] = self.model_copy(update={"num_buckets": max(1, math.ceil(rows))})
            return plan

        return fit_share(kind, tables, budget, self.multiplex, at)

    def rows_per_id(self, table: TableSpec) -> float:
        """Physical rows that take the bytes of one row of the table in full.

        Args:
            table: It.
        """
        return 1.0

    def buckets(self) -> int:
        """``num_buckets``, which must be known by now.

        Raises:
            ConfigError: It is not.
        """
        self.need(num_buckets=self.num_buckets)
        assert self.num_buckets is not None
        return self.num_buckets
