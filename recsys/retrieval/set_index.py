"""An index of sets: candidates by one vector a set, then the exact likeness of the sets.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.errors import CheckpointError, DataError
from recsys.folders import FolderFormat, fingerprint
from recsys.retrieval.codes import Codes
from recsys.retrieval.fixed_encodings import FixedEncodings
from recsys.retrieval.index import Index
from recsys.retrieval.index_folder import INDEX
from recsys.retrieval.results import Hits, SearchResult
from recsys.retrieval.vector_sets import VectorSets, max_sim

SETS = "sets.json"
"""Name of the manifest."""
_FORMAT = FolderFormat(SETS, "recsys index of sets", 1, "Give a folder that SetIndex.save wrote.")
_VALUES, _OFFSETS, _INDEX = "values.npy", "offsets.npy", "index"


class SetIndex:
    """Sets of vectors (bundles of items, users of several interests), searched by `max_sim`.

    Every set has one vector, its mean or its encoding, by which an `Index` finds candidates; their
    exact likeness is the score. Measured on bundles of four items and more, the hundred best by the
    mean hold 93 to 97 of 100 of the exact ten best; encodings pay for larger sets.

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
        self.sets = sets if isinstance(sets, VectorSets) else VectorSets.of(sets)
        self.encodings = encodings
        empty = (self.sets.sizes == 0).nonzero()[:, 0]
        if len(empty):
            raise DataError(
                f"{len(empty):,} of {len(self.sets):,} sets are empty, the first is set "
                f"{int(empty[0]) + 1:,}. Leave them out: nothing can be like them."
            )
        vectors = self.sets.means() if encodings is None else encodings.documents(self.sets)
        self.index = Index(vectors, ids, meta, prior=prior, version=version, codes=codes)
        self._places: dict[Any, int] = {}
        self._number()

    def _number(self) -> None:
        self._places = {name: number for number, name in enumerate(self.index.ids.tolist())}

    def __len__(self) -> int:
        return len(self.sets)

    @property
    def ids(self) -> NDArray:
        """Of the sets, in their order."""
        return self.index.ids

    def search(
        self,
        queries: Sequence[Any] | VectorSets,
        k: int,
        where: Any = None,
        exclude: Any = None,
        *,
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
            candidates: Sets whose exact likeness is taken, at least ``k``.
            version: Of the model that made the queries.
            exact: Take that of all sets a query may find.
            unknown: What to do about ids in ``where`` that the index does not have.

        Raises:
            DataError: Queries are not finite or of another width, ``candidates`` is below ``k``,
                or see `recsys.retrieval.index.Index.search`.
        """
        asked = queries
        if not isinstance(asked, VectorSets):
            asked = VectorSets.of(asked, "queries", self.sets.dim)
        if asked.dim != self.sets.dim:
            raise DataError(
                f"`queries` must have {self.sets.dim} values in every vector, like the sets of the "
                f"index, got {asked.dim}. Are they of another model?"
            )
        if candidates < k:
            raise DataError(f"`candidates` must be at least k = {k}, got {candidates}.")
        count = max(k, len(self) if exact else candidates)
        found = self.index.search(
            self._vectors(asked), count, where, exclude, version=version, unknown=unknown
        )
        return SearchResult.of([self._scored(asked[n], hits, k) for n, hits in enumerate(found)])

    def _vectors(self, queries: VectorSets) -> Tensor:
        """One vector a query; one whose vectors cancel out is looked for by the first of them."""
        if self.encodings is not None:
            return self.encodings.queries(queries)
        means = queries.means()
        for number in (~means.any(1) & (queries.sizes > 0)).nonzero()[:, 0].tolist():
            own = queries[number]
            means[number] = own[own.any(1)][:1].sum(0)
        return means

    def _scored(self, query: Tensor, found: Hits, k: int) -> Hits:
        """The best of the candidates; lists of the prior stay as they are."""
        if found.fallback or not len(found.ids):
            return found._replace(ids=found.ids[:k], scores=found.scores[:k])
        places = torch.tensor(sorted(self._places[name] for name in found.ids.tolist()))
        scores = max_sim(query, self.sets.take(places))
        best = scores.sort(descending=True, stable=True).indices[:k]
        ids = self.index.ids[places[best].numpy()]
        return found._replace(ids=ids, scores=scores[best].numpy())

    def save(self, directory: Path | str) -> Path:
        """Writes the index as a folder, whole or not at all; replaces an older one.

        Args:
            directory: The folder.

        Raises:
            CheckpointError: The folder exists and holds something else.
        """

        def fill(draft: Path) -> dict[str, Any]:
            np.save(draft / _VALUES, self.sets.values.numpy(), allow_pickle=False)
            np.save(draft / _OFFSETS, self.sets.offsets.numpy(), allow_pickle=False)
            self.index.save(draft / _INDEX)  # which looks after its own files
            names = (_VALUES, _OFFSETS, f"{_INDEX}/{INDEX}")
            files = {name: fingerprint(draft / name) for name in names}
            options = None if self.encodings is None else self.encodings.options()
            return {"encodings": options, "sets": len(self), "files": files}

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
        made.index = Index.load(folder / _INDEX, version=version, verify=verify)
        try:
            made.sets = VectorSets(
                np.load(folder / _VALUES, allow_pickle=False),
                np.load(folder / _OFFSETS, allow_pickle=False),
            )
            options = manifest["encodings"]
            made.encodings = None if options is None else FixedEncodings(**options)
        except (DataError, OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{folder}: its files do not fit each other: {error}") from None
        if not len(made.sets) == len(made.index) == manifest["sets"]:
            raise CheckpointError(f"{folder}: sets and their index differ in number.")
        made._number()
        return made
