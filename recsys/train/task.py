"""What the kinds of models do differently in training: their loss, and how they are judged.

Stability: internal
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

from torch import Tensor

from recsys.base import RecModel
from recsys.fit_config import FitConfig


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """What an evaluation in training found, the same on every rank.

    Args:
        values: Metrics of the validation split.
        shown: Names of those that are worth a line.
        problem: What looks wrong with the model; training ends if it does twice in a row.
    """

    values: dict[str, float]
    shown: tuple[str, ...]
    problem: str = ""


class Task(abc.ABC):
    """Trains one kind of model.

    Args:
        model: On its device.
        config: How it is trained.
    """

    def __init__(self, model: RecModel, config: FitConfig) -> None:
        self.model, self.config = model, config

    @abc.abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """The loss of all ranks' batches, a scalar with gradient; its gradients are averaged.

        Args:
            batch: This rank's, where the model is.
        """

    @abc.abstractmethod
    def judge(self, valid: Any, step: int, factor: float) -> Judgement:
        """Judges the model on the validation split; it is in the same mode afterwards.

        Args:
            valid: As given to `Trainer.fit`.
            step: Batches trained.
            factor: What learning rates were last multiplied by.

        Raises:
            RecsysError: Predictions are not finite, or the monitored metric cannot be computed.
        """

    @abc.abstractmethod
    def higher_is_better(self) -> bool:
        """Of the monitored metric."""

    @property
    @abc.abstractmethod
    def monitor(self) -> str:
        """The metric that picks the best checkpoint."""

    @abc.abstractmethod
    def blame(self, place: str) -> str:
        """The error text for a loss or prediction that is not finite.

        Args:
            place: What was found where.
        """

    def begin_epoch(self, epoch: int) -> None:  # noqa: B027, mostly every epoch is alike
        """Hears that an epoch begins, or that training goes on within one.

        Args:
            epoch: From 0.
        """

    def watch(self, batch: Any) -> None:  # noqa: B027, mostly there is nothing to see
        """Sees every batch that was trained on.

        Args:
            batch: Where the model is.
        """

    def forget(self) -> None:  # noqa: B027, see watch
        """Forgets what `watch` saw."""
