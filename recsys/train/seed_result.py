"""What one seed of a run gave, as it is kept in ``result.json``.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.base import RecModel
from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.evaluate.evaluation import without_nan
from recsys.fit_config import FitConfig
from recsys.folders import write_json
from recsys.train.optimizer import dense_parameters
from recsys.train.ranks import Ranks
from recsys.train.trainer import FitResult


@dataclasses.dataclass(frozen=True, slots=True)
class SeedResult:
    """What one seed gave.

    Args:
        seed: Of start values, order of rows and dropout.
        directory: Its folder.
        fit: How training ended.
        metrics: Final metrics by split, of the best checkpoint.
        table_bytes: ``tables``, ``optimizer``, ..., ``total`` over all ranks.
        num_parameters: ``dense`` and ``tables``.
        seconds: Wall time of ``train`` (without evaluation), ``fit`` and ``report``.
        backend: Of the tables.
        plan: Which rank holds which table, empty on the local backend.
        goal: How much training was asked for.
        phases: How trainings before the last one ended, for methods that train several times.
    """

    seed: int
    directory: Path
    fit: FitResult
    metrics: dict[str, dict[str, float]]
    table_bytes: dict[str, int]
    num_parameters: dict[str, int]
    seconds: dict[str, float]
    backend: str
    plan: str
    goal: dict[str, int | None]
    phases: dict[str, FitResult] = dataclasses.field(default_factory=dict)

    def save(self) -> None:
        """Writes ``result.json``, which makes the folder complete."""
        content = dataclasses.asdict(self)
        content["directory"] = "."
        content["rows_per_second"] = self.fit.rows_per_second
        write_json(self.directory / "result.json", without_nan(content))

    @classmethod
    def load(cls, directory: Path) -> SeedResult:
        """Reads what `save` wrote.

        Args:
            directory: Of a complete seed.
        """
        content = json.loads((directory / "result.json").read_text())
        del content["rows_per_second"]
        content["directory"] = directory
        content["metrics"] = {s: _with_nan(m) for s, m in content["metrics"].items()}
        content["fit"] = _fit(content["fit"])
        content["phases"] = {name: _fit(fit) for name, fit in content.get("phases", {}).items()}
        return cls(**content)


def _fit(content: Mapping[str, Any]) -> FitResult:
    return FitResult(**{**content, "best": _with_nan(content["best"])})


def goal_of(train: FitConfig) -> dict[str, int | None]:
    """How much training is asked for: what may grow between stop and resume.

    Args:
        train: Of an experiment.
    """
    return {
        "num_epochs": train.num_epochs,
        "max_steps": train.max_steps,
        "early_stop_patience": train.early_stop_patience,
    }


def _with_nan(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in values.items()}


def table_bytes(model: RecModel, tables: EmbeddingOptimizer | None, ranks: Ranks) -> dict[str, int]:
    """Bytes of tables and their optimizer on all ranks, by purpose.

    Args:
        model: Trained.
        tables: The optimizer, None for a model without tables.
        ranks: Of the job.
    """
    if tables is None:
        return {"total": 0}
    mine = model.embeddings.bytes("train", tables)
    parts = ranks.gather_objects({**dataclasses.asdict(mine), "total": mine.total})
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def num_parameters(model: RecModel) -> dict[str, int]:
    """Numbers in dense layers and in tables.

    Args:
        model: Any.
    """
    return {
        "dense": sum(parameter.numel() for parameter in dense_parameters(model).values()),
        "tables": model.embeddings.num_rows_parameters(),
    }
