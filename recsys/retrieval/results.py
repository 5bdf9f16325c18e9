"""What a search returns: lists of different lengths, never filled up.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.errors import DataError


class Hits(NamedTuple):
    """What one query found, best first."""

    ids: NDArray
    """Of the items."""
    scores: NDArray[np.float32]
    """Inner products, or values of the prior where ``fallback`` is set."""
    probabilities: NDArray[np.float32] | None
    """Of relevance, where the index has an adapter; nan where ``fallback`` is set."""
    plan: str
    """How it was searched, see `SearchResult`."""
    fallback: bool
    """Whether the query was all zeros, so that the prior ranked."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """Lists of all queries, one after the other. A list ends where there is nothing more.

    Plans: ``exact`` (every row), ``masked`` (every row, then the filter), ``subset`` (only the rows
    that the filter allows), ``codes`` and ``codes masked`` (the same over codes, then float
    vectors), ``prior`` (a query of zeros), ``empty`` (the filter allows nothing).

    Args:
        ids: Of the items of all lists.
        scores: Of each.
        offsets: Where the list of every query begins, and the end of the last.
        plans: How every query was searched.
        fallback: Which queries were all zeros, so that the prior ranked.
        probabilities: Of relevance, where the index has an adapter.

    Shape:
        - ids, scores, probabilities: (hits,)
        - offsets: (B + 1,) int64
        - plans, fallback: (B,)

    Example:
        >>> found = SearchResult(
        ...     ids=np.array(["a", "b", "a"]),
        ...     scores=np.array([3, 1, 2], np.float32),
        ...     offsets=np.array([0, 2, 2, 3]),
        ...     plans=("exact", "empty", "exact"),
        ...     fallback=np.zeros(3, bool),
        ... )
        >>> [hits.ids.tolist() for hits in found]
        [['a', 'b'], [], ['a']]
        >>> found.to_arrow()["id"].to_pylist()
        [['a', 'b'], [], ['a']]
    """

    ids: NDArray
    scores: NDArray[np.float32]
    offsets: NDArray[np.int64]
    plans: tuple[str, ...]
    fallback: NDArray[np.bool_]
    probabilities: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, hits: Sequence[Hits]) -> SearchResult:
        """Lists that were found one by one.

        Args:
            hits: Of every query.

        Raises:
            DataError: The ids of some are integers, those of others strings.

        Example:
            >>> one = Hits(np.array([7, 3]), np.array([2.0, 1.0], np.float32), None, "exact", False)
            >>> SearchResult.of([one, one]).offsets
            array([0, 2, 4])
        """
        ids = [one.ids for one in hits if len(one.ids)]
        if len({part.dtype for part in ids}) > 1:
            raise DataError("the ids of some lists are integers, those of others strings.")
        chances = None
        if any(one.probabilities is not None for one in hits):
            every = [
                np.full(len(one.ids), np.nan, np.float32)
                if one.probabilities is None
                else one.probabilities
                for one in hits
            ]
            chances = np.concatenate(every)
        return cls(
            ids=np.concatenate(ids) if ids else np.zeros(0, np.int64),
            scores=np.concatenate([np.zeros(0, np.float32), *(one.scores for one in hits)]),
            offsets=np.cumsum([0, *(len(one.ids) for one in hits)]).astype(np.int64),
            plans=tuple(one.plan for one in hits),
            fallback=np.array([one.fallback for one in hits], bool),
            probabilities=chances,
        )

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, query: int) -> Hits:
        if not -len(self) <= query < len(self):
            raise IndexError(f"query {query} of {len(self)}")
        query %= len(self)
        part = slice(int(self.offsets[query]), int(self.offsets[query + 1]))
        chances = None if self.probabilities is None else self.probabilities[part]
        fallback = bool(self.fallback[query])
        return Hits(self.ids[part], self.scores[part], chances, self.plans[query], fallback)

    def __iter__(self) -> Iterator[Hits]:
        return (self[query] for query in range(len(self)))

    def to_arrow(self) -> pa.Table:
        """A row a query: lists ``id``, ``score`` and ``probability``; ``plan``, ``fallback``."""
        offsets = pa.array(self.offsets, pa.int64())
        columns = {"id": pa.array(self.ids), "score": pa.array(self.scores)}
        if self.probabilities is not None:
            columns["probability"] = pa.array(self.probabilities)
        lists = {n: pa.LargeListArray.from_arrays(offsets, c) for n, c in columns.items()}
        rest = {"plan": pa.array(self.plans, pa.string()), "fallback": pa.array(self.fallback)}
        return pa.table({**lists, **rest})
