"""Training a model that predicts clicks: weighted cross entropy, judged by AUC and its like.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from recsys.base import CTRModel
from recsys.config import TrainConfig
from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.errors import ConfigError, DataError, TrainingError
from recsys.evaluate.predictions import collect
from recsys.evaluate.summary import flat_metrics
from recsys.train.diagnosis import InputRange, constant_problem, loss_problem
from recsys.train.ranks import Ranks, WeightSum
from recsys.train.task import Judgement, Task
from recsys.types import Batch

_HIGHER = ("auc", "grouped_auc", "pr_auc")


class ClickTask(Task):
    """Trains a `CTRModel`.

    The loss is ``sum_i w_i l_i / W`` plus the model's auxiliary loss, W the sum of row weights
    over all ranks: batches of any size and padding give what one process would get on all rows.
    Each rank multiplies by the number of ranks, because gradients are then averaged (torchrec
    does so for tables itself).

    Args:
        model: Gives logits, a loss a row and an auxiliary loss.
        config: Precision, monitored metric, learning rate.
        tables: The tables' optimizer, for error texts.
        ranks: Of the job.
        lists: Gives metrics of the lists for validation users, where one of them is monitored.
    """

    model: CTRModel
    config: TrainConfig

    def __init__(
        self,
        model: CTRModel,
        config: TrainConfig,
        tables: EmbeddingOptimizer | None,
        ranks: Ranks,
        lists: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        super().__init__(model, config)
        self._ranks, self._lists = ranks, lists
        self._tables = None if tables is None else tables.config
        first = next(model.parameters(), None)
        self._device = torch.device("cpu") if first is None else first.device
        self._inputs = InputRange(model.schema)
        self._labels = torch.zeros(0, model.schema.num_tasks)

    def loss(self, batch: Batch) -> Tensor:
        """See `Task`."""
        total = WeightSum(batch.weights, batch.batch_size, self._ranks, self._device)
        bf16 = self.config.precision == "bf16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=bf16):
            logits = self.model(batch)
        rows = self.model.loss(logits.float(), batch)
        weighted = rows if batch.weights is None else rows * batch.weights
        loss = weighted.sum() * (self._ranks.world_size / total.value())
        return loss + self.model.auxiliary_loss()

    def watch(self, batch: Batch) -> None:
        """See `Task`."""
        self._inputs.add(batch)
        self._labels = batch.labels

    def forget(self) -> None:
        """See `Task`."""
        self._inputs.forget()

    def blame(self, place: str) -> str:
        """See `Task`."""
        return loss_problem(place, self._inputs.problem(), self.config, self._tables)

    @property
    def monitor(self) -> str:
        """See `Task`."""
        return self.config.monitor

    def higher_is_better(self) -> bool:
        """See `Task`."""
        return self.monitor in _HIGHER or "@" in self.monitor

    def judge(self, valid: Iterable[Batch], step: int, factor: float) -> Judgement:
        """See `Task`."""
        config = self.config
        found = collect(self.model, valid, self.model.schema, precision=config.precision)
        if not np.isfinite(found.logits).all():
            place = f"a prediction that is NaN or infinite at step {step:,}"
            raise TrainingError(self.blame(place))
        values, shown = flat_metrics(found.reports()), ("auc", "logloss")
        if self._lists is not None:
            values, shown = {**values, **self._lists()}, (config.monitor, "auc")
        if config.monitor not in values:
            if "@" in config.monitor:
                raise ConfigError(
                    f"train.monitor={config.monitor} judges lists of two towers, and none are made "
                    "here. Monitor auc."
                )
            raise DataError(
                f"train.monitor={config.monitor} needs a group column, but the schema names none. "
                "Set `group` in the schema, or monitor auc."
            )
        problem = ""
        if step:
            problem = constant_problem(found, self._labels, self._inputs, config, factor)
        return Judgement(values, shown, problem)
