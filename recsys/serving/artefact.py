"""A trained model as a folder: weights, config, schema and encoder. No pickle anywhere.

    model.json          format, class path, config, metadata, versions, SHA-256 of every file
    model.safetensors   weights
    schema.json         the fitted schema
    encoder/            what turns raw rows into indices (JSON and Parquet)

Stability: caller
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from recsys.base import RecModel
from recsys.config import class_path
from recsys.data.encoder import FeatureEncoder
from recsys.errors import CheckpointError, SchemaError
from recsys.schema import Schema
from recsys.serving.folder import (
    SCHEMA,
    artefact_folder,
    check_kind,
    read_manifest,
    stored_config,
    trusted_class,
    verify,
    version_of,
    write_folder,
)
from recsys.serving.weights_file import Stored, write_weights

WEIGHTS = "model.safetensors"
"""Name of the file with all tensors."""

_ROWS = "embeddings.store."
_ENCODER = "encoder"


class Artefact(NamedTuple):
    """What an artefact holds."""

    model: RecModel
    """In eval mode, on the CPU."""
    encoder: FeatureEncoder
    """For raw rows."""
    metadata: dict[str, Any]
    """What the trainer wrote down."""
    version: str
    """Of the model, see `recsys.serving.folder.artefact_version`."""


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
    if model.schema != encoder.schema:
        raise SchemaError(
            "model and encoder have different schemas, so indices would mean other rows. Save the "
            "model with the encoder of the data it was trained on."
        )

    def write(draft: Path) -> None:
        write_weights(draft / WEIGHTS, model.state_dict() if state is None else state)
        text = model.schema.model_dump_json(indent=1) + "\n"
        (draft / SCHEMA).write_text(text, encoding="utf-8")
        encoder.save(draft / _ENCODER)

    return write_folder(directory, model, metadata or {}, write)


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
    check_kind(folder, manifest, lists=False)
    verify(folder, manifest["files"], (WEIGHTS, SCHEMA, f"{_ENCODER}/encoder.json"), _ENCODER)
    cls = trusted_class(folder, manifest["class"], RecModel, model_class)
    schema = Schema.model_validate_json((folder / SCHEMA).read_text(encoding="utf-8"))
    encoder = FeatureEncoder.load(folder / _ENCODER)
    if encoder.schema != schema:
        raise CheckpointError(
            f"{folder}: the encoder's schema is not the model's. Save the model again."
        )
    config = stored_config(folder, manifest, cls)
    model = _filled(cls, config, schema, folder / WEIGHTS)
    return Artefact(model.eval(), encoder, manifest["metadata"], version_of(manifest))


def stored_bytes(directory: Path | str, prefix: str = "embeddings.") -> int:
    """Bytes of tensors in the weights file, read from its header.

    Args:
        directory: An artefact or a run folder.
        prefix: Of the tensors' names; by default those of tables, with indices and decoders.

    Raises:
        CheckpointError: There is no artefact.
    """
    with (artefact_folder(directory) / WEIGHTS).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    spans = [entry["data_offsets"] for name, entry in header.items() if name.startswith(prefix)]
    return sum(end - start for start, end in spans)


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
