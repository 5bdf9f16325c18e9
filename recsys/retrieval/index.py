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

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.errors import CheckpointError, DataError
from recsys.retrieval.adapter import CosineAdapter
from recsys.retrieval.checks import (
    VersionedVectors,
    as_meta,
    as_prior,
    as_vectors,
    check_search,
)
from recsys.retrieval.codes import Codes
from recsys.retrieval.filters import Items, allowed_rows, hidden_rows
from recsys.retrieval.index_folder import Content, read_index, write_index
from recsys.retrieval.item_ids import as_ids, check_distinct, plain, same_kind
from recsys.retrieval.planner import groups, plan_queries, run_plan
from recsys.retrieval.results import SearchResult
from recsys.retrieval.rows import Rows
from recsys.retrieval.state import State

_QUERIES = 256  # searched at a time


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
        codes: Short forms to look through in place of the vectors, fitted here; start with
            `recsys.retrieval.scalar_codes.ScalarCodes`. The best of them are scored again with the
            vectors, which may then stay on disk: give them as ``np.load(path, mmap_mode="r")``, or
            save and load the index.
        rescore: Candidates for every item wanted that are scored again; 0 takes the scores of the
            codes as they are.

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
        codes: Codes | None = None,
        rescore: int = 5,
    ) -> None:
        table = as_vectors(vectors, "vectors")
        names = as_ids(ids)
        check_distinct(names)
        if len(names) != len(table):
            raise DataError(
                f"expected an id for every vector, got {len(names):,} ids and {len(table):,} "
                "vectors."
            )
        parts: Mapping[str, Tensor] = {}
        if codes is not None:
            parts = codes.build(table)
        rows, weights = as_meta(meta, len(table)), as_prior(prior, len(table))
        self._set(Content(version, names, table, rows, weights, codes, parts, rescore, None))

    def _set(self, content: Content) -> None:
        if content.rescore < 0:
            raise DataError(f"`rescore` must be at least 0, got {content.rescore}.")
        self.version, self.codes, self.rescore = content.version, content.codes, content.rescore
        self._lock = threading.Lock()
        self._positions: dict[Any, int] | None = None
        self._adapter: CosineAdapter | None = None
        self._state = State(
            vectors=Rows(content.vectors),
            ids=content.ids,
            alive=None,
            meta=content.meta,
            prior=content.prior,
            parts={name: Rows(part) for name, part in content.parts.items()},
        )
        if content.adapter is not None:
            self.adapter = CosineAdapter.from_state(content.adapter)

    # ------------------------------------------------------------------------------------ folder

    def save(self, directory: Path | str) -> Path:
        """Writes the index as a folder, whole or not at all; replaces an older one.

        Args:
            directory: The folder.

        Raises:
            CheckpointError: The folder exists and holds something else.
        """
        with self._lock:
            state = self._state
        keep = state.living()

        def kept(rows: Rows) -> Tensor:
            return rows.block(0, len(rows)) if keep.everything else rows.take(keep.rows())

        content = Content(
            version=self.version,
            ids=state.ids[keep.rows().numpy()],
            vectors=kept(state.vectors),
            meta=None if state.meta is None else state.meta.filter(pa.array(keep.mask().numpy())),
            prior=None if state.prior is None else state.prior[keep.mask()],
            codes=self.codes,
            parts={name: kept(part) for name, part in state.parts.items()},
            rescore=self.rescore,
            adapter=None if self._adapter is None else self._adapter.state(),
        )
        return write_index(directory, content)

    @classmethod
    def load(
        cls, directory: Path | str, *, version: str | None = None, verify: bool = True
    ) -> Index:
        """Reads an index. Vectors and codes are mapped: their pages are read when needed.

        Args:
            directory: The folder.
            version: Of the model it must be of; None takes any.
            verify: Whether to compare checksums, which reads every file once; sizes always are.

        Raises:
            CheckpointError: A file is missing or damaged, or the index is of another format or of
                another version of the model.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     made = Index(np.eye(2), ["a", "b"], version="v1")
            ...     again = Index.load(made.save(f"{folder}/index"), version="v1")
            ...     found = again.search([1.0, 3.0], k=1)[0].ids.tolist()
            >>> found
            ['b']
        """
        content = read_index(directory, verify)
        if version is not None and version != content.version:
            raise CheckpointError(
                f"{directory} is of model version {content.version!r}, expected {version!r}. Build "
                "the index anew from that model, or pass version=None to take any."
            )
        index = cls.__new__(cls)
        index._set(content)
        return index

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
                rows = state.living().rows()
            else:
                rows = torch.tensor(self._known(as_ids(ids)), dtype=torch.int64)
        return state.vectors.take(rows).numpy()

    @property
    def row_bytes(self) -> int:
        """Bytes a vector of what a search looks through: the codes, or the vectors."""
        state = self._state
        if self.codes is None:
            return state.vectors.row_bytes
        return self.codes.row_bytes(state.parts)

    @property
    def adapter(self) -> CosineAdapter | None:
        """Turns scores into probabilities, for ``cutoff``. Saved with the index."""
        return self._adapter

    @adapter.setter
    def adapter(self, adapter: CosineAdapter | None) -> None:
        if adapter is not None:
            if adapter.dim != self.dim:
                raise DataError(
                    f"the adapter was fitted on queries of {adapter.dim} values, the index has "
                    f"vectors of {self.dim}."
                )
            if adapter.version is not None and adapter.version != self.version:
                raise DataError(
                    f"the adapter is of model version {adapter.version!r}, the index of "
                    f"{self.version!r}. Fit one for this version."
                )
        self._adapter = adapter

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
        cutoff: float | None = None,
        *,
        min_results: int = 0,
        rescore: int | None = None,
        exact: bool = False,
        version: str | None = None,
        unknown: Literal["error", "ignore"] = "error",
    ) -> SearchResult:
        """The items of the highest inner product. Of equal scores the earlier item comes first.

        A filter that leaves few rows is followed by an exact scan of those rows, any other by a
        scan of all rows with the rest masked; both find exactly what the filter allows. With codes
        a scan is approximate in its scores, never in what it allows.

        Args:
            queries: One vector, or several; or `recsys.serving.vectors.Vectors`, whose version is
                compared. A query of zeros is ranked by the prior.
            k: Items wanted. A list is shorter where the filter leaves fewer.
            where: What may be found: an Arrow expression over ``meta``
                (``pc.field("price") < 5``), a mask over `ids`, a list of ids, or several of these
                at once (`recsys.retrieval.filters.AllOf`). A list (or matrix) of these gives every
                query its own, None for none.
            exclude: Ids that may not be found: one list for all queries, or one for each. Ids that
                the index does not have are no error.
            cutoff: Probability of relevance that an item must have, from
                ``index.adapter.threshold(recall=0.8)``. Lists of the prior are not cut.
            min_results: Items to keep whatever their probability.
            rescore: In place of that of the index.
            exact: Look through the vectors even where there are codes.
            version: Of the model that made the queries. None takes that of the queries; where they
                have none either, the caller vouches for them.
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
        self._check_version(version)
        if isinstance(queries, VersionedVectors):
            self._check_version(queries.version)
            queries = queries.values
        table = self._queries(queries)
        rescore = self.rescore if rescore is None else rescore
        check_search(k, unknown, cutoff, min_results, self._adapter is not None, rescore)
        with self._lock:
            state = self._state
            items = Items(state.ids, self._places(), state.alive, state.meta)
            allowed = allowed_rows(where, len(table), items, unknown)
            hidden = hidden_rows(exclude, len(table), items)
        coded = self.codes is not None and not exact
        plans = plan_queries(table, allowed, state, coded, k * rescore)
        width = min(k, len(state.ids))
        values = torch.full((len(table), width), -torch.inf)
        rows = torch.zeros((len(table), width), dtype=torch.int64)
        for plan, queries_of in groups(plans, allowed):
            for start in range(0, len(queries_of), _QUERIES):
                part = queries_of[start : start + _QUERIES]
                own = None if hidden is None else hidden.within(part, len(table))
                mine = [allowed[query] for query in part.tolist()]
                best, found = run_plan(
                    plan, table[part], width, mine, own, state, self.codes, rescore
                )
                values[part, : best.shape[1]] = best
                rows[part, : best.shape[1]] = found
        return self._result(table, values, rows, plans, state, cutoff, min_results)

    def _result(
        self,
        queries: Tensor,
        values: Tensor,
        rows: Tensor,
        plans: list[str],
        state: State,
        cutoff: float | None,
        min_results: int,
    ) -> SearchResult:
        """Lists without what is not there, and without what the cut-off drops."""
        there = values > -torch.inf
        fallback = np.array([plan == "prior" for plan in plans], bool)
        chances, adapter = None, self._adapter
        if adapter is not None:
            which = there.nonzero()[:, 0].numpy()
            found = adapter.probabilities(queries, which, values[there])
            found[fallback[which]] = np.nan
            if cutoff is not None:
                rank = torch.arange(values.shape[1]).repeat(len(values), 1)[there].numpy()
                keep = (found >= cutoff) | (rank < min_results) | fallback[which]
                there[there.clone()] = torch.from_numpy(keep)
                found = found[keep]
            chances = found
        offsets = np.concatenate([[0], there.sum(1).cumsum(0).numpy()]).astype(np.int64)
        ids, scores = state.ids[rows[there].numpy()], values[there].numpy()
        return SearchResult(ids, scores, offsets, tuple(plans), fallback, chances)

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

    def _check_version(self, version: str | None) -> None:
        if version is not None and version != self.version:
            raise DataError(
                f"the queries are of model version {version!r}, the index of {self.version!r}: "
                "their inner products mean nothing. Use the index of that version, or, if you "
                "know that the two fit, give the queries as an array and no version."
            )

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
            self._replace(self._state.without(rows))

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
                new_prior = torch.zeros(len(names))
                there = [place for place, name in enumerate(names.tolist()) if name in places]
                new_prior[there] = state.prior[old]
            start = len(state.ids)
            parts = {} if self.codes is None else self.codes.encode_all(table)
            state = state.without(old).appended(table, names, new_meta, new_prior, parts)
            for row, name in enumerate(names.tolist(), start):
                places[name] = row
            self._replace(state)

    def _replace(self, state: State) -> None:
        """Puts an updated state in place; the lock is held and the places fit it."""
        if 2 * state.live < len(state.ids):
            state, self._positions = state.compact(), None
        self._state = state

    def _places(self) -> dict[Any, int]:
        """Row of every id; made when first needed, then kept. The lock is held."""
        if self._positions is None:
            state = self._state
            rows = state.living().rows().numpy()
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
