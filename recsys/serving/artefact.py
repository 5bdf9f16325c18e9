"""A trained model as a folder: weights, config, schema and encoder. No pickle anywhere.

    model.json          format, class path, config, metadata, versions, SHA-256 of every file
    model.safetensors   weights
    schema.json         the fitted schema
    encoder/            what turns raw rows into indices (JSON and Parquet)

Stability: caller
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from recsys import __version__
from recsys.base import RecModel
from recsys.config import class_path, resolve_class
from recsys.config_problems import describe
from recsys.data.encoder import FeatureEncoder
from recsys.errors import CheckpointError, ConfigError, SchemaError
from recsys.schema import Schema
from recsys.serving.weights_file import Stored, write_weights

FORMAT_VERSION = 1
"""Of the folder. Readers refuse others."""
TRUSTED = "recsys.models."
"""Only class paths that start like this are taken from an artefact."""

_ROWS = "embeddings.store."
_MANIFEST, _WEIGHTS, _SCHEMA, _ENCODER = "model.json", "model.safetensors", "schema.json", "encoder"


class Artefact(NamedTuple):
    """What an artefact holds."""

    model: RecModel
    """In eval mode, on the CPU."""
    encoder: FeatureEncoder
    """For raw rows."""
    metadata: dict[str, Any]
    """What the trainer wrote down."""


def save_artefact(
    directory: Path | str,
    model: RecModel,
    encoder: FeatureEncoder,
    metadata: Mapping[str, Any] | None = None,
    state: Mapping[str, Tensor | Stored] | None = None,
) -> Path:
    """Writes an artefact, whole or not at all; replaces an older one.

    Args:
        directory: The folder.
        model: Whose class, config and weights to keep.
        encoder: Made with the same schema.
        metadata: Whatever else should travel along, as JSON values.
        state: Weights to write instead of ``model.state_dict()``, say those of a checkpoint that
            ranks wrote in parts. What is stored is copied block by block.

    Returns:
        The folder.

    Raises:
        SchemaError: Model and encoder have different schemas.
        CheckpointError: The folder exists and is not an artefact.
    """
    target = Path(directory)
    if model.schema != encoder.schema:
        raise SchemaError(
            "model and encoder have different schemas, so indices would mean other rows. Save the "
            "model with the encoder of the data it was trained on."
        )
    if target.exists() and not (target / _MANIFEST).is_file() and any(target.iterdir()):
        raise CheckpointError(
            f"{target} holds other files and is not overwritten. Choose another folder."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        _write(draft, model, encoder, dict(metadata or {}), state)
        _swap(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _write(
    draft: Path,
    model: RecModel,
    encoder: FeatureEncoder,
    metadata: dict[str, Any],
    state: Mapping[str, Tensor | Stored] | None,
) -> None:
    draft.mkdir()
    weights = model.state_dict() if state is None else state
    write_weights(draft / _WEIGHTS, weights)
    (draft / _SCHEMA).write_text(model.schema.model_dump_json(indent=1) + "\n", encoding="utf-8")
    encoder.save(draft / _ENCODER)
    manifest = {
        "format": "recsys model",
        "format_version": FORMAT_VERSION,
        "class": class_path(type(model)),
        "config": model.config.model_dump(mode="json"),
        "metadata": metadata,
        "versions": {
            "recsys": __version__,
            "torch": torch.__version__,
            "pyarrow": pa.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "files": {
            path.relative_to(draft).as_posix(): _sha256(path)
            for path in sorted(draft.rglob("*"))
            if path.is_file()
        },
    }
    manifest["digest"] = _digest(manifest)
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (draft / _MANIFEST).write_text(text, encoding="utf-8")
    for path in (draft, *draft.rglob("*")):
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(draft: Path, target: Path) -> None:
    """Two renames; a folder cannot be replaced in one."""
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
    if target.exists():
        target.rename(old)
    draft.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    _sync(target.parent)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# --------------------------------------------------------------------------------------- loading


def load_artefact(directory: Path | str, model_class: type[RecModel] | None = None) -> Artefact:
    """Reads an artefact after checking every file against its checksum.

    Args:
        directory: The folder, or a run folder with ``model/`` in it.
        model_class: The model's class, where it is not one of ``recsys.models``.

    Raises:
        CheckpointError: A file is missing, damaged or of another format version, the class is
            not trusted, or weights and config do not fit.
    """
    folder = artefact_folder(directory)
    manifest = read_manifest(folder)
    _verify(folder, manifest["files"])
    cls = _class(folder, manifest["class"], model_class)
    schema = Schema.model_validate_json((folder / _SCHEMA).read_text(encoding="utf-8"))
    encoder = FeatureEncoder.load(folder / _ENCODER)
    if encoder.schema != schema:
        raise CheckpointError(
            f"{folder}: the encoder's schema is not the model's. Save the model again."
        )
    try:
        config = cls.Config.model_validate(manifest["config"])
    except ValidationError as error:
        problems = "\n  ".join(text for _, text in describe(error, cls.Config, manifest["config"]))
        raise CheckpointError(
            f"{folder / _MANIFEST}: the config does not fit {class_path(cls)} of this version.\n"
            f"  {problems}"
        ) from None
    model = _filled(cls, config, schema, folder / _WEIGHTS)
    return Artefact(model.eval(), encoder, manifest["metadata"])


def stored_bytes(directory: Path | str, prefix: str = "embeddings.") -> int:
    """Bytes of tensors in the weights file, read from its header.

    Args:
        directory: An artefact or a run folder.
        prefix: Of the tensors' names; by default those of tables, with indices and decoders.

    Raises:
        CheckpointError: There is no artefact.
    """
    with (artefact_folder(directory) / _WEIGHTS).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    spans = [entry["data_offsets"] for name, entry in header.items() if name.startswith(prefix)]
    return sum(end - start for start, end in spans)


def artefact_folder(directory: Path | str) -> Path:
    """The folder with ``model.json``: this one, or ``model`` in it.

    Args:
        directory: An artefact or a run folder.

    Raises:
        CheckpointError: There is none.
    """
    folder = Path(directory)
    for candidate in (folder, folder / "model"):
        if (candidate / _MANIFEST).is_file():
            return candidate
    seeds = sorted(found.parts[-3] for found in folder.glob(f"seed-*/model/{_MANIFEST}"))
    if seeds:
        raise CheckpointError(
            f"{folder} holds a model for each of several seeds. Give one: {folder / seeds[0]}"
            + "".join(f", {folder / seed}" for seed in seeds[1:])
            + "."
        )
    state = "has no" if folder.is_dir() else "does not exist, so there is no"
    raise CheckpointError(
        f"{folder} {state} {_MANIFEST}. Give the folder of a finished run, or its `model` folder."
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of ``model.json``, checked against its own digest.

    Args:
        folder: The artefact.

    Raises:
        CheckpointError: It is damaged or of another format version.
    """
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}). Copy it again.") from None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: expected format version {FORMAT_VERSION}, got {version}. "
            "Load it with the recsys version that wrote it: "
            f"{manifest.get('versions', {}).get('recsys', 'unknown')}."
        )
    if manifest.get("digest") != _digest(manifest):
        raise CheckpointError(
            f"{path} was changed after it was written (its digest differs). Copy it again; to "
            "change a model, save it again."
        )
    return manifest


