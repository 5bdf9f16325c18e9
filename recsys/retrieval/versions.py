"""Indexes of several model versions served together, while users move from one to the next.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from recsys.errors import DataError, did_you_mean
from recsys.retrieval.index import Index
from recsys.retrieval.item_ids import plain
from recsys.retrieval.results import SearchResult


class VersionedIndex:
    """Sends every query to the index of the model that made it.

    Versions can be put and retired while searches run in other threads.

    Args:
        indexes: Each with a ``version`` of its own.

    Raises:
        DataError: One has no version, or two have the same.

    Example:
        >>> old = Index([[1, 0], [0, 1]], ["a", "b"], version="v1")
        >>> new = Index([[0, 1, 0], [1, 0, 0]], ["a", "b"], version="v2")
        >>> both = VersionedIndex([old, new])
        >>> both.search([5.0, 1.0], k=1, version="v1").ids
        array(['a'], dtype=object)
        >>> both.search([5.0, 1.0, 0.0], k=1, version="v2").ids
        array(['b'], dtype=object)
    """

    def __init__(self, indexes: Iterable[Index]) -> None:
        self._indexes: dict[str, Index] = {}
        for index in indexes:
            if index.version in self._indexes:
                raise DataError(f"two indexes are of version {index.version!r}.")
            self.put(index)

    @property
    def versions(self) -> tuple[str, ...]:
        """In the order they were put."""
        return tuple(self._indexes)

    def put(self, index: Index) -> None:
        """Adds an index, or replaces that of its version.

        Args:
            index: With a version.

        Raises:
            DataError: It has none.
        """
        if index.version is None:
            raise DataError("an index among versions needs one: Index(..., version=...).")
        self._indexes = {**self._indexes, index.version: index}

    def retire(self, version: str) -> None:
        """Takes a version out.

        Args:
            version: Of an index.

        Raises:
            DataError: There is none of it.
        """
        self._of(version)
        self._indexes = {name: i for name, i in self._indexes.items() if name != version}

    def _of(self, version: str) -> Index:
        indexes = self._indexes
        if version not in indexes:
            hint = did_you_mean(str(version), indexes)
            raise DataError(f"there is no index of model version {version!r}. {hint}")
        return indexes[version]

    def search(self, queries: Any, k: int, *, version: str, **options: Any) -> SearchResult:
        """Searches the index of a version.

        Args:
            queries: See `Index.search`.
            k: Items wanted.
            version: Of the model that made the queries.
            options: See `Index.search`.

        Raises:
            DataError: There is no such version, or see `Index.search`.
        """
        return self._of(version).search(queries, k, version=version, **options)

    def search_each(
        self, queries: Sequence[Any], k: int, *, versions: Sequence[str], **options: Any
    ) -> SearchResult:
        """Searches for queries of several versions, in the order they came.

        Args:
            queries: One vector each; those of two versions may differ in dimension.
            k: Items wanted.
            versions: Of the model that made each query.
            options: See `Index.search`; filters are those of all queries.

        Raises:
            DataError: There is no such version, the ids of two versions differ in kind, or see
                `Index.search`.

        Example:
            >>> old = Index([[1, 0], [0, 1]], ["a", "b"], version="v1")
            >>> new = Index([[0, 1, 0], [1, 0, 0]], ["a", "b"], version="v2")
            >>> asked = [[5, 1], [5, 1, 0], [1, 5]]
            >>> VersionedIndex([old, new]).search_each(asked, 1, versions=["v1", "v2", "v1"]).ids
            array(['a', 'b', 'b'], dtype=object)
        """
        if len(versions) != len(queries):
            raise DataError(
                f"expected a version for each of {len(queries):,} queries, got {len(versions):,}."
            )
        hits: list[Any] = [None] * len(queries)
        for version in dict.fromkeys(versions):
            mine = [number for number, name in enumerate(versions) if name == version]
            rows = [plain(queries[number]) for number in mine]
            for number, found in zip(mine, self.search(rows, k, version=version, **options)):
                hits[number] = found
        return SearchResult.of(hits)
