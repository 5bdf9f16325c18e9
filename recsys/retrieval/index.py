"""An index of item vectors: the k items of the highest inner product, under filters, exactly.

Example:
    >>> import pyarrow.compute as pc
    >>> vectors = np.array([[1, 0], [2, 0], [0, 3]], np.float32)
    >>> index = Index(vectors, ["a", "b", "c"], meta=pa.table({"price": [3.0, 9.0, 4.0]}))
    >>> hits = index.search(np.array([1.0, 0.5]), k=2)[0]
    >>> hits.ids.tolist(), hits.scores.tolist()
    (['b', 'c'], [2.0, 1.5])
    >>> index.search(np.array([1.0, 0.5]), k=5, where=pc.field("price") < 5, exclude=["c"])[0].ids
    array(['a'], dtype=object)

Stability: caller
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.errors import DataError
from recsys.retrieval.checks import as_meta, as_prior, as_vectors
from recsys.retrieval.filters import Allowed, Items, allowed_rows, hidden_rows
from recsys.retrieval.item_ids import as_ids, check_distinct, plain, same_kind
from recsys.retrieval.results import SearchResult
from recsys.retrieval.rows import Rows
from recsys.retrieval.scan import BLOCK, Hidden, rescore, scan

_SLACK = 16
"""Candidates beyond k whose scores are computed again, so that rounding decides nothing."""
_SUBSET_FLOATS = 1 << 22
_SUBSET_SHARE = 8
_QUERIES = 256


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _State:
    """All rows, those of deleted items too. Never changed; updates put a new one in its place."""

    vectors: Rows
    ids: NDArray
    alive: Tensor | None
    meta: pa.Table | None
    prior: Tensor | None

    @property
    def live(self) -> int:
        return len(self.ids) if self.alive is None else int(self.alive.sum())


class Index:
    """Items with vectors, searched by inner product.

    Searches may run in threads while items are added or deleted: a search sees the index as it was
    when it began.

    Args:
        vectors: Of the items. Not normalised here: length often means popularity.
        ids: Of the items, integers or strings.
        meta: What filters can ask, a row an item.
        prior: Ranks the items for a query of zeros, say popularity. None makes such a query an
            error.
        version: Of the model that made the vectors. A search that names another is refused.

    Raises:
        DataError: Vectors are not finite or not a matrix, ids come twice, lengths differ.

    Shape:
        - vectors: (N, D)
        - ids, prior: (N,)
    """

    def __init__(
        self,
        vectors: Any,
        ids: Any,
        meta: pa.Table | None = None,
        *,
        prior: Any = None,
        version: str | None = None,
    ) -> None:
        table = as_vectors(vectors, "vectors")
        names = as_ids(ids)
        check_distinct(names)
        if len(names) != len(table):
            raise DataError(
                f"expected an id for every vector, got {len(names):,} ids and {len(table):,} "
                "vectors."
            )
        self.version = version
        self._lock = threading.Lock()
        self._positions: dict[Any, int] | None = None
        self._state = _State(
            vectors=Rows(table),
            ids=names,
            alive=None,
            meta=as_meta(meta, len(table)),
            prior=as_prior(prior, len(table)),
        )

    # ----------------------------------------------------------------------------------- content

    def __len__(self) -> int:
        return self._state.live

    @property
    def dim(self) -> int:
        """D."""
        return self._state.vectors.width

    @property
    def ids(self) -> NDArray:
        """Of the items, in their order."""
        state = self._state
        return state.ids.copy() if state.alive is None else state.ids[state.alive.numpy()]

    @property
    def meta(self) -> pa.Table | None:
        """A row an item, in the order of `ids`."""
        state = self._state
        if state.meta is None or state.alive is None:
            return state.meta
        return state.meta.filter(pa.array(state.alive.numpy()))

    def vectors(self, ids: Any = None) -> NDArray[np.float32]:
        """Float vectors.

        Args:
            ids: Of these items; None means all, in the order of `ids`.

        Raises:
            DataError: An id is not in the index.

        Shape:
            - output: (n, D)
        """
        with self._lock:
            state = self._state
            if ids is None:
                rows = Allowed(len(state.ids), mask=state.alive).rows()
            else:
                rows = torch.tensor(self._known(as_ids(ids)), dtype=torch.int64)
        return state.vectors.take(rows).numpy()

    def __contains__(self, item: object) -> bool:
        with self._lock:
            return item in self._places()

    # ------------------------------------------------------------------------------------ search

    def search(
        self,
        queries: Any,
        k: int,
        where: Any = None,
        exclude: Any = None,
        *,
        version: str | None = None,
        unknown: Literal["error", "ignore"] = "error",
    ) -> SearchResult:
        """The items of the highest inner product. Of equal scores the earlier item comes first.

        A filter that leaves few rows is followed by an exact scan of those rows, any other by a
        scan of all rows with the rest masked; both find exactly what the filter allows.

        Args:
            queries: One vector, or several. A query of zeros is ranked by the prior.
            k: Items wanted. A list is shorter where the filter leaves fewer.
            where: What may be found: an Arrow expression over ``meta``
                (``pc.field("price") < 5``), a mask over `ids`, or a list of ids. A list (or matrix)
                of these gives every query its own, None for none.
            exclude: Ids that may not be found: one list for all queries, or one for each. Ids that
                the index does not have are no error.
            version: Of the model that made the queries. None means that the caller vouches for it.
            unknown: What to do about ids in ``where`` that the index does not have.

        Raises:
            DataError: Queries are not finite or of another dimension, a filter does not fit the
                index, a query is zero and there is no prior, or the version is another.

        Shape:
            - queries: (D,) or (B, D)

        Example:
            >>> index = Index(np.eye(3), [7, 8, 9], prior=[0, 5, 1])
            >>> found = index.search([[1, 2, 3], [0, 0, 0]], k=2, exclude=[[9], []])
            >>> [hits.ids.tolist() for hits in found], found.plans, found.fallback.tolist()
            ([[8, 7], [8, 9]], ('exact', 'prior'), [False, True])
        """
        table = self._queries(queries)
        self._check(k, version, unknown)
        with self._lock:
            state = self._state
            items = Items(state.ids, self._places(), state.alive, state.meta)
            allowed = allowed_rows(where, len(table), items, unknown)
            hidden = hidden_rows(exclude, len(table), items)
        plans = self._plans(table, allowed, state)
        width = min(k, len(state.ids))
        values = torch.full((len(table), width), -torch.inf)
        rows = torch.zeros((len(table), width), dtype=torch.int64)
        for plan, queries_of in _groups(plans, allowed):
            for start in range(0, len(queries_of), _QUERIES):
                part = queries_of[start : start + _QUERIES]
                own = None if hidden is None else hidden.within(part, len(table))
                mine = [allowed[query] for query in part.tolist()]
                best, found = self._run(plan, table[part], width, mine, own, state)
                values[part, : best.shape[1]] = best
                rows[part, : best.shape[1]] = found
        there = values > -torch.inf
        offsets = np.concatenate([[0], there.sum(1).cumsum(0).numpy()]).astype(np.int64)
        fallback = np.array([plan == "prior" for plan in plans], bool)
        return SearchResult(
            state.ids[rows[there].numpy()], values[there].numpy(), offsets, tuple(plans), fallback
        )

    def _queries(self, queries: Any) -> Tensor:
        queries = plain(queries)
        if isinstance(queries, np.ndarray):
            single = queries.ndim == 1 and len(queries) > 0
        else:
            flat = isinstance(queries, list | tuple) and len(queries) > 0
            single = flat and all(np.isscalar(value) for value in queries)
        table = as_vectors([queries] if single else queries, "queries")
        if table.shape[1] != self.dim:
            raise DataError(
                f"`queries` must have {self.dim} values each, like the items of the index, got "
                f"{table.shape[1]}. Are they of another model?"
            )
        return table

    def _check(self, k: int, version: str | None, unknown: str) -> None:
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise DataError(f"`k` must be a whole number, at least 1, got {k!r}.")
        if unknown not in ("error", "ignore"):
            raise DataError(f'`unknown` must be "error" or "ignore", got {unknown!r}.')
        if version is not None and version != self.version:
            raise DataError(
                f"the queries are of model version {version!r}, the index of {self.version!r}: "
                "their inner products mean nothing. Use the index of that version, or pass "
                "version=None if you know that the two fit."
            )

    def _plans(self, queries: Tensor, allowed: list[Allowed], state: _State) -> list[str]:
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
                plans.append("exact")
            else:
                plans.append("subset" if self._few(rows) else "masked")
        return plans

    def _few(self, allowed: Allowed) -> bool:
        """Whether copying the rows costs less than looking through all."""
        few = allowed.count * self.dim <= _SUBSET_FLOATS
        return few or allowed.count * _SUBSET_SHARE <= allowed.num_rows

    def _run(
        self,
        plan: str,
        queries: Tensor,
        k: int,
        allowed: list[Allowed],
        hidden: Hidden | None,
        state: _State,
    ) -> tuple[Tensor, Tensor]:
        """Searches for queries of one plan; for ``subset`` they share one filter."""
        if plan == "subset":
            return _subset(queries, k, allowed[0], hidden, state)
        masks = _masks(allowed)
        if plan == "prior":
            assert state.prior is not None
            prior = state.prior
            return scan(
                lambda a, b: prior[a:b].repeat(len(queries), 1), len(prior), k, masks, hidden
            )
        count = min(k + _SLACK, len(state.ids))
        scores = _products(queries, state.vectors)
        values, rows = scan(scores, len(state.ids), count, masks, hidden)
        return rescore(queries, values, rows, state.vectors, k)

    # ----------------------------------------------------------------------------------- updates

    def add(self, vectors: Any, ids: Any, meta: pa.Table | None = None, prior: Any = None) -> None:
        """Adds items at the end.

        Args:
            vectors: Of the new items.
            ids: Of the new items, none of them in the index.
            meta: Of the new items, needed where the index has any, with the same columns.
            prior: Of the new items; None means 0.

        Raises:
            DataError: Something does not fit; the index is then unchanged.

        Example:
            >>> index = Index(np.eye(2), ["a", "b"])
            >>> index.add([[5.0, 5.0]], ["c"])
            >>> index.upsert([[0.0, 9.0], [0.0, 0.5]], ["b", "d"])
            >>> index.delete(["a"])
            >>> index.ids.tolist(), index.search([0.0, 1.0], k=2)[0].ids.tolist()
            (['c', 'b', 'd'], ['b', 'c'])
        """
        self._put(vectors, ids, meta, prior, replace=False)

    def upsert(
        self, vectors: Any, ids: Any, meta: pa.Table | None = None, prior: Any = None
    ) -> None:
        """Adds items, and replaces those of the same ids, which move to the end.

        Args:
            vectors: Of the items.
            ids: Of the items.
            meta: Of the items, needed where the index has any, with the same columns.
            prior: Of the items; None keeps that of replaced ones and gives 0 to new ones.

        Raises:
            DataError: Something does not fit; the index is then unchanged.
        """
        self._put(vectors, ids, meta, prior, replace=True)

    def delete(self, ids: Any) -> None:
        """Takes items out. Their memory is freed when more rows are dead than alive.

        Args:
            ids: Of the items.

        Raises:
            DataError: One is not in the index, or comes twice; the index is then unchanged.
        """
        names = as_ids(ids)
        check_distinct(names)
        with self._lock:
            rows = self._known(names)
            places = self._places()
            for name in names.tolist():
                del places[name]
            self._state = self._without(self._state, rows)
            self._compact_if_sparse()

    def _put(self, vectors: Any, ids: Any, meta: Any, prior: Any, replace: bool) -> None:
        table, names = as_vectors(vectors, "vectors"), as_ids(ids)
        check_distinct(names)
        if table.shape[1] != self.dim or len(names) != len(table):
            raise DataError(
                f"expected {len(names):,} vectors of {self.dim} values, one for every id, got "
                f"{len(table):,} of {table.shape[1]}."
            )
        with self._lock:
            state, places = self._state, self._places()
            same_kind(state.ids, names, "ids")
            old = [places[name] for name in names.tolist() if name in places]
            if old and not replace:
                raise DataError(
                    f"{len(old):,} of the ids are in the index already, the first is "
                    f"{state.ids[old[0]]!r}. Use `upsert` to replace items."
                )
            if meta is not None and state.meta is None:
                raise DataError("`meta` was given, but the index was built without one.")
            new_meta = as_meta(meta, len(table), like=state.meta)
            new_prior = None if prior is None else as_prior(prior, len(table))
            if state.prior is None:
                if new_prior is not None:
                    raise DataError("`prior` was given, but the index was built without one.")
            elif new_prior is None:
                kept = [places.get(name, -1) for name in names.tolist()]
                rows = torch.tensor(kept, dtype=torch.int64)
                new_prior = torch.where(rows >= 0, state.prior[rows], torch.zeros(()))
            start = len(state.ids)
            state = self._appended(self._without(state, old), table, names, new_meta, new_prior)
            for row, name in enumerate(names.tolist(), start):
                places[name] = row
            self._state = state
            self._compact_if_sparse()

    def _appended(
        self,
        state: _State,
        vectors: Tensor,
        ids: NDArray,
        meta: pa.Table | None,
        prior: Tensor | None,
    ) -> _State:
        alive = state.alive
        if alive is not None:
            alive = torch.cat([alive, torch.ones(len(ids), dtype=torch.bool)])
        if meta is not None and state.meta is not None:
            meta = cast(pa.Table, pa.concat_tables([state.meta, meta]))
            if meta.num_columns and meta.column(0).num_chunks > 64:
                meta = meta.combine_chunks()
        if prior is not None and state.prior is not None:
            prior = torch.cat([state.prior, prior])
        known = np.concatenate([state.ids, ids]) if len(state.ids) else ids
        return _State(state.vectors.append(vectors), known, alive, meta, prior)

    def _without(self, state: _State, rows: list[int]) -> _State:
        if not rows:
            return state
        old = state.alive
        alive = torch.ones(len(state.ids), dtype=torch.bool) if old is None else old.clone()
        alive[rows] = False
        return dataclasses.replace(state, alive=alive)

    def _compact_if_sparse(self) -> None:
        state = self._state
        if state.alive is None or 2 * state.live >= len(state.ids):
            return
        rows = state.alive.nonzero()[:, 0]
        self._positions = None
        self._state = _State(
            vectors=Rows(state.vectors.take(rows)),
            ids=state.ids[rows.numpy()],
            alive=None,
            meta=None if state.meta is None else state.meta.take(pa.array(rows.numpy())),
            prior=None if state.prior is None else state.prior[rows],
        )

    def _places(self) -> dict[Any, int]:
        """Row of every id; made when first needed, then kept. The lock is held."""
        if self._positions is None:
            state = self._state
            rows = Allowed(len(state.ids), mask=state.alive).rows().numpy()
            self._positions = dict(zip(state.ids[rows].tolist(), rows.tolist()))
        return self._positions

    def _known(self, ids: NDArray) -> list[int]:
        same_kind(self._state.ids, ids, "ids")
        places = self._places()
        missing = [name for name in ids.tolist() if name not in places]
        if missing:
            raise DataError(
                f"{len(missing):,} of {len(ids):,} ids are not in the index, the first is "
                f"{missing[0]!r}."
            )
        return [places[name] for name in ids.tolist()]


def _groups(plans: list[str], allowed: list[Allowed]) -> list[tuple[str, Tensor]]:
    """Queries that can be searched together: of one plan and, for subsets, of one filter."""
    groups: dict[tuple[str, int], list[int]] = {}
    for query, plan in enumerate(plans):
        if plan != "empty":
            key = (plan, id(allowed[query]) if plan == "subset" else 0)
            groups.setdefault(key, []).append(query)
    return [(plan, torch.tensor(queries)) for (plan, _), queries in groups.items()]


def _masks(allowed: list[Allowed]) -> list[tuple[Tensor, Tensor]]:
    """Queries by filter, and its mask."""
    queries: dict[int, list[int]] = {}
    filters: Mapping[int, Allowed] = {id(one): one for one in allowed}
    for query, one in enumerate(allowed):
        if not one.everything:
            queries.setdefault(id(one), []).append(query)
    return [(torch.tensor(part), filters[key].mask()) for key, part in queries.items()]


def _products(queries: Tensor, table: Rows) -> Callable[[int, int], Tensor]:
    return lambda start, stop: queries @ table.block(start, stop).T


def _subset(
    queries: Tensor, k: int, allowed: Allowed, hidden: Hidden | None, state: _State
) -> tuple[Tensor, Tensor]:
    rows = allowed.rows()
    count = min(k + _SLACK, len(rows))
    own = None if hidden is None else hidden.among(rows)
    block = max(1, min(BLOCK, _SUBSET_FLOATS // queries.shape[1]))
    table = state.vectors
    values, places = scan(
        lambda a, b: queries @ table.take(rows[a:b]).T, len(rows), count, (), own, block
    )
    found = rows[places.clamp_(min=0)]
    return rescore(queries, values, found, table, k)