def _verify(folder: Path, files: Mapping[str, str]) -> None:
    there = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path != folder / _MANIFEST
    }
    needed = {_WEIGHTS, _SCHEMA, f"{_ENCODER}/encoder.json"}
    for name in sorted(needed | set(files)):
        if name not in files or name not in there:
            raise CheckpointError(f"{folder / name} is missing. Copy the whole folder again.")
        if _sha256(folder / name) != files[name]:
            raise CheckpointError(
                f"{folder / name} is damaged: its checksum is not the one in {_MANIFEST}. "
                "Copy it again."
            )
    strange = sorted(n for n in there - set(files) if n.startswith(f"{_ENCODER}/"))
    if strange:
        raise CheckpointError(
            f"{folder / strange[0]} does not belong to this model. Copy the folder again."
        )


def _class(folder: Path, path: object, given: type[RecModel] | None) -> type[RecModel]:
    if given is not None:
        return given
    if not isinstance(path, str) or not path.startswith(TRUSTED):
        raise CheckpointError(
            f"{folder / _MANIFEST} names the class {path!r}. An artefact may only name classes "
            f"under `{TRUSTED[:-1]}`, because importing runs code. If you trust this one, import "
            "it yourself and pass `model_class`."
        )
    try:
        return resolve_class(path, RecModel)
    except ConfigError as error:
        raise CheckpointError(f"{folder / _MANIFEST}: {error}") from None


def _filled(cls: type[RecModel], config: Any, schema: Schema, weights: Path) -> RecModel:
    """Builds without drawing start values that are overwritten at once."""
    try:
        state = load_file(str(weights))
    except SafetensorError as error:
        raise CheckpointError(f"{weights} is not readable: {error}. Copy it again.") from None
    build = cast(Any, cls)
    with torch.device("meta"):
        model = build(config, schema)
    # Frozen rows are buffers of the store, and the collection saves them under the tables' names.
    buffers = {name for name, _ in model.named_buffers() if not name.startswith(_ROWS)}
    if buffers <= set(model.state_dict()):
        model = model.to_empty(device="cpu")
    else:  # a buffer that is computed, not saved
        model = build(config, schema)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"{weights} does not fit {class_path(cls)} with this config: {error}"
        ) from None
    return model
