"""What is searched around: an experiment of one kind on its data.

Everything else in `recsys.tune` is the same for all kinds of models.

Stability: internal
"""

from __future__ import annotations

import abc
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from recsys.base import RecModel
from recsys.cf_config import CFExperiment
from recsys.config import Experiment
from recsys.embeddings.scheme import Dtype, Scheme
from recsys.errors import ConfigError
from recsys.types import Batch

Searched = Experiment | CFExperiment
"""An experiment that can be searched around."""
_LOOKUPS = 20  # repetitions


@dataclasses.dataclass(frozen=True)
class Judged:
    """One trained model as it would be served.

    Args:
        full_bytes: Of the uncompressed fp32 tables.
        parameters: Numbers in tables, as papers count: no indices, no decoders.
        infer_bytes: Of the frozen tables with indices and decoders, by dtype; empty without tables.
        metrics: By dtype and split.
        refused: Why a dtype makes no sense here.
        lookups: Rows looked up in all frozen tables a second, by dtype; empty where nothing is
            looked up when serving.
    """

    full_bytes: int
    parameters: int
    infer_bytes: dict[str, int]
    metrics: dict[str, dict[str, dict[str, float]]]
    refused: dict[str, str]
    lookups: dict[str, float]


class Workload(abc.ABC):
    """The data of an experiment, and how its models are planned, trained and judged."""

    @property
    def has_tables(self) -> bool:
        """Whether the models have embedding tables, whose bytes can be counted and stored."""
        return True

    @abc.abstractmethod
    def plan(self, experiment: Any) -> RecModel:
        """The model on meta, with its tables planned; of the rest only what costs bytes in them.

        Args:
            experiment: Of this kind, on this data.

        Raises:
            BudgetInfeasible: Its compression cannot be reached.
            ConfigError: Its settings contradict each other or the data.
        """

    def lookup_us(self, experiment: Any, dtype: Dtype) -> float:
        """Microseconds to look up a row, measured on untrained tables in their served form.

        Args:
            experiment: To be trained.
            dtype: How its tables will be stored.

        Raises:
            ConfigError: Nothing is looked up when such models are served.
        """
        raise ConfigError(f"{experiment.model.class_path} looks nothing up when it is served.")

    def refused(self, schemes: Mapping[str, Scheme]) -> str:
        """Why such models cannot be trained with these schemes; empty if they can.

        Args:
            schemes: Planned, by table.
        """
        del schemes
        return ""

    @abc.abstractmethod
    def trained(self, experiment: Any, threads: int, lean: bool) -> Any:
        """The experiment as it is trained here: without intervals, which nobody asks for.

        Args:
            experiment: To train.
            threads: Of torch.
            lean: Without anything else that only a report of its own would show.
        """

    @abc.abstractmethod
    def judge(
        self,
        folder: Path,
        experiment: Any,
        dtypes: Sequence[Dtype],
        precision: Literal["fp32", "bf16"] | None = None,
    ) -> Judged:
        """Freezes a trained model in every dtype that makes sense, and judges each.

        Args:
            folder: Of the run.
            experiment: What it was.
            dtypes: How rows are stored.
            precision: Of dense layers; by default that of training.
        """


def monitored(experiment: Searched) -> str:
    """The metric by which models are compared: that of the lists which is monitored, or AUC.

    Args:
        experiment: Of the models.
    """
    return experiment.train.monitor if isinstance(experiment, CFExperiment) else "auc"


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
