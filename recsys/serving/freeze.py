"""From a trained model to one that is only served: tables in their served form and in few bytes.

Stability: caller
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from recsys.base import RecModel
from recsys.embeddings.compression.plan import CompressionConfig
from recsys.embeddings.freeze import freeze
from recsys.embeddings.scheme import Dtype
from recsys.errors import ConfigError
from recsys.serving.artefact import load_artefact, save_artefact, stored_bytes

_Model = TypeVar("_Model", bound=RecModel)


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenArtefact:
    """A frozen model on disk.

    Args:
        folder: For `recsys.serving.predictor.Predictor.load`.
        dtype: How rows are stored.
        table_bytes: Of the tables, with their indices and decoders; the same in memory and on disk.
        trained_bytes: Of the tables as they were trained, without optimizer.
    """

    folder: Path
    dtype: Dtype
    table_bytes: int
    trained_bytes: int


def freeze_model(model: _Model, dtype: Dtype = "fp32") -> _Model:
    """A model of the same class for serving only, in eval mode.

    Its tables are frozen (`recsys.embeddings.freeze.freeze`), its dense weights copied. Its config
    says so (``compression.planned`` and ``compression.dtype``), so it is saved and loaded like any
    other. Frozen in fp32 it predicts what the model predicts.

    Args:
        model: Trained; unchanged. Collective where its tables are sharded.
        dtype: How table rows are stored: fp32, fp16, int8, int4 or int2.

    Raises:
        ConfigError: The model is frozen already, or its tables do not take the dtype.
    """
    tables = freeze(model.embeddings, dtype)
    before = getattr(model.config, "compression", None) or CompressionConfig()
    if not isinstance(before, CompressionConfig):
        raise ConfigError(
            f"{type(model).__name__}.Config.compression must be a CompressionConfig, got "
            f"{type(before).__name__}. Derive the Config from RecModel.Config."
        )
    # What was asked for stays readable beside what came of it.
    compression = before.model_copy(update={"planned": dict(tables.schemes), "dtype": dtype})
    memo: dict[int, Any] = {id(model.embeddings): tables}  # everything but the tables is copied
    frozen = copy.deepcopy(model, memo)
    frozen.config = model.config.model_copy(update={"compression": compression})
    return frozen.eval()


def freeze_artefact(
    directory: Path | str,
    out: Path | str,
    dtype: Dtype = "fp32",
    model_class: type[RecModel] | None = None,
) -> FrozenArtefact:
    """Freezes a saved model into an artefact of its own.

    Args:
        directory: A run folder or the model folder in it.
        out: Folder to write.
        dtype: How table rows are stored.
        model_class: The model's class, where it is not one of ``recsys.models``.

    Raises:
        CheckpointError: The artefact is not sound, or ``out`` holds other files.
        ConfigError: The model is frozen already, or its tables do not take the dtype.
    """
    artefact = load_artefact(directory, model_class)
    frozen = freeze_model(artefact.model, dtype)
    folder = save_artefact(out, frozen, artefact.encoder, {**artefact.metadata, "frozen": dtype})
    return FrozenArtefact(
        folder, dtype, stored_bytes(folder), artefact.model.embeddings.bytes("train").total
    )
