"""Indexes of several model versions served together, while users move from one to the next.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recsys import __version__
from recsys.errors import DataError, did_you_mean
from recsys.folders import FolderFormat, fingerprint
from recsys.retrieval.index import Index
from recsys.retrieval.index_folder import INDEX
from recsys.retrieval.item_ids import plain
from recsys.retrieval.results import SearchResult

VERSIONS = "versions.json"
"""Name of the manifest of a folder with several indexes."""
_FORMAT = FolderFormat(
    VERSIONS, "recsys index versions", 1, "Give a folder that VersionedIndex.save wrote."
)


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

    # ------------------------------------------------------------------------------------ folder

    def save(self, directory: Path | str) -> Path:
        """Writes all indexes as one folder, whole or not at all; replaces an older one.

        Args:
            directory: The folder. In it are ``versions.json`` and a folder for every index.

        Raises:
            CheckpointError: The folder exists and holds something else.
            DataError: There is no index.
        """
        indexes = self._indexes
        if not indexes:
            raise DataError("expected an index of at least one version, got none. Put one first.")

        def fill(draft: Path) -> dict[str, Any]:
            names = [str(number) for number in range(len(indexes))]
            for name, index in zip(names, indexes.values()):
                index.save(draft / name)
            files = {f"{name}/{INDEX}": fingerprint(draft / name / INDEX) for name in names}
            versions = {"recsys": __version__}
            return {"indexes": dict(zip(indexes, names)), "versions": versions, "files": files}

        target = Path(directory)
        _FORMAT.write(target, fill)
        return target

    @classmethod
    def load(cls, directory: Path | str, *, verify: bool = True) -> VersionedIndex:
        """Reads all indexes of a folder; vectors and codes are mapped.

        Args:
            directory: The folder.
            verify: Whether to compare checksums, which reads every file once; sizes always are.

        Raises:
            CheckpointError: A file is missing or damaged, or an index is not the one that was
                saved.

        Example:
            >>> import tempfile
            >>> old, new = Index([[1, 0]], ["a"], version="v1"), Index([[1]], ["b"], version="v2")
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     again = VersionedIndex.load(VersionedIndex([old, new]).save(f"{folder}/both"))
            >>> again.versions, again.search([2.0], k=1, version="v2").ids.tolist()
            (('v1', 'v2'), ['b'])
        """
        folder = Path(directory)
        manifest = _FORMAT.read(folder)
        for file, wanted in manifest["files"].items():
            _FORMAT.check(folder / file, wanted)
        found = {
            version: Index.load(folder / name, version=version, verify=verify)
            for version, name in manifest["indexes"].items()
        }
        return cls(found.values())

    # ---------------------------------------------------------------------------------- versions

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
        self.of(version)
        self._indexes = {name: i for name, i in self._indexes.items() if name != version}

    def of(self, version: str) -> Index:
        """The index of a version.

        Args:
            version: Of the model that made it.

        Raises:
            DataError: There is none of it.
        """
        indexes = self._indexes
        if version not in indexes:
            hint = did_you_mean(str(version), indexes)
            raise DataError(f"there is no index of model version {version!r}. {hint}")
        return indexes[version]

    # ------------------------------------------------------------------------------------ search

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
        return self.of(version).search(queries, k, version=version, **options)

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
