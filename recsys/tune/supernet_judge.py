"""Validation AUC of a trained supernet at given widths: tables are looked up once, then masked.

Stability: internal
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from recsys.base import CTRModel
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepared import Prepared
from recsys.errors import DataError
from recsys.folders import write_text
from recsys.metrics.auc import auc
from recsys.types import Batch, KeyedEmbeddings

_GROUP = "embedding"  # the one whose widths can be chosen


def some_rows(
    prepared: Prepared, max_rows: int, batch_size: int, seed: int, device: str
) -> list[Batch]:
    """Validation rows to judge on: all of them, or whole batches of some at random.

    Args:
        prepared: The data.
        max_rows: At most so many.
        batch_size: Of a batch at most.
        seed: Of the choice.
        device: Where they are wanted.
    """
    size, total = min(batch_size, max_rows), prepared.split_rows["valid"]
    config = LoaderConfig(batch_size=size, shuffle=total > max_rows, seed=seed, prefetch=0)
    found: list[Batch] = []
    for batch in BatchLoader(prepared, "valid", config):
        if (len(found) * size) + batch.batch_size > max_rows:
            break
        found.append(batch.to(device))
    return found


class SupernetJudge:
    """Judges widths in a trained supernet.

    Nothing is looked up twice: masking columns commutes with pooling.

    Args:
        model: Trained, in evaluation, with all columns.
        batches: To judge on, where the model is.
        precision: ``bf16`` runs matrix products in bfloat16.
    """

    def __init__(
        self,
        model: CTRModel,
        batches: Sequence[Batch],
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        self._model, self._batches, self._precision = model, batches, precision
        with torch.no_grad():
            given = [model.embeddings(batch) for batch in batches]
        self._given = _Given({id(batch): found for batch, found in zip(batches, given)})
        one = given[0][_GROUP]
        tables = {feature.name: feature.table_name for feature in model.schema.keyed}
        self._columns = [(tables[key], dim) for key, dim in zip(one.keys, one.dims)]
        self._labels = torch.cat([batch.labels for batch in batches]).cpu().numpy()
        weights = [batch.weights for batch in batches if batch.weights is not None]
        self._weights = torch.cat(weights).cpu().numpy() if weights else None
        self.count, self.seconds = 0, 0.0
        """Candidates judged, and the time that took."""

    def auc(self, widths: Mapping[str, int]) -> float:
        """Mean over tasks that have both labels.

        Args:
            widths: By table; the others have all of their columns.

        Raises:
            DataError: There is no pair to rank, or a prediction is NaN.
        """
        start = time.perf_counter()
        masks = [torch.arange(dim) < widths.get(table, dim) for table, dim in self._columns]
        self._given.mask = torch.cat(masks).float().to(self._batches[0].dense.device)
        scores = self._logits().double().sigmoid().cpu().numpy()
        found = [
            auc(self._labels[:, task], scores[:, task], self._weights)
            for task in range(scores.shape[1])
        ]
        known = [value for value in found if not math.isnan(value)]
        if not known:
            raise DataError(
                f"supernet: all {len(scores):,} validation rows to judge on have the same label, "
                "so there is nothing to rank. Raise `max_rows`."
            )
        self.count, self.seconds = self.count + 1, self.seconds + time.perf_counter() - start
        return statistics.fmean(known)

    def _logits(self) -> Tensor:
        device = self._batches[0].dense.device.type
        bf16 = torch.autocast(device, torch.bfloat16, enabled=self._precision == "bf16")
        with torch.no_grad(), bf16, self._replaced():
            return torch.cat([self._model(batch).float() for batch in self._batches])

    @contextlib.contextmanager
    def _replaced(self) -> Iterator[None]:
        tables = self._model.embeddings
        modules = self._model._modules
        modules["embeddings"] = self._given
        try:
            yield
        finally:
            modules["embeddings"] = tables


class _Given(nn.Module):
    """Stands in for a collection on known batches: what it gave, times a mask of columns."""

    def __init__(self, given: dict[int, dict[str, KeyedEmbeddings]]) -> None:
        super().__init__()
        self._given = given
        self.mask = torch.ones(())

    def forward(self, batch: Batch) -> dict[str, KeyedEmbeddings]:
        found = self._given[id(batch)]
        vectors = found[_GROUP]
        return {**found, _GROUP: dataclasses.replace(vectors, values=vectors.values * self.mask)}


class JudgedFile:
    """Scores by widths on disk, one line each; what is there is not judged again.

    Args:
        path: The file, made by the first score. A last line that was cut short does not count.
        judge: Judges widths by table.
    """

    def __init__(self, path: Path, judge: Callable[[Mapping[str, int]], float]) -> None:
        self._path, self._judge = path, judge
        self._known: dict[tuple[tuple[str, int], ...], float] = {}
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):
            write_text(path, "".join(whole))
        for line in whole:
            one = json.loads(line)
            self._known[tuple(sorted(one["widths"].items()))] = one["auc"]

    def __call__(self, widths: Mapping[str, int]) -> float:
        """The score of a candidate.

        Args:
            widths: By table.
        """
        key = tuple(sorted(widths.items()))
        if key not in self._known:
            self._known[key] = self._judge(widths)
            with self._path.open("a") as file:
                file.write(json.dumps({"widths": dict(widths), "auc": self._known[key]}) + "\n")
        return self._known[key]
