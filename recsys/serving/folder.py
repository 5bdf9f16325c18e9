"""A model on disk: a folder of files and a manifest with the checksum of each. No pickle anywhere.

    model.json          format, class path, config, metadata, versions, SHA-256 of every file

It is written whole or not at all, and every file is checked before it is read.

Stability: internal
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from pydantic import ValidationError
from safetensors import SafetensorError

from recsys import __version__
from recsys.base import RecModel
from recsys.config import class_path, resolve_class
from recsys.config_problems import describe
from recsys.errors import CheckpointError, ConfigError, RecsysError
from recsys.folders import FolderFormat, fingerprints

TRUSTED = "recsys.models."
"""Only class paths that start like this are taken from a folder."""
MANIFEST = "model.json"
"""Name of the manifest."""
USERS = "users.parquet"
"""A file that every collaborative filter has."""
SCHEMA = "schema.json"
"""A file that every model of clicks has."""
NODES = "nodes.json"
"""A file that every classifier of nodes has."""
ASPECTS = "aspects.json"
"""A file that every model of aspects has."""
_FORMAT = FolderFormat(
    MANIFEST, "recsys model", 1, "Give the folder of a finished run, or its `model` folder."
)

_Model = TypeVar("_Model", bound=RecModel)


def write_folder(
    directory: Path | str,
    model: RecModel,
    metadata: Mapping[str, Any],
    write: Callable[[Path], None],
) -> Path:
    """Writes the files of a model and their manifest; replaces an older folder.

    Args:
        directory: The folder.
        model: Whose class and config to name.
        metadata: Whatever else should travel along, as JSON values.
        write: Writes the files into a new, empty folder.

    Returns:
        The folder.

    Raises:
        CheckpointError: The folder exists and holds something else.
    """
    target = Path(directory)

    def fill(draft: Path) -> dict[str, Any]:
        write(draft)
        return {
            "class": class_path(type(model)),
            "config": model.config.model_dump(mode="json"),
            "metadata": dict(metadata),
            "versions": {
                "recsys": __version__,
                "torch": torch.__version__,
                "pyarrow": pa.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "files": {name: found["sha256"] for name, found in fingerprints(draft).items()},
        }

    _FORMAT.write(target, fill)
    return target


def artefact_folder(directory: Path | str) -> Path:
    """The folder with ``model.json``: this one, or ``model`` in it.

    Args:
        directory: An artefact or a run folder.

    Raises:
        CheckpointError: There is none.
    """
    folder = Path(directory)
    for candidate in (folder, folder / "model"):
        if (candidate / MANIFEST).is_file():
            return candidate
    seeds = sorted(found.parts[-3] for found in folder.glob(f"seed-*/model/{MANIFEST}"))
    if seeds:
        raise CheckpointError(
            f"{folder} holds a model for each of several seeds. Give one: {folder / seeds[0]}"
            + "".join(f", {folder / seed}" for seed in seeds[1:])
            + "."
        )
    raise _FORMAT.missing(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of ``model.json``, checked against its own digest.

    Args:
        folder: The artefact.

    Raises:
        CheckpointError: It is damaged or of another format version.
    """
    return _FORMAT.read(folder)


def artefact_version(directory: Path | str) -> str:
    """Which model a folder holds: equal for all copies of it, another after another training.

    Vectors and indexes carry it (`recsys.serving.vectors.Vectors`), so that those of two models are
    never compared.

    Args:
        directory: An artefact or a run folder.

    Raises:
        CheckpointError: There is no model, or its manifest is damaged.
    """
    return version_of(read_manifest(artefact_folder(directory)))


