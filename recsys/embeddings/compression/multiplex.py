"""Plans of schemes that come in two forms: tables of their own, or one for all of a width.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recsys.embeddings.compression.budget import fit, full_bytes, smaller_of
from recsys.embeddings.scheme import Full, Scheme
from recsys.schema import TableSpec


def spans(tables: Sequence[TableSpec], multiplex: bool) -> dict[str, tuple[int, int]]:
    """Where each table's indices lie among those it shares physical tables with, and their number.

    Args:
        tables: Of one group.
        multiplex: Tables of one width lie one after the other; else each is alone.

    Returns:
        (offset, total) by table name. PAD is not counted: index x is number ``offset + x - 1``.

    Example:
        >>> tables = [TableSpec(name=name, num_embeddings=rows, embedding_dim=8,
        ...                     feature_names=(name,), pooling="sum")
        ...           for name, rows in (("user", 11), ("item", 21))]
        >>> spans(tables, True)
        {'user': (0, 30), 'item': (10, 30)}
        >>> spans(tables, False)
        {'user': (0, 10), 'item': (0, 20)}
    """
    ids = {table.name: max(1, table.num_embeddings - 1) for table in tables}
    if not multiplex:
        return {name: (0, count) for name, count in ids.items()}
    offsets: dict[str, int] = {}
    totals: dict[int, int] = {}
    for table in tables:
        offsets[table.name] = totals.get(table.embedding_dim, 0)
        totals[table.embedding_dim] = offsets[table.name] + ids[table.name]
    return {table.name: (offsets[table.name], totals[table.embedding_dim]) for table in tables}


def keep_full(
    tables: Sequence[TableSpec], plan: dict[str, Scheme], multiplex: bool
) -> dict[str, Scheme]:
    """The plan with `Full` where a table of its own would not get smaller.

    Args:
        tables: Of one group.
        plan: Resolved, by table name.
        multiplex: Nothing changes, since the shared table is there anyway.
    """
    if multiplex:
        return plan
    return {table.name: smaller_of(table, plan[table.name]) for table in tables}


def fit_share(
    kind: str,
    tables: Sequence[TableSpec],
    budget: int,
    multiplex: bool,
    at: Callable[[float], dict[str, Scheme]],
) -> dict[str, Scheme]:
    """The largest plan within a budget. All in full where that fits.

    Args:
        kind: Of the scheme, for the error.
        tables: Of one group.
        budget: Most bytes.
        multiplex: One physical table a width.
        at: The plan that keeps a share of the numbers, from 0 (the smallest plan) to 1.

    Raises:
        BudgetInfeasible: The smallest plan is above the budget.
    """
    if full_bytes(tables) <= budget:
        return {table.name: Full() for table in tables}
    return fit(kind, tables, budget, lambda share: keep_full(tables, at(share), multiplex))
