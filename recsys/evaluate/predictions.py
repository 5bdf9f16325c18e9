"""What a model says about every row of a split, gathered from all ranks.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, distributed, nn

from recsys.errors import SchemaError
from recsys.metrics.report import BinaryReport, task_reports
from recsys.schema import Schema
from recsys.types import Batch


@dataclasses.dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions and what is needed to judge them; padding is left out.

    Args:
        tasks: Label names, in the order of the columns.
        labels: 1 or 0.
        logits: As the model gave them.
        weights: Weight of every row; None means all 1.
        groups: Group key of every row, where the schema has one.
        slices: Table index of chosen single-valued features, by feature.

    Shape:
        - labels, logits: (R, T) float32
        - weights: (R,) float32
        - groups, slices: (R,) integers
    """

    tasks: tuple[str, ...]
    labels: np.ndarray
    logits: np.ndarray
    weights: np.ndarray | None
    groups: np.ndarray | None
    slices: dict[str, np.ndarray]

    @property
    def probabilities(self) -> np.ndarray:
        """``1 / (1 + exp(-logit))`` in float64, (R, T)."""
        return torch.from_numpy(self.logits).double().sigmoid().numpy()

    def reports(self) -> dict[str, BinaryReport]:
        """All metrics of every task.

        Raises:
            DataError: There are no rows, or a prediction is NaN.
        """
        return task_reports(self.tasks, self.labels, self.probabilities, self.weights, self.groups)


def collect(
    model: nn.Module,
    loader: Iterable[Batch],
    schema: Schema,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    slice_by: Sequence[str] = (),
) -> Predictions:
    """Runs the model in evaluation mode over a loader.

    With a process group every rank gives its part and gets the whole, so metrics are global and
    exact. Afterwards the model is in the mode it was in.

    Args:
        model: Batch in, logits out.
        loader: Of the split; with several ranks, of this rank's part.
        schema: Names the tasks.
        precision: ``bf16`` runs matrix products in bfloat16.
        slice_by: Single-valued features whose indices are kept.

    Raises:
        SchemaError: ``slice_by`` names a feature that does not have one index a row.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    parts: dict[str, list[Tensor]] = {}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in loader:
                moved = batch if device.type == "cpu" else batch.to(device, non_blocking=True)
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    logits = model(moved)
                for name, value in _columns(batch, logits.float().cpu(), slice_by).items():
                    parts.setdefault(name, []).append(value)
    finally:
        model.train(was_training)
    tasks = tuple(label.name for label in schema.labels)
    # A rank without batches cannot know the columns, but loaders give all ranks equally many.
    columns = {name: gather_rows(torch.cat(values)).numpy() for name, values in parts.items()}
    if not columns:
        empty = np.zeros((0, len(tasks)), np.float32)
        return Predictions(tasks, empty, empty, None, None, {})
    weights = columns.get("weights")
    if weights is not None and not weights.all():
        kept = weights > 0
        columns = {name: value[kept] for name, value in columns.items()}
    return Predictions(
        tasks=tasks,
        labels=columns["labels"],
        logits=columns["logits"],
        weights=columns.get("weights"),
        groups=columns.get("groups"),
        slices={key: columns[f"slice:{key}"] for key in slice_by},
    )


def _columns(batch: Batch, logits: Tensor, slice_by: Sequence[str]) -> dict[str, Tensor]:
    columns = {"labels": batch.labels, "logits": logits}
    if batch.weights is not None:
        columns["weights"] = batch.weights
    if batch.groups is not None:
        columns["groups"] = batch.groups
    for key in slice_by:
        values = batch.key_values(key) if key in batch.keys else None
        if values is None or values.shape[0] != batch.batch_size:
            raise SchemaError(
                f"slices: `{key}` must be a feature with one index a row; the batch has "
                f"{list(batch.keys)}. Name a categorical or bucketized feature."
            )
        columns[f"slice:{key}"] = values
    return columns


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all ranks, in rank order, on every rank.

    Args:
        rows: This rank's, on the CPU.

    Shape:
        - input: (R of this rank, ...)
        - output: (R of all ranks, ...)
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows
    world_size = distributed.get_world_size()
    if world_size == 1:
        return rows
    device = torch.device("cuda") if distributed.get_backend() == "nccl" else rows.device
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world_size)]
    distributed.all_gather(sizes, torch.tensor([rows.shape[0]], device=device))
    counts = [int(size) for size in sizes]
    padded = torch.zeros(max(counts), *rows.shape[1:], dtype=rows.dtype, device=device)
    padded[: rows.shape[0]] = rows.to(device)
    found = [torch.empty_like(padded) for _ in range(world_size)]
    distributed.all_gather(found, padded)
    return torch.cat([part[:count] for part, count in zip(found, counts)]).cpu()
