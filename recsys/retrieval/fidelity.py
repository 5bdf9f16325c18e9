"""What codes cost: how much of the exact lists and of the relevant items they keep, and for what.

Stability: experimental
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from recsys.errors import DataError
from recsys.retrieval.checks import as_vectors
from recsys.retrieval.index import Index
from recsys.retrieval.item_ids import plain
from recsys.retrieval.results import SearchResult


@dataclasses.dataclass(frozen=True, slots=True)
class Fidelity:
    """An index against the exact lists of its own vectors.

    Args:
        name: Of the codes, or ``float32``.
        k: Length of the lists.
        row_bytes: Bytes a vector of what is looked through.
        overlap: Share of the exact list that is found.
        coarse_overlap: The same without scoring candidates again.
        candidates: Share of the exact list among the candidates, which is what rescoring can give.
        recall: Of relevant items in the lists, mean over queries that have any; nan without labels.
        coarse_recall: The same without scoring candidates again.
        exact_recall: The same of the exact lists.
        p50_ms: Median time of a query alone.
        p99_ms: Time that 99 of 100 queries stay below.
        exact_p50_ms: Median time of an exact search.
    """

    name: str
    k: int
    row_bytes: int
    overlap: float
    coarse_overlap: float
    candidates: float
    recall: float
    coarse_recall: float
    exact_recall: float
    p50_ms: float
    p99_ms: float
    exact_p50_ms: float

    @property
    def lost(self) -> float:
        """Recall that the codes cost."""
        return self.exact_recall - self.recall


def fidelity(
    index: Index,
    queries: Any,
    k: int = 20,
    relevant: Sequence[Any] | None = None,
    exclude: Any = None,
    timed: int = 100,
) -> Fidelity:
    """Searches with and without the codes of an index and compares.

    Judge by ``lost`` where relevant items are known: codes can keep little of the exact lists and
    lose no relevant item, or the other way round.

    Args:
        index: With or without codes.
        queries: Float vectors.
        k: Length of the lists.
        relevant: Ids that are relevant to every query.
        exclude: See `Index.search`, say what users have seen.
        timed: Queries at most that are searched one at a time, for the times.

    Raises:
        DataError: There are no queries, or not as many lists of relevant ids; see `Index.search`.

    Shape:
        - queries: (B, D)

    Example:
        >>> from recsys.retrieval.sign_codes import SignCodes
        >>> random = np.random.default_rng(0)
        >>> index = Index(random.normal(size=(500, 16)), range(500), codes=SignCodes(2))
        >>> found = fidelity(index, random.normal(size=(20, 16)), k=10)
        >>> found.name, found.row_bytes, found.coarse_overlap < found.overlap <= 1.0
        ('sign2', 8, True)
    """
    table = as_vectors(queries, "queries").numpy()
    if not len(table):
        raise DataError("there are no queries to compare by.")
    if relevant is not None and len(relevant) != len(table):
        raise DataError(f"expected relevant ids for {len(table):,} queries, got {len(relevant):,}.")
    options = {"exclude": exclude}
    true = index.search(table, k, exact=True, **options)
    found = index.search(table, k, **options)
    coarse = index.search(table, k, rescore=0, **options)
    many = index.search(table, k * max(1, index.rescore), rescore=0, **options)
    times = _times(index, table[:timed], k, exact=False)
    return Fidelity(
        name="float32" if index.codes is None else index.codes.name,
        k=k,
        row_bytes=index.row_bytes,
        overlap=_kept(true, found),
        coarse_overlap=_kept(true, coarse),
        candidates=_kept(true, many),
        recall=_recall(found, relevant),
        coarse_recall=_recall(coarse, relevant),
        exact_recall=_recall(true, relevant),
        p50_ms=float(np.quantile(times, 0.5)),
        p99_ms=float(np.quantile(times, 0.99)),
        exact_p50_ms=float(np.quantile(_times(index, table[:timed], k, exact=True), 0.5)),
    )


def _kept(true: SearchResult, found: SearchResult) -> float:
    """Mean share of the true lists, over queries whose true list is not empty."""
    shares = [
        len(set(one.ids.tolist()) & set(other.ids.tolist())) / len(one.ids)
        for one, other in zip(true, found)
        if len(one.ids)
    ]
    return float(np.mean(shares)) if shares else float("nan")


def _recall(found: SearchResult, relevant: Sequence[Any] | None) -> float:
    if relevant is None:
        return float("nan")
    shares = []
    for hits, wanted in zip(found, relevant):
        known = plain(wanted)
        names = set(known.tolist() if isinstance(known, np.ndarray) else known)
        if names:
            shares.append(len(names & set(hits.ids.tolist())) / len(names))
    return float(np.mean(shares)) if shares else float("nan")


def _times(index: Index, queries: np.ndarray, k: int, exact: bool) -> list[float]:
    """Milliseconds of every query alone, after one that does not count."""
    index.search(queries[0], k, exact=exact)
    times = []
    for query in queries:
        start = time.perf_counter()
        index.search(query, k, exact=exact)
        times.append(1000 * (time.perf_counter() - start))
    return times
