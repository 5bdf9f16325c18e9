"""One cell of a comparison: one scheme at one budget, all seeds, every dtype.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from recsys.embeddings.compression.plan import CompressionConfig
from recsys.embeddings.scheme import Dtype
from recsys.errors import TrainingError
from recsys.folders import write_json
from recsys.train.run import RunOptions, RunResult, run
from recsys.train.storage import remove
from recsys.tune.experiment_kinds import prepared_folder, workload_of
from recsys.tune.workload import Judged, Searched, monitored


@dataclasses.dataclass(frozen=True)
class Cell:
    """What to train.

    Args:
        label: Of the scheme.
        budget: Share of the full size; None for the scheme's own size.
        compression: For the model's config.
    """

    label: str
    budget: float | None
    compression: CompressionConfig


@dataclasses.dataclass(frozen=True)
class CellResult:
    """What a cell gave.

    Args:
        label: Of the scheme.
        budget: Asked for, None for the scheme's own size.
        full_bytes: Of the uncompressed fp32 tables.
        parameters: Numbers in tables, as papers count: no indices, no decoders.
        infer_bytes: Of the frozen tables with indices and decoders, by dtype.
        train_bytes: While training, optimizer states included.
        metrics: By dtype, split and metric one value a seed.
        refused: Why a dtype makes no sense here.
        rows_per_second: Training speed, mean of the seeds.
        train_seconds: Wall time of training, mean of the seeds.
        lookups_per_second: Rows looked up in all frozen tables a second, by dtype; empty where
            nothing is looked up when serving.
        metric: What is compared.
    """

    label: str
    budget: float | None
    full_bytes: int
    parameters: int
    infer_bytes: dict[str, int]
    train_bytes: int
    metrics: dict[str, dict[str, dict[str, list[float]]]]
    refused: dict[str, str]
    rows_per_second: float
    train_seconds: float
    lookups_per_second: dict[str, float]
    metric: str = "auc"

    def real_bytes(self, dtype: str) -> int:
        """Bytes of the frozen tables; of fp32 where the dtype was refused."""
        return self.infer_bytes.get(dtype, self.infer_bytes["fp32"])

    def ratio(self, dtype: str = "fp32") -> float:
        """Real bytes as a share of the full fp32 tables."""
        return self.real_bytes(dtype) / self.full_bytes

    @property
    def paper_ratio(self) -> float:
        """Numbers in tables as a share of the full tables' numbers, as papers report it."""
        return 4 * self.parameters / self.full_bytes

    def spread(self, dtype: str, split: str, metric: str) -> tuple[float, float]:
        """Mean and standard deviation (n - 1) over seeds."""
        values = self.metrics[dtype][split][metric]
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0

    @property
    def split(self) -> str:
        """What is compared on: ``test`` where there is one; of filters ``valid``.

        Their test split chooses nothing, and is shown beside.
        """
        return "test" if self.metric == "auc" and "test" in self.metrics["fp32"] else "valid"

    def line(self) -> str:
        """One line for the progress."""
        split = self.split
        mean, sd = self.spread("fp32", split, self.metric)
        return (
            f"{self.ratio():.4f} of the bytes, {split} {title_of(self.metric)} {mean:.5f} "
            f"+- {sd:.5f}, {self.rows_per_second:,.0f} rows/s"
        )

    @classmethod
    def load(cls, folder: Path, dtypes: Sequence[str]) -> CellResult | None:
        """What is in a cell's folder; None where it is not done in all these dtypes.

        Args:
            folder: Of the cell.
            dtypes: Asked for now.
        """
        path = folder / "cell.json"
        if not path.is_file():
            return None
        found = cls(**json.loads(path.read_text()))
        return found if set(dtypes) <= {*found.metrics, *found.refused} else None


def title_of(metric: str) -> str:
    """A metric as texts name it.

    Args:
        metric: Its name.
    """
    return "AUC" if metric == "auc" else metric


def train_cell(
    experiment: Searched,
    cell: Cell,
    folder: Path,
    cache_dir: Path,
    dtypes: Sequence[Dtype],
    threads: int,
) -> CellResult:
    """Trains all seeds of a cell and judges every dtype. Goes on where it was stopped.

    Args:
        experiment: With the cell's compression.
        cell: What it is.
        folder: Of the cell.
        cache_dir: Where data is fetched to and prepared.
        dtypes: How trained models are frozen.
        threads: Of torch.

    Raises:
        TrainingError: It was interrupted.
        RecsysError: Training failed.
    """
    torch.set_num_threads(threads)
    prepared = prepared_folder(experiment, cache_dir)
    workload = workload_of(experiment, cache_dir, prepared)
    experiment = workload.trained(experiment, threads, lean=False)
    again = (folder / "config.json").exists()
    result = run(experiment, folder, RunOptions(cache_dir, resume=again, show="none"))
    if result.interrupted:
        raise TrainingError(f"{folder} was interrupted; run the comparison again to go on.")
    judged = [
        workload.judge(seed.directory, experiment, ("fp32", *dtypes), "fp32")
        for seed in result.seeds
    ]
    found = _summary(cell, result, judged, monitored(experiment))
    write_json(folder / "cell.json", dataclasses.asdict(found))
    for seed in result.seeds:
        _tidy(seed.directory)
    return found


def _tidy(directory: Path) -> None:
    """Removes what only a resume needs: a hundred trained cells must not fill the disk."""
    for folder in (directory, *directory.glob("phase-*")):
        for name in ("checkpoints", "phases"):
            remove(folder / name)


def _summary(cell: Cell, result: RunResult, judged: Sequence[Judged], metric: str) -> CellResult:
    """All seeds of a cell as one result."""
    first = judged[0]
    metrics = {
        dtype: {
            split: {
                name: [one.metrics[dtype][split][name] for one in judged]
                for name in first.metrics[dtype][split]
            }
            for split in first.metrics[dtype]
        }
        for dtype in first.metrics
    }
    return CellResult(
        label=cell.label,
        budget=cell.budget,
        full_bytes=first.full_bytes,
        parameters=first.parameters,
        infer_bytes={
            dtype: round(statistics.fmean(one.infer_bytes[dtype] for one in judged))
            for dtype in first.infer_bytes
        },
        train_bytes=result.seeds[0].table_bytes["total"],
        metrics=metrics,
        refused=first.refused,
        rows_per_second=result.rows_per_second,
        train_seconds=statistics.fmean(seed.fit.seconds for seed in result.seeds),
        lookups_per_second={
            dtype: statistics.median(one.lookups[dtype] for one in judged)
            for dtype in first.lookups
        },
        metric=metric,
    )
