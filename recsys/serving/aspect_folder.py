"""A trained model of aspects as a folder: weights, items with texts and labels. No pickle.

    model.json                 format, class path, config, metadata, versions, SHA-256 of every file
    model.safetensors          weights, and what was fitted to the texts
    aspects.json               names of the aspects and of the vectors that items bring
    items.parquet              id, text and split of every item
    labels.parquet             name and aspect of every label
    pairs.parquet              which item has which label
    item_vectors.safetensors   vectors that items bring, if there are any

So the folder finds alike items, encodes new ones and can be judged, with nothing else at hand.

Stability: caller
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file

from recsys.aspect_model import AspectModel
from recsys.errors import CheckpointError
from recsys.graph.aspects import AspectTable
from recsys.graph.interactions import Names
from recsys.serving.artefact import WEIGHTS
from recsys.serving.folder import (
    ASPECTS,
    artefact_folder,
    filling,
    read_manifest,
    stored_config,
    trusted_class,
    verify,
    write_folder,
)
from recsys.serving.vectors import Vectors
from recsys.serving.weights_file import write_weights

_ITEMS, _LABELS, _PAIRS = "items.parquet", "labels.parquet", "pairs.parquet"
_BROUGHT = "item_vectors.safetensors"


def save_aspects(
    directory: Path | str, model: AspectModel, metadata: Mapping[str, Any] | None = None
) -> Path:
    """Writes a model of aspects, whole or not at all; replaces an older one.

    Args:
        directory: The folder.
        model: Trained.
        metadata: Whatever else should travel along, as JSON values.

    Returns:
        The folder.

    Raises:
        CheckpointError: The folder exists and holds something else.
    """
    table = model.table

    def write(draft: Path) -> None:
        write_weights(draft / WEIGHTS, model.state_dict())
        about = {"aspects": list(table.aspects), "vectors": list(table.vectors)}
        text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
        (draft / ASPECTS).write_text(text, encoding="utf-8")
        items = {"id": pa.array(table.items.values), "text": list(table.texts),
                 "split": table.split.astype(np.int8)}  # fmt: skip
        labels = {"label": list(table.labels), "aspect": table.label_aspect.astype(np.int32)}
        pairs = {"item": table.item.astype(np.int32), "label": table.label.astype(np.int32)}
        for name, columns in ((_ITEMS, items), (_LABELS, labels), (_PAIRS, pairs)):
            pq.write_table(pa.table(columns), draft / name, compression="zstd")
        if table.vectors:
            brought = {str(n): np.ascontiguousarray(found, np.float32)
                       for n, found in enumerate(table.vectors.values())}  # fmt: skip
            save_arrays(brought, draft / _BROUGHT)

    return write_folder(directory, model, metadata or {}, write)


def load_aspects(
    directory: Path | str, model_class: type[AspectModel] | None = None
) -> AspectModel:
    """Reads a model of aspects after checking every file against its checksum.

    Args:
        directory: The folder, or a run folder with ``model/`` in it.
        model_class: The model's class, where it is not one of ``recsys.models``.

    Returns:
        In eval mode, on the CPU, with its items as ``table``.

    Raises:
        CheckpointError: A file is missing, damaged or of another format version, the class is
            not trusted, or items, weights and config do not fit.
    """
    folder = artefact_folder(directory)
    manifest = read_manifest(folder)
    if ASPECTS not in manifest["files"]:
        raise CheckpointError(
            f"{folder} holds {str(manifest['class']).rpartition('.')[2]}, which is no model of "
            "aspects."
        )
    needed = [WEIGHTS, ASPECTS, _ITEMS, _LABELS, _PAIRS]
    verify(folder, manifest["files"], needed, "aspects")
    cls = trusted_class(folder, manifest["class"], AspectModel, model_class)
    config = stored_config(folder, manifest, cls)
    with filling(folder, cls):
        model = cast(Any, cls)(config, _read_table(folder))
        model.load_state_dict(load_file(str(folder / WEIGHTS)))
    return model.eval()


def _read_table(folder: Path) -> AspectTable:
    about = json.loads((folder / ASPECTS).read_text(encoding="utf-8"))
    items, labels, pairs = (pq.read_table(folder / name) for name in (_ITEMS, _LABELS, _PAIRS))
    brought = load_arrays(folder / _BROUGHT) if about["vectors"] else {}
    numbers = {name: pairs[name].to_numpy().astype(np.int64) for name in ("item", "label")}
    return AspectTable(
        Names(items["id"].to_numpy()), tuple(items["text"].to_pylist()), tuple(about["aspects"]),
        tuple(labels["label"].to_pylist()), labels["aspect"].to_numpy().astype(np.int64),
        numbers["item"], numbers["label"], items["split"].to_numpy().astype(np.int64), {},
        {name: brought[str(n)] for n, name in enumerate(about["vectors"])},
    )  # fmt: skip


def aspect_vectors(model: AspectModel, aspect: str, version: str | None = None) -> Vectors:
    """Ids and vectors of all items in one aspect, of length 1, say for an index.

    `Vectors.write` makes a file of them, `Vectors.index` an index.

    Args:
        model: In eval mode.
        aspect: Its name.
        version: Of the model, from `recsys.serving.folder.artefact_version`. That of the vectors
            names the aspect too: ``VERSION/ASPECT``, as those of two aspects do not compare.

    Raises:
        DataError: There is no such aspect.
    """
    values = model.vectors(aspect).numpy()
    version = None if version is None else f"{version}/{aspect}"
    return Vectors(model.table.items.values, values, version=version)
