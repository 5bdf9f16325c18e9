"""A trained model as a ``torch.export`` program: plain tensors in, logits out, no recsys needed.

    program = torch.export.load("model.pt2").module()
    logits = program(dense, values, lengths)

The file beside it, ``model.pt2.json``, says what the tensors are.

Stability: caller
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys import __version__
from recsys.base import CTRModel, FlatInputs, RecModel
from recsys.embeddings.scheme import Dtype
from recsys.errors import CheckpointError, ConfigError
from recsys.folders import sha256, whole_file, write_text
from recsys.schema import FIRST_INDEX, OOV_INDEX, PAD_INDEX, MultiValued, Schema
from recsys.schema import Sequence as History
from recsys.serving.artefact import load_artefact
from recsys.serving.freeze import freeze_model
from recsys.types import Batch

_CHECKED_SIZES = (1, 2, 7, 64)


def export(
    directory: Path | str,
    out: Path | str,
    model_class: type[RecModel] | None = None,
    tolerance: float = 1e-5,
    dtype: Dtype | None = None,
) -> Path:
    """Exports a model with a dynamic batch size, checks it against eager, then writes it.

    Args:
        directory: A run folder or the model folder in it.
        out: ``.pt2`` file to write. ``<out>.json`` describes inputs and outputs.
        model_class: The model's class, where it is not one of ``recsys.models``.
        tolerance: Largest difference of a logit, relative where logits are above 1.
        dtype: Freezes the tables first, with rows stored so.

    Returns:
        The file.

    Raises:
        ConfigError: ``out`` does not end in ``.pt2``, or the model takes no flat inputs.
        CheckpointError: The artefact is not sound, or the exported program computes something
            else than the model; nothing is written then.
    """
    target = Path(out)
    if target.suffix != ".pt2":
        raise ConfigError(
            f"expected a file that ends in .pt2, got {target}. (A folder needs a dtype: "
            "`recsys export RUN --freeze int8 --to FOLDER`.)"
        )
    model = load_artefact(directory, model_class).model
    if not isinstance(model, CTRModel):
        raise ConfigError(f"{type(model).__name__} is not a CTRModel; only those have flat inputs.")
    if dtype is not None:
        model = freeze_model(model, dtype)
    flat = FlatInputs(model).eval()
    schema = model.schema
    with torch.no_grad():
        program = flat.export(sample_batch(schema, 8, seed=0))
    with whole_file(target) as draft:
        torch.export.save(program, draft)
        loaded = torch.export.load(draft).module()
        difference = _difference(flat, loaded, schema)
        if not difference <= tolerance:
            raise CheckpointError(
                f"the exported program's logits differ from the model's by {difference:.2g} "
                f"(allowed {tolerance:.2g}). Nothing was written. Please report this model."
            )
        description = {**_describe(schema), "largest_difference": difference}
        description["sha256"] = sha256(draft)
    text = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
    write_text(target.with_name(f"{target.name}.json"), text)
    return target


def _difference(flat: FlatInputs, program: Any, schema: Schema) -> float:
    largest = 0.0
    with torch.no_grad():
        for size in _CHECKED_SIZES:
            inputs = FlatInputs.flatten(sample_batch(schema, size, seed=size))
            expected, found = flat(*inputs), program(*inputs)
            error = (found - expected).abs() / expected.abs().clamp(min=1.0)
            largest = max(largest, float(error.max().nan_to_num(float("inf"))))
    return largest


def _describe(schema: Schema) -> dict[str, Any]:
    """What a program outside recsys must know to call this one."""
    numbers = [feature.name for feature in schema.numeric]
    vectors = [f"{vector.name}[{i}]" for vector in schema.vectors for i in range(vector.dim)]
    inputs = {
        "dense": {"dtype": "float32", "shape": ["B", schema.dense_width]},
        "values": {"dtype": "int32", "shape": ["L"]},
        "lengths": {"dtype": "int32", "shape": [f"{len(schema.keys)} * B"]},
    }
    if _is_weighted(schema):
        inputs["value_weights"] = {"dtype": "float32", "shape": ["L"]}
    return {
        "format": "torch.export",
        "inputs": inputs,
        "output": {"logits": {"dtype": "float32", "shape": ["B", schema.num_tasks]}},
        "dense_columns": numbers + vectors,
        "keys": list(schema.keys),
        "layout": "feature-major: all rows of the first key, then all rows of the second, ...",
        "num_embeddings": {f.name: schema.num_embeddings()[f.table_name] for f in schema.keyed},
        "indices": {"pad": PAD_INDEX, "oov": OOV_INDEX, "first_id": FIRST_INDEX},
        "tasks": [label.name for label in schema.labels],
        "probability": "sigmoid(logits)",
        "versions": {"recsys": __version__, "torch": torch.__version__},
    }


def _is_weighted(schema: Schema) -> bool:
    return any(isinstance(f, MultiValued) and f.weights for f in schema.keyed)


def sample_batch(schema: Schema, rows: int, seed: int) -> Batch:
    """Random rows that fit a schema; bags hold none to three indices, the first row's at least one.

    Args:
        schema: Fitted.
        rows: How many.
        seed: Of the draw.
    """
    rng = np.random.default_rng(seed)
    values, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for feature in schema.keyed:
        counts = np.ones(rows, np.int32)
        if isinstance(feature, MultiValued | History):
            counts = rng.integers(0, 4, rows, dtype=np.int32)
            counts[0] = 1
        limit = schema.num_embeddings()[feature.table_name]
        values.append(rng.integers(OOV_INDEX, limit, counts.sum(), dtype=np.int32))
        lengths.append(counts)
    flat = np.concatenate(values)
    weights: Tensor | None = None
    if _is_weighted(schema):
        weights = torch.from_numpy(rng.random(len(flat), np.float32))
    dense = rng.standard_normal((rows, schema.dense_width), np.float32)
    return Batch(
        dense=torch.from_numpy(dense),
        values=torch.from_numpy(flat),
        lengths=torch.from_numpy(np.concatenate(lengths)),
        labels=torch.zeros(rows, 0),
        keys=schema.keys,
        value_counts=tuple(len(v) for v in values[1:]),
        value_weights=weights,
    )
