"""What a service answers from: a model, an index of any kind, or a folder with several of them.

    service.json     format, the ranker's column of the item's id, checksums
    ranker/          a model that predicts clicks
    recommender/     a collaborative filter
    index/           an index of item vectors, of several versions of them, or of sets
    queries-0.safetensors   vectors of users, for retrieval by a user's id; a file a version

Any part but one may be missing. It is written whole or not at all. Class paths are taken from the
manifests of models only, and only those of ``recsys.models``.

Stability: experimental
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recsys.errors import CheckpointError, ConfigError
from recsys.folders import FolderFormat, fingerprints
from recsys.retrieval.index import Index
from recsys.retrieval.index_folder import INDEX
from recsys.retrieval.set_index import SETS, SetIndex
from recsys.retrieval.versions import VERSIONS, VersionedIndex
from recsys.serving.folder import MANIFEST, artefact_folder, gives_lists
from recsys.serving.predictor import Predictor
from recsys.serving.recommender import Recommender
from recsys.serving.two_stage import TwoStage, VersionedStages
from recsys.serving.vectors import Vectors, read_vectors

SERVICE = "service.json"
_FORMAT = FolderFormat(
    SERVICE,
    "recsys service",
    1,
    "Give the folder of a run, of a model, of an index, or one that save_service wrote.",
)
_INDEXES = {INDEX: Index, VERSIONS: VersionedIndex, SETS: SetIndex}
_RANKER, _RECOMMENDER, _INDEX = "ranker", "recommender", "index"
_QUERIES = "queries"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What answers: one part or several. They are not changed, only replaced all at once."""

    artefact: str
    """Name of the folder and of its content."""
    ranker: Predictor | None = None
    """Predicts clicks."""
    recommender: Recommender | None = None
    """Gives lists."""
    index: Index | VersionedIndex | None = None
    """Finds items by vectors."""
    two_stage: TwoStage | VersionedStages | None = None
    """Finds, then ranks."""
    sets: SetIndex | None = None
    """Finds sets by sets of vectors."""


def save_service(
    directory: Path | str,
    ranker: Path | str | None = None,
    recommender: Path | str | None = None,
    index: Path | str | None = None,
    queries: Vectors | Sequence[Vectors] | None = None,
    id_column: str | None = None,
) -> Path:
    """Copies what is served together into one folder, whole or not at all; replaces an older one.

    Args:
        directory: The folder.
        ranker: Folder of a model that predicts clicks, or of its run.
        recommender: Folder of a collaborative filter, or of its run.
        index: Folder of an index, an index of several versions, or an index of sets. With a ranker
            it is the first of two stages, and must be of items.
        queries: Vectors of users, of the same version of a model as the index; for an index of
            several versions those of each, or of some.
        id_column: Column of the ranker with the item's id.

    Raises:
        ConfigError: Nothing is given, or parts do not fit.
        CheckpointError: A part is damaged, or the folder exists and holds something else.
    """
    if ranker is None and recommender is None and index is None:
        raise ConfigError("nothing to serve: give a ranker, a recommender or an index.")
    if (queries is not None or id_column is not None) and (ranker is None or index is None):
        raise ConfigError("`queries` and `id_column` need a ranker and an index.")

    def fill(draft: Path) -> dict[str, Any]:
        if ranker is not None:
            shutil.copytree(artefact_folder(ranker), draft / _RANKER)
        if recommender is not None:
            shutil.copytree(artefact_folder(recommender), draft / _RECOMMENDER)
        if index is not None:
            shutil.copytree(index, draft / _INDEX)
        given = [] if queries is None else [queries] if isinstance(queries, Vectors) else queries
        for number, one in enumerate(given):
            one.write(draft / f"{_QUERIES}-{number}.safetensors")
        _read(draft, "", id_column)  # what does not fit is found now, not when it is served
        return {"id_column": id_column, "files": fingerprints(draft)}

    _FORMAT.write(Path(directory), fill)
    return Path(directory)


def fingerprint_of(directory: Path | str) -> str:
    """Changes when what a folder serves changes; quick, for looking often.

    Args:
        directory: As for `load_parts`.

    Raises:
        CheckpointError: It holds nothing that can be served.
    """
    path = _manifest(Path(directory))
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise CheckpointError(f"{path} is not readable: {error}.") from None


