"""A model judged on one split: metrics, intervals, slices.

Stability: caller
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from torch import nn

from recsys.data.encoder import FeatureEncoder
from recsys.evaluate.predictions import Predictions, collect
from recsys.evaluate.summary import flat_metrics, metrics_table, slices_table
from recsys.metrics.bootstrap import Interval, bootstrap_intervals
from recsys.metrics.report import BinaryReport
from recsys.metrics.slices import SliceRow, slice_table
from recsys.schema import (
    FIRST_INDEX,
    OOV_INDEX,
    Bucketized,
    Categorical,
    KeyedFeature,
    Schema,
)
from recsys.types import Batch


@dataclasses.dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What is computed besides the metrics.

    Args:
        slice_by: Features to slice by; None takes `default_slices`.
        bootstrap_samples: For the intervals; 0 leaves them out.
        precision: ``bf16`` runs matrix products in bfloat16.
    """

    slice_by: Sequence[str] | None = None
    bootstrap_samples: int = 200
    precision: Literal["fp32", "bf16"] = "fp32"


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model is worth on one split.

    Args:
        name: Of the split.
        reports: By task.
        intervals: 95 % bootstrap intervals by task and metric; over groups where there are any.
        slices: Slice table by feature (``task: feature`` with several tasks).
        predictions: What all of it is computed from.
        seconds: Wall time of the predictions.
    """

    name: str
    reports: dict[str, BinaryReport]
    intervals: dict[str, dict[str, Interval]]
    slices: dict[str, list[SliceRow]]
    predictions: Predictions
    seconds: float

    @property
    def metrics(self) -> dict[str, float]:
        """Flat numbers, mean over tasks first."""
        return flat_metrics(self.reports)

    @property
    def rows(self) -> int:
        """Rows judged."""
        return next(iter(self.reports.values())).rows

    def table(self) -> str:
        """Metrics and slices as text."""
        parts = [metrics_table({task: report.values for task, report in self.reports.items()})]
        parts += [slices_table(title, rows) for title, rows in self.slices.items()]
        return "\n\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """All numbers as JSON values (nan as None)."""
        content = {
            "split": self.name,
            "rows": self.rows,
            "seconds": self.seconds,
            "metrics": self.metrics,
            "tasks": {task: dataclasses.asdict(report) for task, report in self.reports.items()},
            "intervals": {
                task: {name: dataclasses.asdict(interval) for name, interval in found.items()}
                for task, found in self.intervals.items()
            },
            "slices": {
                title: [dataclasses.asdict(row) for row in rows]
                for title, rows in self.slices.items()
            },
        }
        return without_nan(content)


def without_nan(value: Any) -> Any:
    """The same JSON value with nan and infinity as None.

    Args:
        value: Mappings, lists and numbers.

    Example:
        >>> without_nan({"auc": float("nan"), "rows": [1, 2.5]})
        {'auc': None, 'rows': [1, 2.5]}
    """
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate(
    model: nn.Module,
    loader: Iterable[Batch],
    encoder: FeatureEncoder,
    name: str,
    options: EvaluationOptions | None = None,
) -> Evaluation:
    """Judges a model on the rows of a loader (of all ranks together).

    Args:
        model: Batch in, logits out.
        loader: With labels.
        encoder: Its schema names tasks, its vocabularies name slices.
        name: Of the split.
        options: Slices, intervals, precision.

    Raises:
        DataError: There are no rows, or a prediction is NaN.
        SchemaError: A slice is not a feature with one index a row.
    """
    options = options or EvaluationOptions()
    schema = encoder.schema
    chosen = default_slices(schema) if options.slice_by is None else tuple(options.slice_by)
    start = time.perf_counter()
    found = collect(model, loader, schema, precision=options.precision, slice_by=chosen)
    seconds = time.perf_counter() - start
    reports = found.reports()
    intervals: dict[str, dict[str, Interval]] = {}
    slices: dict[str, list[SliceRow]] = {}
    probabilities = found.probabilities
    for column, task in enumerate(found.tasks):
        judged = found.labels[:, column], probabilities[:, column]
        if options.bootstrap_samples:
            intervals[task] = bootstrap_intervals(
                *judged, found.weights, found.groups, num_samples=options.bootstrap_samples
            )
        for key in chosen:
            title = key if len(found.tasks) == 1 else f"{task}: {key}"
            namer = _Namer(encoder, key)
            slices[title] = slice_table(*judged, found.slices[key], found.weights, name=namer)
    return Evaluation(name, reports, intervals, slices, found, seconds)


def default_slices(schema: Schema, limit: int = 2) -> tuple[str, ...]:
    """The single-valued features with the fewest values, in schema order.

    Args:
        schema: Fitted.
        limit: How many.
    """
    single = [f for f in schema.keyed if isinstance(f, Categorical | Bucketized)]
    single = [f for f in single if (f.num_embeddings or 0) > FIRST_INDEX + 1]
    smallest = sorted(single, key=lambda feature: feature.num_embeddings or 0)[:limit]
    return tuple(feature.name for feature in single if feature in smallest)


class _Namer:
    """Makes the indices of one feature readable."""

    def __init__(self, encoder: FeatureEncoder, key: str) -> None:
        feature = encoder.schema.feature(key)
        assert isinstance(feature, KeyedFeature)
        self._vocabulary = encoder.vocabularies.get(feature.table_name)

    def __call__(self, index: int) -> str:
        if index == OOV_INDEX:
            return "(rare or new)"
        if self._vocabulary is None or index < FIRST_INDEX:
            return f"index {index}"
        value = self._vocabulary.decode(np.array([index]))[0]
        return "(missing)" if value is None else str(value)
