"""An index of sets: candidates by one vector a set, then the exact likeness of the sets.

Stability: experimental
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.errors import CheckpointError, DataError
from recsys.folders import FolderFormat, fingerprint
from recsys.retrieval.adapter import CosineAdapter
from recsys.retrieval.checks import check_search
from recsys.retrieval.codes import Codes
from recsys.retrieval.fixed_encodings import FixedEncodings
from recsys.retrieval.index import Index
from recsys.retrieval.index_folder import INDEX
from recsys.retrieval.item_ids import as_ids
from recsys.retrieval.results import Hits, SearchResult
from recsys.retrieval.vector_sets import VectorSets, max_sim

SETS = "sets.json"
"""Name of the manifest."""
_FORMAT = FolderFormat(SETS, "recsys index of sets", 1, "Give a folder that SetIndex.save wrote.")
_VALUES, _OFFSETS, _INDEX = "values.npy", "offsets.npy", "index"


class _Held(NamedTuple):
    """The sets at one time. Never changed: updates give a new one."""

    sets: VectorSets
    ids: NDArray
    places: dict[Any, int]

    @classmethod
    def of(cls, sets: VectorSets, ids: NDArray) -> _Held:
        return cls(sets, ids, {name: place for place, name in enumerate(ids.tolist())})

    def without(self, ids: NDArray) -> _Held:
        gone = {self.places[name] for name in ids.tolist() if name in self.places}
        kept = torch.tensor([place for place in range(len(self.ids)) if place not in gone])
        kept = kept.to(torch.int64)
        return _Held.of(self.sets.take(kept), self.ids[kept.numpy()])

    def appended(self, sets: VectorSets, ids: NDArray) -> _Held:
        names = np.concatenate([self.ids, ids]) if len(self.ids) else ids
        return _Held.of(self.sets.joined(sets), names)


class SetIndex:
    """Sets of vectors (bundles of items, users of several interests), searched by `max_sim`.

    Every set has one vector, its mean or its encoding, by which an `Index` finds candidates; their
    exact likeness is the score. Measured (docs/retrieval.md), the hundred best by the mean hold 96
    of 100 of the exact ten best for bundles of a few items, and 79 for sets of a hundred; encodings
    hold more of those.

    Args:
        sets: A matrix for every set, none of them empty.
        ids: Of the sets, integers or strings.
        meta: What filters can ask, a row a set.
        encodings: See `recsys.retrieval.fixed_encodings.FixedEncodings`; None takes means.
        prior: Ranks the sets for a query of no vectors, say popularity.
        version: Of the model that made the vectors.
        codes: Of the one vector a set, for many sets.

    Raises:
        DataError: A set is empty or not finite, widths or lengths differ, ids come twice.

    Source:
        Dhulipala et al., "MUVERA", NeurIPS 2024: candidates by one vector, exact scores after.

    Example:
        >>> sets = [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0]], [[0.0, 2.0]]]
        >>> index = SetIndex(sets, ["both", "one", "two"])
        >>> hits = index.search([[[1.0, 0.0], [0.0, 1.0]]], k=2)[0]
        >>> hits.ids.tolist(), hits.scores.tolist()
        (['both', 'two'], [2.0, 2.0])
    """

    def __init__(
        self,
        sets: Sequence[Any] | VectorSets,
        ids: Any,
        meta: pa.Table | None = None,
        *,
        encodings: FixedEncodings | None = None,
        prior: Any = None,
        version: str | None = None,
        codes: Codes | None = None,
    ) -> None:
        given = sets if isinstance(sets, VectorSets) else VectorSets.of(sets)
        self.encodings = encodings
        vectors = self._documents(given)
        self._set(Index(vectors, ids, meta, prior=prior, version=version, codes=codes), given)

    def _set(self, index: Index, sets: VectorSets) -> None:
        self.index = index
        self._held, self._lock = _Held.of(sets, index.ids), threading.Lock()

    def _documents(self, sets: VectorSets) -> Tensor:
        """One vector a set."""
        empty = (sets.sizes == 0).nonzero()[:, 0]
        if len(empty):
            raise DataError(
                f"{len(empty):,} of {len(sets):,} sets are empty, the first is set "
                f"{int(empty[0]) + 1:,}. Leave them out: nothing can be like them."
            )
        return sets.means() if self.encodings is None else self.encodings.documents(sets)

    def __len__(self) -> int:
        return len(self.sets)

    @property
    def sets(self) -> VectorSets:
        """All sets, in their order."""
        return self._held.sets

    @property
    def ids(self) -> NDArray:
        """Of the sets, in their order."""
        return self._held.ids.copy()

    @property
    def adapter(self) -> CosineAdapter | None:
        """Turns likenesses into probabilities, for ``cutoff``. Saved with the index.

        Fit it on `query_vectors` of labelled queries and the scores of a search.
        """
        return self.index.adapter

    @adapter.setter
    def adapter(self, adapter: CosineAdapter | None) -> None:
        self.index.adapter = adapter

    # ------------------------------------------------------------------------------------ search

    def search(
        self,
        queries: Sequence[Any] | VectorSets,
        k: int,
        where: Any = None,
        exclude: Any = None,
        cutoff: float | None = None,
        *,
        min_results: int = 0,
        candidates: int = 100,
        version: str | None = None,
        exact: bool = False,
        unknown: Literal["error", "ignore"] = "error",
    ) -> SearchResult:
        """The sets of the highest `max_sim`. Of equal scores the earlier set comes first.

        Args:
            queries: A matrix for every query. One of no vectors is ranked by the prior.
            k: Sets wanted. A list is shorter where the filter leaves fewer.
            where: See `recsys.retrieval.index.Index.search`.
            exclude: See `recsys.retrieval.index.Index.search`.
            cutoff: Probability of relevance that a set must have, from
                ``index.adapter.threshold(recall=0.8)``. Lists of the prior are not cut.
            min_results: Sets to keep whatever their probability.
            candidates: Sets whose exact likeness is taken, at least ``k``.
            version: Of the model that made the queries.
            exact: Take that of all sets a query may find.
            unknown: What to do about ids in ``where`` that the index does not have.

        Raises:
            DataError: Queries are not finite or of another width, ``candidates`` is below ``k``,
                or see `recsys.retrieval.index.Index.search`.
        """
        held, asked = self._held, self._sets(queries, "queries")
        check_search(k, unknown, cutoff, min_results, self.adapter is not None)
        if candidates < k:
            raise DataError(f"`candidates` must be at least k = {k}, got {candidates}.")
        vectors = self.query_vectors(asked)
        count = max(k, len(held.ids) if exact else candidates)
        found = self.index.search(vectors, count, where, exclude, version=version, unknown=unknown)
        hits = [_scored(asked[n], one, k, held) for n, one in enumerate(found)]
        return SearchResult.of(self._judged(vectors, hits, cutoff, min_results))

    def query_vectors(self, queries: Sequence[Any] | VectorSets) -> Tensor:
        """One vector a query, by which candidates are found and the adapter judges.

        One whose vectors cancel out is looked for by the first of them.

        Args:
            queries: A matrix for every query.

        Raises:
            DataError: They are not finite, or of another width.
        """
        asked = self._sets(queries, "queries")
        if self.encodings is not None:
            return self.encodings.queries(asked)
        means = asked.means()
        for number in (~means.any(1) & (asked.sizes > 0)).nonzero()[:, 0].tolist():
            own = asked[number]
            means[number] = own[own.any(1)][:1].sum(0)
        return means

    def _sets(self, given: Sequence[Any] | VectorSets, name: str) -> VectorSets:
        """Of the width of those of the index."""
        dim = self.sets.dim
        found = given if isinstance(given, VectorSets) else VectorSets.of(given, name, dim)
        if found.dim != dim:
            raise DataError(
                f"`{name}` must have {dim} values in every vector, like the sets of the index, got "
                f"{found.dim}. Are they of another model?"
            )
        return found

    def _judged(
        self, vectors: Tensor, hits: list[Hits], cutoff: float | None, min_results: int
    ) -> list[Hits]:
        """With probabilities, and without what the cut-off drops."""
        if self.adapter is None:
            return hits
        which = np.repeat(np.arange(len(hits)), [len(one.ids) for one in hits])
        scores = np.concatenate([np.zeros(0, np.float32), *(one.scores for one in hits)])
        chances = self.adapter.probabilities(vectors, which, scores)
        found = []
        for number, one in enumerate(hits):
            own = chances[which == number]
            if one.fallback:
                found.append(one._replace(probabilities=np.full_like(own, np.nan)))
                continue
            keep = np.ones(len(own), bool)
            if cutoff is not None:
                keep = (own >= cutoff) | (np.arange(len(own)) < min_results)
            found.append(one._replace(ids=one.ids[keep], scores=one.scores[keep],
                                      probabilities=own[keep]))  # fmt: skip
        return found

    # ----------------------------------------------------------------------------------- updates

    def add(
        self,
        sets: Sequence[Any] | VectorSets,
        ids: Any,
        meta: pa.Table | None = None,
        prior: Any = None,
    ) -> None:
        """Adds sets at the end. Copies all sets, so give many at a time.

        A search that has begun sees the sets as they were.

        Args:
            sets: A matrix for every new set, none of them empty.
            ids: Of the new sets, none of them in the index.
            meta: Of the new sets, needed where the index has any, with the same columns.
            prior: Of the new sets; None means 0.

        Raises:
            DataError: Something does not fit; the index is then unchanged.

        Example:
            >>> index = SetIndex([[[1.0, 0.0]], [[0.0, 1.0]]], ["a", "b"])
            >>> index.add([[[0.0, 2.0], [3.0, 0.0]]], ["c"])
            >>> index.upsert([[[0.0, 9.0]]], ["b"])
            >>> index.delete(["a"])
            >>> index.ids.tolist(), index.search([[[0.0, 1.0]]], k=2)[0].scores.tolist()
            (['c', 'b'], [9.0, 2.0])
        """
        self._put(self.index.add, sets, ids, meta, prior)

    def upsert(
        self,
        sets: Sequence[Any] | VectorSets,
        ids: Any,
        meta: pa.Table | None = None,
        prior: Any = None,
    ) -> None:
        """Adds sets, and replaces those of the same ids, which move to the end.

        Args:
            sets: A matrix for every set, none of them empty.
            ids: Of the sets.
            meta: Of the sets, needed where the index has any, with the same columns.
            prior: Of the sets; None keeps that of replaced ones and gives 0 to new ones.

        Raises:
            DataError: Something does not fit; the index is then unchanged.
        """
        self._put(self.index.upsert, sets, ids, meta, prior)

    def delete(self, ids: Any) -> None:
        """Takes sets out.

        Args:
            ids: Of the sets.

        Raises:
            DataError: One is not in the index, or comes twice; the index is then unchanged.
        """
        with self._lock:
            self.index.delete(ids)
            self._held = self._held.without(as_ids(ids))

    def _put(
        self, put: Callable[..., None], sets: Sequence[Any] | VectorSets, ids: Any, *more: Any
    ) -> None:
        new, names = self._sets(sets, "sets"), as_ids(ids)
        vectors = self._documents(new)
        with self._lock:
            put(vectors, names, *more)
            self._held = self._held.without(names).appended(new, names)

    # ------------------------------------------------------------------------------------ folder

    def save(self, directory: Path | str) -> Path:
        """Writes the index as a folder, whole or not at all; replaces an older one.

        Args:
            directory: The folder.

        Raises:
            CheckpointError: The folder exists and holds something else.
        """

        def fill(draft: Path) -> dict[str, Any]:
            with self._lock:
                sets = self.sets
                self.index.save(draft / _INDEX)  # which looks after its own files
            np.save(draft / _VALUES, sets.values.numpy(), allow_pickle=False)
            np.save(draft / _OFFSETS, sets.offsets.numpy(), allow_pickle=False)
            names = (_VALUES, _OFFSETS, f"{_INDEX}/{INDEX}")
            files = {name: fingerprint(draft / name) for name in names}
            options = None if self.encodings is None else self.encodings.options()
            return {"encodings": options, "sets": len(sets), "files": files}

        target = Path(directory)
        _FORMAT.write(target, fill)
        return target

    @classmethod
    def load(
        cls, directory: Path | str, *, version: str | None = None, verify: bool = True
    ) -> SetIndex:
        """Reads an index.

        Args:
            directory: The folder.
            version: Of the model it must be of; None takes any.
            verify: Whether to compare checksums.

        Raises:
            CheckpointError: A file is missing or damaged, or the index is of another format or of
                another version of the model.
        """
        folder = Path(directory)
        manifest = _FORMAT.read(folder)
        for name, wanted in manifest["files"].items():
            _FORMAT.check(folder / name, wanted, verify)
        made = cls.__new__(cls)
        index = Index.load(folder / _INDEX, version=version, verify=verify)
        try:
            sets = VectorSets(
                np.load(folder / _VALUES, allow_pickle=False),
                np.load(folder / _OFFSETS, allow_pickle=False),
            )
            options = manifest["encodings"]
            made.encodings = None if options is None else FixedEncodings(**options)
        except (DataError, OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{folder}: its files do not fit each other: {error}") from None
        if not len(sets) == len(index) == manifest["sets"]:
            raise CheckpointError(f"{folder}: sets and their index differ in number.")
        made._set(index, sets)
        return made


def _scored(query: Tensor, found: Hits, k: int, held: _Held) -> Hits:
    """The best of the candidates; lists of the prior stay as they are."""
    if found.fallback:
        return found._replace(ids=found.ids[:k], scores=found.scores[:k])
    # What was added since the search began is not among the sets it sees.
    places = sorted(held.places[name] for name in found.ids.tolist() if name in held.places)
    if not places:
        return found._replace(ids=found.ids[:0], scores=found.scores[:0])
    rows = torch.tensor(places)
    scores = max_sim(query, held.sets.take(rows))
    best = scores.sort(descending=True, stable=True).indices[:k]
    return found._replace(ids=held.ids[rows[best].numpy()], scores=scores[best].numpy())
