"""One training step: forward, weighted loss, backward, average over ranks, clip, update, adapt.

Stability: internal
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.base import CTRModel
from recsys.config import TrainConfig
from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.errors import ConfigError
from recsys.train.memory import keep_freed_memory
from recsys.train.optimizer import DenseOptimizer, dense_parameters
from recsys.train.ranks import GradientAverage, Ranks, WeightSum
from recsys.types import Batch


class TrainStep:
    """Trains a model on one batch at a time.

    The loss is ``sum_i w_i l_i / W`` plus the model's auxiliary loss, W the sum of row weights
    over all ranks: batches of any size and padding give what one process would get on all rows.
    Each rank multiplies by the number of ranks, because gradients are then averaged (torchrec
    does so for tables itself).

    Args:
        model: Gives logits, a loss a row and an auxiliary loss.
        config: Learning rate, clipping, precision.
        tables: The tables' optimizer, None for a model without.
        ranks: Of the job.

    Raises:
        ConfigError: The tables are frozen.
    """

    def __init__(
        self,
        model: CTRModel,
        config: TrainConfig,
        tables: EmbeddingOptimizer | None,
        ranks: Ranks,
    ) -> None:
        if model.embeddings.dtype is not None:
            raise ConfigError(
                f"the model's tables are frozen in {model.embeddings.dtype} and cannot be trained. "
                "Train the model that was frozen."
            )
        self.model, self.config, self.tables, self.ranks = model, config, tables, ranks
        parameters = dense_parameters(model)
        self.dense = DenseOptimizer(parameters, config)
        first = next(model.parameters(), None)
        self.device = torch.device("cpu") if first is None else first.device
        if self.device.type == "cpu":
            keep_freed_memory()
        self._average = GradientAverage(list(parameters.values()), ranks)
        self._clipped = list(parameters.values())
        if tables is not None and tables.config.mode == "dense":
            self._clipped += model.embeddings.table_parameters()
        self._factor = 1.0
        self.architecture = model.embeddings.architecture_parameters()
        """What `train_architecture` trains, mostly nothing."""
        self._average_architecture = GradientAverage(self.architecture, ranks)
        ranks.same_start([*parameters.values(), *self.architecture, *model.buffers()])

    def __call__(self, batch: Batch, factor: float) -> Tensor:
        """Trains on a batch.

        Args:
            batch: Where the model is.
            factor: What the learning rates are multiplied by.

        Returns:
            The loss, a scalar without gradient.
        """
        loss = self.forward(batch, factor)
        loss.backward()
        self.update()
        return loss.detach()

    def forward(self, batch: Batch, factor: float) -> Tensor:
        """The loss of a batch, with its graph. What is to follow is ``backward``, then `update`.

        Args:
            batch: Where the model is.
            factor: What the learning rates are multiplied by.
        """
        self._set_factor(factor)
        self.dense.zero_grad()
        if self.tables is not None:
            self.tables.zero_grad()
        return self._loss(batch)

    def update(self) -> None:
        """After backward: average, clip, move the weights, let compressed tables adapt."""
        self._average()
        if self.config.clip_norm is not None and self._clipped:
            torch.nn.utils.clip_grad_norm_(self._clipped, self.config.clip_norm)
        self.dense.step()
        if self.tables is not None:
            self.tables.step()
        self.model.embeddings.after_step(self.tables)

    def train_architecture(self, batch: Batch, learning_rate: float) -> Tensor:
        """Trains what decides the structure of the tables, by plain SGD, and nothing else.

        Args:
            batch: Where the model is; nothing else is trained on it.
            learning_rate: Step size.

        Returns:
            The loss, a scalar without gradient.
        """
        for parameter in self.architecture:
            parameter.grad = None
        self.model.embeddings.trains_tables = False
        try:
            loss = self._loss(batch)
            loss.backward()
        finally:
            self.model.embeddings.trains_tables = True
        self._average_architecture()
        with torch.no_grad():
            for parameter in self.architecture:
                if parameter.grad is not None:
                    parameter.sub_(learning_rate * parameter.grad)
                parameter.grad = None
        return loss.detach()

    def _loss(self, batch: Batch) -> Tensor:
        """The loss of all ranks' batches; gradients of it are averaged."""
        total = WeightSum(batch.weights, batch.batch_size, self.ranks, self.device)
        bf16 = self.config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            logits = self.model(batch)
        rows = self.model.loss(logits.float(), batch)
        weighted = rows if batch.weights is None else rows * batch.weights
        loss = weighted.sum() * (self.ranks.world_size / total.value())
        return loss + self.model.auxiliary_loss()

    def _set_factor(self, factor: float) -> None:
        """Before forward, because torchrec updates tables inside backward."""
        if factor == self._factor:
            return
        self._factor = factor
        self.dense.set_learning_rate(self.config.learning_rate * factor)
        if self.tables is not None:
            self.tables.set_learning_rate(self.tables.config.learning_rate * factor)
