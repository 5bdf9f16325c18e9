"""Models that predict clicks: prepared rows, tables that are looked up for every row.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from recsys.base import CTRModel, RecModel
from recsys.config import Experiment
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepared import Prepared
from recsys.embeddings.compression.budget import full_bytes
from recsys.embeddings.compression.plan import CompressionConfig
from recsys.embeddings.scheme import Dtype
from recsys.errors import ConfigError
from recsys.evaluate.evaluation import EvaluationOptions, evaluate
from recsys.serving.artefact import load_artefact
from recsys.serving.freeze import freeze_model
from recsys.tune.workload import Judged, Workload, lookup_speed, served_bytes
from recsys.types import Batch

LOOKUP_ROWS = 4096
"""Rows of the batch whose lookup is timed."""


class ClickWorkload(Workload):
    """See `Workload`.

    Args:
        prepared: The data.
    """

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared

    def plan(self, experiment: Experiment) -> RecModel:
        """See `Workload`."""
        with torch.device("meta"):
            return experiment.model.build(self._prepared.schema)

    def lookup_us(self, experiment: Experiment, dtype: Dtype) -> float:
        """See `Workload`."""
        planned = self.plan(experiment)
        schemes = {name: s.frozen_scheme() for name, s in planned.embeddings.schemes.items()}
        before = getattr(planned.config, "compression", None) or CompressionConfig()
        served = before.model_copy(update={"planned": schemes, "dtype": dtype})
        config = planned.config.model_copy(update={"compression": served})
        model = type(planned)(config, self._prepared.schema).eval()
        return 1e6 / lookup_speed(model, self._first_batch())

    def trained(self, experiment: Experiment, threads: int, lean: bool) -> Experiment:
        """See `Workload`."""
        update: dict[str, Any] = {"num_threads": threads, "bootstrap_samples": 0}
        if lean:
            update["slices"] = ()
        train = experiment.train.model_copy(update=update)
        return experiment.model_copy(update={"train": train})

    def judge(
        self,
        folder: Path,
        experiment: Experiment,
        dtypes: Sequence[Dtype],
        precision: Literal["fp32", "bf16"] | None = None,
    ) -> Judged:
        """See `Workload`."""
        model = load_artefact(folder).model
        assert isinstance(model, CTRModel)
        found = Judged(
            full_bytes=sum(full_bytes(tables) for tables in model.embeddings.groups.values()),
            parameters=0, infer_bytes={}, metrics={}, refused={}, lookups={},
        )  # fmt: skip
        batch = self._first_batch()
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
                split: self._metrics(
                    frozen, split, experiment, precision or experiment.train.precision
                )
                for split in ("valid", "test")
                if split in self._prepared.split_rows
            }
            found.lookups[dtype] = lookup_speed(frozen, batch)
        return found

    def _first_batch(self) -> Batch:
        """Rows of the validation split to look up."""
        config = LoaderConfig(batch_size=LOOKUP_ROWS, prefetch=0)
        return next(iter(BatchLoader(self._prepared, "valid", config)))

    def _metrics(
        self,
        model: CTRModel,
        split: str,
        experiment: Experiment,
        precision: Literal["fp32", "bf16"],
    ) -> dict[str, float]:
        config = LoaderConfig(batch_size=experiment.train.eval_batch_size)
        options = EvaluationOptions(slice_by=(), bootstrap_samples=0, precision=precision)
        loader = BatchLoader(self._prepared, split, config)
        return evaluate(model, loader, self._prepared.encoder, split, options).metrics
