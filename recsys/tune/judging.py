"""A trained model as it would be served: metrics, bytes and speed of its frozen tables.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from recsys.base import CTRModel, RecModel
from recsys.config import Experiment
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepared import Prepared
from recsys.embeddings.compression.budget import full_bytes
from recsys.embeddings.scheme import Dtype
from recsys.errors import ConfigError
from recsys.evaluate.evaluation import EvaluationOptions, evaluate
from recsys.serving.artefact import load_artefact
from recsys.serving.freeze import freeze_model
from recsys.types import Batch

LOOKUP_ROWS = 4096
"""Rows of the batch whose lookup is timed."""
_LOOKUPS = 20  # repetitions


@dataclasses.dataclass(frozen=True)
class Judged:
    """One trained model.

    Args:
        full_bytes: Of the uncompressed fp32 tables.
        parameters: Numbers in tables, as papers count: no indices, no decoders.
        infer_bytes: Of the frozen tables with indices and decoders, by dtype.
        metrics: By dtype and split.
        refused: Why a dtype makes no sense here.
        lookups: Rows looked up in all frozen tables a second, by dtype.
    """

    full_bytes: int
    parameters: int
    infer_bytes: dict[str, int]
    metrics: dict[str, dict[str, dict[str, float]]]
    refused: dict[str, str]
    lookups: dict[str, float]


def served_bytes(model: RecModel, dtype: Dtype | None = None) -> int:
    """Bytes of a model's tables once served, also on meta: rows, indices, decoders.

    Matrices that bring narrow tables to the model's width count as decoders.

    Args:
        model: Trained, or only planned.
        dtype: How rows are stored; by default as they are.
    """
    projections = sum(
        4 * parameter.numel()
        for name, parameter in model.named_parameters()
        if name.startswith("projections.table:")
    )
    return model.embeddings.bytes("infer", dtype=dtype).total + projections


def judge(
    folder: Path,
    prepared: Prepared,
    experiment: Experiment,
    dtypes: Sequence[Dtype],
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Judged:
    """Freezes one trained model in every dtype that makes sense.

    Args:
        folder: Of the run.
        prepared: Its data.
        experiment: What it was.
        dtypes: How rows are stored.
        precision: Of the dense layers.
    """
    model = load_artefact(folder).model
    assert isinstance(model, CTRModel)
    found = Judged(
        full_bytes=sum(full_bytes(tables) for tables in model.embeddings.groups.values()),
        parameters=0, infer_bytes={}, metrics={}, refused={}, lookups={},
    )  # fmt: skip
    batch = first_batch(prepared)
    for dtype in dict.fromkeys(dtypes):
        try:
            frozen = freeze_model(model, dtype)
        except ConfigError as error:
            found.refused[dtype] = str(error)
            continue
        found.infer_bytes[dtype] = served_bytes(frozen)
        if dtype == "fp32":
            tables = frozen.embeddings.bytes("infer").tables
            found = dataclasses.replace(found, parameters=tables // 4)
        found.metrics[dtype] = {
            split: _metrics(frozen, prepared, split, experiment, precision)
            for split in ("valid", "test")
            if split in prepared.split_rows
        }
        found.lookups[dtype] = lookup_speed(frozen, batch)
    return found


def first_batch(prepared: Prepared) -> Batch:
    """Rows of the validation split to look up.

    Args:
        prepared: The data.
    """
    config = LoaderConfig(batch_size=LOOKUP_ROWS, prefetch=0)
    return next(iter(BatchLoader(prepared, "valid", config)))


def _metrics(
    model: CTRModel,
    prepared: Prepared,
    split: str,
    experiment: Experiment,
    precision: Literal["fp32", "bf16"],
) -> dict[str, float]:
    config = LoaderConfig(batch_size=experiment.train.eval_batch_size)
    options = EvaluationOptions(slice_by=(), bootstrap_samples=0, precision=precision)
    loader = BatchLoader(prepared, split, config)
    return evaluate(model, loader, prepared.encoder, split, options).metrics


def lookup_speed(model: RecModel, batch: Batch) -> float:
    """Rows of a batch looked up a second, all features of a row together.

    Args:
        model: Frozen.
        batch: To look up.
    """
    with torch.inference_mode():
        model.embeddings(batch)
        start = time.perf_counter()
        for _ in range(_LOOKUPS):
            model.embeddings(batch)
        return _LOOKUPS * batch.batch_size / (time.perf_counter() - start)
