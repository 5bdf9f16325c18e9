"""Retrieval, then ranking: candidates of an index, ordered by a model that predicts clicks.

Stability: experimental
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.errors import ConfigError, DataError
from recsys.graph.interactions import Names
from recsys.retrieval.index import Index
from recsys.retrieval.versions import VersionedIndex
from recsys.serving.predictor import Predictor
from recsys.serving.rows import RowReader
from recsys.serving.vectors import Vectors


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """The items of one question, best first.

    Args:
        ids: Of the items.
        probabilities: By the ranker.
        scores: By the index; None where the candidates were given.

    Shape:
        - ids, probabilities, scores: (k,)
    """

    ids: np.ndarray
    probabilities: np.ndarray
    scores: np.ndarray | None = None


class TwoStage:
    """Finds candidates by vectors and ranks them by everything the ranker reads.

    The ranker's columns come from two places: those that ``index.meta`` has are the item's, and
    ``id_column`` is its id; all others are the context (user, hour, device) and are asked for with
    every question. The items are those the index has now; after updates make a new `TwoStage`.

    Args:
        ranker: Predicts clicks.
        index: Of the items, with what the ranker reads of them in ``meta``.
        id_column: The ranker's column that holds the item's id.
        queries: Vectors of users by id, so that a question can name a user. They must be of the
            version of the model that made the index.

    Raises:
        ConfigError: The ranker reads nothing of an item, ``id_column`` is not one of its columns,
            or vectors of users and of items are of different versions or lengths.
    """

    def __init__(
        self,
        ranker: Predictor,
        index: Index,
        id_column: str | None = None,
        queries: Vectors | None = None,
    ) -> None:
        if id_column is not None and id_column not in ranker.columns:
            raise ConfigError(
                f"id_column: expected a column that the ranker reads, got {id_column!r}. Known: "
                f"{', '.join(ranker.columns)}."
            )
        if queries is not None and queries.version != index.version:
            raise ConfigError(
                f"vectors of users are of model version {queries.version!r}, those of the items of "
                f"{index.version!r}, so their products mean nothing. Take both from one model: "
                "items by Vectors.index(...) or `recsys index`."
            )
        if queries is not None and queries.values.shape[1] != index.dim:
            raise ConfigError(
                f"vectors of users have {queries.values.shape[1]} values, those of the items "
                f"{index.dim}. Take both from one model."
            )
        self.ranker, self.index, self.id_column, self.queries = ranker, index, id_column, queries
        self._users = None if queries is None else Names(queries.ids)
        meta, ids = index.meta, index.ids
        columns = {} if meta is None else {n: meta.column(n) for n in meta.column_names}
        columns = {name: values for name, values in columns.items() if name in ranker.columns}
        if id_column is not None:
            columns[id_column] = pa.chunked_array([pa.array(ids)])
        if not columns:
            raise ConfigError(
                "the ranker reads nothing of an item, so it would give all items one score. Build "
                "the index with `meta` that has the item's columns, or name `id_column`."
            )
        self._items = pa.table(columns).combine_chunks()
        self._ids = Names(ids)
        self._reader = RowReader(ranker.encoder.schema)
        self.context = tuple(name for name in ranker.columns if name not in columns)
        """Columns that every question must bring."""

    def vectors_of(self, users: Sequence[Any]) -> np.ndarray:
        """Vectors of users.

        Args:
            users: Ids.

        Raises:
            DataError: One is not known, or no vectors were given.
        """
        if self.queries is None or self._users is None:
            raise DataError(
                "no vectors of users are served, so a question cannot name one. Give its vector."
            )
        return self.queries.values[self._users.require(list(users), "user")]

    def rank(
        self,
        queries: Any,
        rows: Sequence[Mapping[str, Any]],
        k: int = 10,
        candidates: int = 500,
        **search: Any,
    ) -> list[Ranked]:
        """The best items of each question.

        Args:
            queries: A vector each.
            rows: The context of each.
            k: Length of a list; it is shorter where the filter leaves fewer.
            candidates: Items that the ranker orders.
            search: Other options of `recsys.retrieval.index.Index.search`.

        Raises:
            ConfigError: ``k`` or ``candidates`` is out of range.
            DataError: A query, a context or a filter is bad.

        Shape:
            - queries: (B, D)
        """
        if not 1 <= k <= candidates:
            raise ConfigError(
                f"expected 1 <= k <= candidates, got k = {k} and candidates = {candidates}."
            )
        if len(queries) != len(rows):
            raise DataError(
                f"expected a context for every query, got {len(rows):,} and {len(queries):,}."
            )
        found = self.index.search(np.asarray(queries, np.float32), candidates, **search)
        places = self._ids.require(found.ids, "item") if len(found.ids) else np.zeros(0, np.int64)
        return self._ordered(rows, places, np.asarray(found.offsets), k, found.scores)

    def rank_items(
        self, rows: Sequence[Mapping[str, Any]], items: Sequence[Sequence[Any]], k: int = 10
    ) -> list[Ranked]:
        """The best of given items, for each question.

        Args:
            rows: The context of each.
            items: Ids of the candidates of each.
            k: Length of a list.

        Raises:
            ConfigError: ``k`` is out of range.
            DataError: An item is not in the index or comes twice, or a context is bad.
        """
        if k < 1:
            raise ConfigError(f"k: expected at least 1, got {k}.")
        if len(items) != len(rows):
            raise DataError(
                f"expected a context for every list, got {len(rows):,} and {len(items):,}."
            )
        parts = [np.zeros(0, np.int64)]
        for ids in items:
            part = self._ids.require(list(ids), "item") if len(ids) else parts[0]
            numbers, counts = np.unique(part, return_counts=True)
            if (counts > 1).any():
                twice = self._ids.values[numbers[counts > 1][0]]
                raise DataError(f"expected different items, got {twice!r} twice.")
            parts.append(part)
        ends = np.cumsum([len(part) for part in parts])
        return self._ordered(rows, np.concatenate(parts), ends, k, None)

    def _ordered(
        self,
        rows: Sequence[Mapping[str, Any]],
        places: np.ndarray,
        offsets: np.ndarray,
        k: int,
        scores: np.ndarray | None,
    ) -> list[Ranked]:
        """Of equal probabilities the earlier candidate comes first."""
        which = np.repeat(np.arange(len(rows)), np.diff(offsets))
        chances = self._predicted(rows, places, which)
        found = []
        for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist()):
            best = start + np.argsort(-chances[start:end], kind="stable")[:k]
            own = None if scores is None else scores[best]
            found.append(Ranked(self._ids.values[places[best]], chances[best], own))
        return found

    def _predicted(
        self, rows: Sequence[Mapping[str, Any]], places: np.ndarray, which: np.ndarray
    ) -> np.ndarray:
        blank = dict.fromkeys(self._items.column_names)
        for number, row in enumerate(rows, 1):
            both = sorted(blank.keys() & row.keys())
            if both:
                raise DataError(
                    "the column is the item's and is taken from the index. Leave it out.",
                    row=number,
                    column=both[0],
                )
        contexts = [{**row, **blank} for row in rows]
        _, table = next(iter(self._reader.slices(contexts, max(1, len(contexts)))), (0, None))
        if table is None or not len(which):
            return np.zeros(0, np.float32)
        repeated = pa.array(which)
        columns = {name: table.column(name).take(repeated) for name in self.context}
        items = self._items.take(pa.array(places))
        columns |= {name: items.column(name) for name in items.column_names}
        try:
            chances = self.ranker.predict(pa.table(columns))
        except DataError as error:
            row = None if error.row is None else int(which[error.row - 1]) + 1
            raise DataError(error.message, row=row, column=error.column) from None
        return chances if chances.ndim == 1 else chances[:, 0]


class VersionedStages:
    """Two stages for every version of an index, while users move from one model to the next.

    The ranker is one; vectors of users are of the version that they are asked with.

    Args:
        ranker: See `TwoStage`.
        index: Indexes of the items by version.
        id_column: See `TwoStage`.
        queries: Vectors of users, those of a version at most once.

    Raises:
        ConfigError: Vectors of users are of no version of the index, or two are of one; or see
            `TwoStage`.

    Example:
        See `TwoStage`: ``VersionedStages(ranker, index).of("v2").rank(queries, rows)``.
    """

    def __init__(
        self,
        ranker: Predictor,
        index: VersionedIndex,
        id_column: str | None = None,
        queries: Sequence[Vectors] = (),
    ) -> None:
        users: dict[str | None, Vectors] = {}
        for one in queries:
            if one.version not in index.versions or one.version in users:
                raise ConfigError(
                    "expected vectors of users of different versions of the index "
                    f"({', '.join(index.versions)}), got {one.version!r}."
                )
            users[one.version] = one
        self._stages = {
            version: TwoStage(ranker, index.of(version), id_column, users.get(version))
            for version in index.versions
        }

    def of(self, version: str | None) -> TwoStage:
        """The stages of a version.

        Args:
            version: Of the model that made the query.

        Raises:
            DataError: There is none of it.
        """
        if version is None or version not in self._stages:
            known = ", ".join(self._stages)
            raise DataError(
                "version: expected that of the model that made the query, got "
                f"{'none' if version is None else repr(version)}. Known: {known}."
            )
        return self._stages[version]

    @property
    def newest(self) -> TwoStage:
        """Those of the version that was put last, which rank given items."""
        return next(reversed(self._stages.values()))
