"""How a query is searched: over all rows, over those its filter allows, over codes, by the prior.

The rule follows measurements of filtered search: an exact scan of the allowed rows is never wrong
and, where they are few, the quickest; elsewhere all rows are scored and the others masked.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from recsys.errors import DataError
from recsys.retrieval.codes import Codes
from recsys.retrieval.filters import Allowed
from recsys.retrieval.scan import BLOCK, Hidden, rescore, scan
from recsys.retrieval.state import State

_SLACK = 16  # candidates beyond k that are scored again, so that rounding decides nothing
# Measured, 50,000 x 64, one query: copying a tenth of the rows takes as long as scoring all.
_SUBSET_SHARE = 8
_SMALL_FLOATS = 1 << 16
_SUBSET_FLOATS = 1 << 22  # to copy at most where there are codes: vectors may be on disk
_BLOCK_FLOATS = 1 << 22


def plan_queries(
    queries: Tensor, allowed: Sequence[Allowed], state: State, coded: bool, candidates: int
) -> list[str]:
    """The plan of every query, see `recsys.retrieval.results.SearchResult`.

    Args:
        queries: Float vectors, (B, D).
        allowed: What each may find.
        state: Of the index.
        coded: Whether to look through codes.
        candidates: That are scored again, where codes are looked through.

    Raises:
        DataError: A query is zero and there is no prior.
    """
    zero = ~queries.any(1)
    if state.prior is None and bool(zero.any()):
        raise DataError(
            f"query {int(zero.nonzero()[0]) + 1:,} of {len(queries):,} is all zeros, so every "
            "item scores the same. Build the index with Index(..., prior=popularity) to rank "
            "for such queries."
        )
    plans = []
    for query, rows in enumerate(allowed):
        if not rows.count:
            plans.append("empty")
        elif zero[query]:
            plans.append("prior")
        elif rows.everything:
            plans.append("codes" if coded else "exact")
        elif _few(rows, queries.shape[1], coded, candidates):
            plans.append("subset")
        else:
            plans.append("codes masked" if coded else "masked")
    return plans


def _few(allowed: Allowed, dim: int, coded: bool, candidates: int) -> bool:
    """Whether copying the rows costs less than looking through all."""
    floats = allowed.count * dim
    if floats <= _SMALL_FLOATS or (coded and allowed.count <= candidates):
        return True
    few = allowed.count * _SUBSET_SHARE <= allowed.num_rows
    return few and (not coded or floats <= _SUBSET_FLOATS)


def groups(plans: Sequence[str], allowed: Sequence[Allowed]) -> list[tuple[str, Tensor]]:
    """Queries that can be searched together: of one plan and, for subsets, of one filter.

    Args:
        plans: Of every query.
        allowed: What each may find.

    Returns:
        Plans, and numbers of the queries; those of the plan ``empty`` are left out.
    """
    found: dict[tuple[str, int], list[int]] = {}
    for query, plan in enumerate(plans):
        if plan != "empty":
            key = (plan, id(allowed[query]) if plan == "subset" else 0)
            found.setdefault(key, []).append(query)
    return [(plan, torch.tensor(queries)) for (plan, _), queries in found.items()]


def run_plan(
    plan: str,
    queries: Tensor,
    k: int,
    allowed: Sequence[Allowed],
    hidden: Hidden | None,
    state: State,
    codes: Codes | None,
    again: int,
) -> tuple[Tensor, Tensor]:
    """Searches for the queries of a group.

    Args:
        plan: Of all of them.
        queries: Float vectors.
        k: Length of the lists, at most the rows there are.
        allowed: What each may find; for ``subset`` all the same.
        hidden: Rows that single queries may not find.
        state: Of the index.
        codes: Of the index.
        again: Candidates for every item wanted that are scored again; 0 for none.

    Returns:
        Scores, ``-inf`` where a list has ended, and rows.

    Shape:
        - output: (B, at most k)
    """
    if plan == "subset":
        return _subset(queries, k, allowed[0], hidden, state)
    masks, size = _masks(allowed), len(state.ids)
    if plan == "prior":
        assert state.prior is not None
        prior = state.prior
        return scan(lambda a, b: prior[a:b].repeat(len(queries), 1), size, k, masks, hidden)
    if not plan.startswith("codes"):
        return _exact(queries, k, masks, hidden, state)
    assert codes is not None
    count = min(k * max(1, again), size)
    values, rows = codes.best(queries, state.parts, state.vectors, count, masks, hidden)
    # Codes that score all alike say nothing, say of a query whose prefix is zero.
    anew = (values[:, 0] == values[:, -1]) & (count > 1)
    if again:
        values, rows = rescore(queries, values, rows, state.vectors, k)
    if not codes.sees_all:
        anew |= values[:, k - 1] == -torch.inf
    if bool(anew.any()):
        part = anew.nonzero()[:, 0]
        mine = [allowed[query] for query in part.tolist()]
        own = None if hidden is None else hidden.within(part, len(queries))
        values[part], rows[part] = _exact(queries[part], k, _masks(mine), own, state)
    return values, rows


def _exact(
    queries: Tensor,
    k: int,
    masks: Sequence[tuple[Tensor, Tensor]],
    hidden: Hidden | None,
    state: State,
) -> tuple[Tensor, Tensor]:
    table, size = state.vectors, len(state.ids)
    values, rows = scan(
        lambda a, b: queries @ table.block(a, b).T, size, min(k + _SLACK, size), masks, hidden
    )
    return rescore(queries, values, rows, table, k)


def _masks(allowed: Sequence[Allowed]) -> list[tuple[Tensor, Tensor]]:
    """Queries by filter, and its mask."""
    queries: dict[int, list[int]] = {}
    filters: Mapping[int, Allowed] = {id(one): one for one in allowed}
    for query, one in enumerate(allowed):
        if not one.everything:
            queries.setdefault(id(one), []).append(query)
    return [(torch.tensor(part), filters[key].mask()) for key, part in queries.items()]


def _subset(
    queries: Tensor, k: int, allowed: Allowed, hidden: Hidden | None, state: State
) -> tuple[Tensor, Tensor]:
    rows, table = allowed.rows(), state.vectors
    own = None if hidden is None else hidden.among(rows)
    values, places = scan(
        lambda a, b: queries @ table.take(rows[a:b]).T,
        len(rows),
        min(k + _SLACK, len(rows)),
        (),
        own,
        max(1, min(BLOCK, _BLOCK_FLOATS // queries.shape[1])),
    )
    return rescore(queries, values, rows[places.clamp_(min=0)], table, k)