def version_of(manifest: Mapping[str, Any]) -> str:
    """See `artefact_version`: a hash of the class, the config and the checksums of all files.

    Args:
        manifest: From `read_manifest`.
    """
    content = {name: manifest[name] for name in ("class", "config", "files")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def gives_lists(directory: Path | str) -> bool:
    """Whether a folder holds a collaborative filter, which gives lists of items.

    Args:
        directory: An artefact or a run folder.

    Raises:
        CheckpointError: There is no model, or its manifest is damaged.
    """
    return USERS in read_manifest(artefact_folder(directory))["files"]


def classifies_nodes(directory: Path | str) -> bool:
    """Whether a folder holds a classifier of nodes.

    Args:
        directory: An artefact or a run folder.

    Raises:
        CheckpointError: There is no model, or its manifest is damaged.
    """
    return NODES in read_manifest(artefact_folder(directory))["files"]


def has_aspects(directory: Path | str) -> bool:
    """Whether a folder holds a model of aspects.

    Args:
        directory: An artefact or a run folder.

    Raises:
        CheckpointError: There is no model, or its manifest is damaged.
    """
    return ASPECTS in read_manifest(artefact_folder(directory))["files"]


def run_config(folder: Path) -> Path:
    """The configuration of a run folder, of one seed in it, or of the model folder in either.

    Args:
        folder: One of these.

    Raises:
        ConfigError: There is none.
    """
    places = [folder, folder.parent, folder.parent.parent]
    path = next((p / "config.json" for p in places if (p / "config.json").is_file()), None)
    if path is None:
        raise ConfigError(
            f"{folder} has no config.json, which says what data it was trained on. Give the folder "
            "of a run, not a copy of its model."
        )
    return path


def check_kind(folder: Path, manifest: Mapping[str, Any], lists: bool) -> None:
    """Refuses a model of another kind than the caller serves.

    Args:
        folder: Of the manifest.
        manifest: From `read_manifest`.
        lists: Whether a collaborative filter is wanted, which gives lists of items; else one that
            predicts clicks.

    Raises:
        CheckpointError: It is of the other kind.
    """
    name = str(manifest.get("class")).rpartition(".")[2]
    files = manifest["files"]
    if NODES in files:
        raise CheckpointError(
            f"{folder} holds {name}, a classifier of nodes, and this is for other models. To judge "
            "it, use `recsys evaluate`; to read it, load_classifier of "
            "recsys.serving.classifier_folder."
        )
    if ASPECTS in files:
        raise CheckpointError(
            f"{folder} holds {name}, a model of aspects, and this is for other models. To judge "
            "it, use `recsys evaluate`; to read it, load_aspects of recsys.serving.aspect_folder."
        )
    if not lists and USERS in files:
        raise CheckpointError(
            f"{folder} holds {name}, a collaborative filter, and this is for models that predict "
            "clicks. For lists of items use `recsys recommend`, or Recommender.load of "
            "recsys.serving.recommender; to judge it, `recsys evaluate`."
        )
    if lists and USERS not in files and SCHEMA in files:
        raise CheckpointError(
            f"{folder} holds {name}, a model that predicts clicks, and this is for collaborative "
            "filters, which give lists of items. Use `recsys predict`, or Predictor.load of "
            "recsys.serving.predictor."
        )


def verify(folder: Path, files: Mapping[str, str], needed: Sequence[str], inside: str) -> None:
    """Checks that all files are there and as they were written.

    Args:
        folder: Of the manifest.
        files: Checksums from the manifest.
        needed: Files that must be among them.
        inside: Subfolder that must hold no others.

    Raises:
        CheckpointError: One is missing, damaged, or does not belong there.
    """
    there = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path != folder / MANIFEST
    }
    for name in sorted({*needed, *files}):
        if name not in files or name not in there:
            raise CheckpointError(f"{folder / name} is missing. Copy the whole folder again.")
        _FORMAT.check(folder / name, {"sha256": files[name]})
    strange = sorted(n for n in there - set(files) if n.startswith(f"{inside}/"))
    if strange:
        raise CheckpointError(
            f"{folder / strange[0]} does not belong to this model. Copy the folder again."
        )


def trusted_class(
    folder: Path, path: object, base: type[_Model], given: type[_Model] | None = None
) -> type[_Model]:
    """The class that a manifest names.

    Args:
        folder: Of the manifest.
        path: Of the class.
        base: What it must be a subclass of.
        given: The class, where the caller has it.

    Raises:
        CheckpointError: It is not one of `recsys.models`, or there is none.
    """
    if given is not None:
        return given
    if not isinstance(path, str) or not path.startswith(TRUSTED):
        raise CheckpointError(
            f"{folder / MANIFEST} names the class {path!r}. An artefact may only name classes "
            f"under `{TRUSTED[:-1]}`, because importing runs code. If you trust this one, import "
            "it yourself and pass `model_class`."
        )
    try:
        return resolve_class(path, base)
    except ConfigError as error:
        raise CheckpointError(f"{folder / MANIFEST}: {error}") from None


def stored_config(folder: Path, manifest: Mapping[str, Any], cls: type[RecModel]) -> Any:
    """The config of a model, as its class of this version reads it.

    Args:
        folder: The artefact.
        manifest: Of it.
        cls: Of the model.

    Raises:
        CheckpointError: It does not fit.
    """
    try:
        return cls.Config.model_validate(manifest["config"])
    except ValidationError as error:
        problems = "\n  ".join(text for _, text in describe(error, cls.Config, manifest["config"]))
        raise CheckpointError(
            f"{folder / MANIFEST}: the config does not fit {class_path(cls)} of this version.\n"
            f"  {problems}"
        ) from None


@contextlib.contextmanager
def filling(folder: Path, cls: type[RecModel]) -> Iterator[None]:
    """What goes wrong inside means that weights and config are of different models.

    Args:
        folder: The artefact.
        cls: Of the model.

    Raises:
        CheckpointError: Instead of what was raised.
    """
    try:
        yield
    except (SafetensorError, RuntimeError, KeyError, OSError, RecsysError) as error:
        raise CheckpointError(
            f"{folder}: the weights do not fit {class_path(cls)} with this config: {error}"
        ) from None
