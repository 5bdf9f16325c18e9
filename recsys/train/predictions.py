"""Judged rows of a click model as a file.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from recsys.evaluate.evaluation import Evaluation
from recsys.folders import whole_file


def save_predictions(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """Labels and probabilities of every judged row as Parquet.

    Columns: ``split``; ``label`` and ``probability`` (``label.<task>`` with several tasks);
    ``weight`` and ``group`` (hashed) where there are any.

    Args:
        path: Replaced as a whole.
        evaluations: By split, rows in file order (by rank with several ranks).
    """
    if not evaluations:
        return
    writer = None
    with whole_file(path) as draft:
        for evaluation in evaluations:
            rows_table = _predictions_table(evaluation)
            writer = writer or pyarrow.parquet.ParquetWriter(draft, rows_table.schema)
            writer.write_table(rows_table)
        assert writer is not None
        writer.close()


def _predictions_table(evaluation: Evaluation) -> pa.Table:
    found = evaluation.predictions
    rows = len(found.labels)
    columns: dict[str, Any] = {"split": pa.array([evaluation.name] * rows, pa.string())}
    probabilities = found.probabilities
    for number, task in enumerate(found.tasks):
        end = "" if len(found.tasks) == 1 else f".{task}"
        columns[f"label{end}"] = found.labels[:, number].astype("int8")
        columns[f"probability{end}"] = probabilities[:, number]
    if found.weights is not None:
        columns["weight"] = found.weights
    if found.groups is not None:
        columns["group"] = found.groups
    return pa.table(columns)