def load_parts(directory: Path | str) -> Parts:
    """Reads what a folder serves, every file checked, without running anything it holds.

    Args:
        directory: Of a run, a model, an index, or from `save_service`.

    Raises:
        CheckpointError: It holds nothing that can be served, or is damaged.
        ConfigError: Its parts do not fit.
    """
    folder = Path(directory).resolve()  # so a link that is moved meanwhile changes nothing
    manifest = _manifest(folder)
    name = f"{folder.name}@{fingerprint_of(folder)}"
    if manifest.name in _INDEXES:
        return _parts(name, index=_read_index(folder))
    if manifest.name == MANIFEST:
        if gives_lists(folder):
            return Parts(name, recommender=Recommender.load(folder))
        return Parts(name, ranker=Predictor.load(folder))
    content = _FORMAT.read(folder)
    for file, wanted in content["files"].items():
        _FORMAT.check(folder / file, wanted, checksum=file.startswith(_QUERIES))
    return _read(folder, name, content["id_column"])


def _read(folder: Path, name: str, id_column: str | None) -> Parts:
    """Models and indexes check their own files."""
    ranker = Predictor.load(folder / _RANKER) if (folder / _RANKER).is_dir() else None
    recommender = None
    if (folder / _RECOMMENDER).is_dir():
        recommender = Recommender.load(folder / _RECOMMENDER)
    index, two_stage = None, None
    if (folder / _INDEX).is_dir():
        index = _read_index(folder / _INDEX)
    if ranker is not None and index is not None:
        queries = [read_vectors(path) for path in sorted(folder.glob(f"{_QUERIES}-*.safetensors"))]
        two_stage = _stages(ranker, index, id_column, queries)
    return _parts(name, ranker, recommender, index, two_stage)


def _stages(
    ranker: Predictor,
    index: Index | VersionedIndex | SetIndex,
    id_column: str | None,
    queries: Sequence[Vectors],
) -> TwoStage | VersionedStages:
    if isinstance(index, VersionedIndex):
        return VersionedStages(ranker, index, id_column, queries)
    if isinstance(index, SetIndex):
        raise ConfigError(
            f"{_INDEX}: expected an index of items beside a ranker, got a SetIndex. Serve it from "
            "a folder of its own."
        )
    if len(queries) > 1:
        raise ConfigError(
            f"`queries`: expected those of one version beside an index of one, got {len(queries)}."
        )
    return TwoStage(ranker, index, id_column, queries[0] if queries else None)


def _read_index(folder: Path) -> Index | VersionedIndex | SetIndex:
    """Of whichever kind it is."""
    kind = next((kind for name, kind in _INDEXES.items() if (folder / name).is_file()), Index)
    return kind.load(folder)


def _parts(
    name: str,
    ranker: Predictor | None = None,
    recommender: Recommender | None = None,
    index: Index | VersionedIndex | SetIndex | None = None,
    two_stage: TwoStage | VersionedStages | None = None,
) -> Parts:
    """Sets have a place of their own: they are asked otherwise."""
    if isinstance(index, SetIndex):
        return Parts(name, ranker, recommender, None, two_stage, index)
    return Parts(name, ranker, recommender, index, two_stage)


def _manifest(folder: Path) -> Path:
    for name in (SERVICE, *_INDEXES):
        if (folder / name).is_file():
            return folder / name
    try:
        return artefact_folder(folder) / MANIFEST
    except CheckpointError as error:
        if "several seeds" in str(error):
            raise
        raise _FORMAT.missing(folder) from None


def inside(root: Path | str, name: str) -> Path:
    """A folder below a root, by its name from there.

    Args:
        root: The only place from which anything is taken.
        name: Relative, as it came in a request.

    Raises:
        ConfigError: It is somewhere else, also by a link or ``..``.

    Example:
        >>> inside("/srv/models", "../../etc")
        Traceback (most recent call last):
            ...
        recsys.errors.ConfigError: folder: expected a name below the root, got '../../etc'.
    """
    base = Path(root).resolve()
    refused = ConfigError(f"folder: expected a name below the root, got {name[:200]!r}.")
    try:
        found = (base / name).resolve()
    except (OSError, ValueError, RuntimeError):  # NUL bytes, too long, a loop of links
        raise refused from None
    if not 0 < len(name) <= 1000 or Path(name).is_absolute() or base not in found.parents:
        raise refused
    return found
