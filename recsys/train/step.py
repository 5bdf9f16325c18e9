"""One training step: forward, loss, backward, average over ranks, clip, update, adapt.

Stability: internal
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.errors import ConfigError
from recsys.train.memory import keep_freed_memory
from recsys.train.optimizer import DenseOptimizer, dense_parameters
from recsys.train.ranks import GradientAverage, Ranks
from recsys.train.task import Task


class TrainStep:
    """Trains a model on one batch at a time.

    Args:
        task: Has the model, its loss and how it is trained.
        tables: The tables' optimizer, None for a model without.
        ranks: Of the job.

    Raises:
        ConfigError: The tables are frozen.
    """

    def __init__(
        self,
        task: Task,
        tables: EmbeddingOptimizer | None,
        ranks: Ranks,
    ) -> None:
        model, config = task.model, task.config
        if model.embeddings.dtype is not None:
            raise ConfigError(
                f"the model's tables are frozen in {model.embeddings.dtype} and cannot be trained. "
                "Train the model that was frozen."
            )
        self.task, self.model, self.config, self.tables, self.ranks = (
            task, model, config, tables, ranks
        )  # fmt: skip
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

    def __call__(self, batch: Any, factor: float) -> Tensor:
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

    def forward(self, batch: Any, factor: float) -> Tensor:
        """The loss of a batch, with its graph. What is to follow is ``backward``, then `update`.

        Args:
            batch: Where the model is.
            factor: What the learning rates are multiplied by.
        """
        self._set_factor(factor)
        self.dense.zero_grad()
        if self.tables is not None:
            self.tables.zero_grad()
        return self.task.loss(batch)

    def update(self) -> None:
        """After backward: average, clip, move the weights, let compressed tables adapt."""
        self._average()
        if self.config.clip_norm is not None and self._clipped:
            torch.nn.utils.clip_grad_norm_(self._clipped, self.config.clip_norm)
        self.dense.step()
        if self.tables is not None:
            self.tables.step()
        self.model.embeddings.after_step(self.tables)

    def train_architecture(self, batch: Any, learning_rate: float) -> Tensor:
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
            loss = self.task.loss(batch)
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

    def _set_factor(self, factor: float) -> None:
        """Before forward, because torchrec updates tables inside backward."""
        if factor == self._factor:
            return
        self._factor = factor
        self.dense.set_learning_rate(self.config.learning_rate * factor)
        if self.tables is not None:
            self.tables.set_learning_rate(self.tables.config.learning_rate * factor)
