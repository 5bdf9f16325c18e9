"""Names the likely cause when training goes wrong.

Stability: internal
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.config import TrainConfig
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.evaluate.predictions import Predictions
from recsys.fit_config import FitConfig
from recsys.schema import Schema
from recsys.types import Batch

LARGE = 1e3
"""A numeric input above this is taken for unscaled."""


class TrainingWarning(UserWarning):
    """Training goes on, but the result is probably not what is wanted."""


class InputRange:
    """The largest absolute value of every dense column since the last look, at hardly any cost.

    Args:
        schema: Names the columns.
    """

    def __init__(self, schema: Schema) -> None:
        self._names = [feature.name for feature in schema.numeric]
        for vector in schema.vectors:
            self._names += [vector.name] * vector.dim
        self._largest: Tensor | None = None

    def add(self, batch: Batch) -> None:
        """Takes a batch into account; nothing waits for the device.

        Args:
            batch: Trained on.
        """
        if not self._names or not batch.batch_size:
            return
        highest = batch.dense.abs().amax(0)  # nan where a value is nan
        if self._largest is None:
            self._largest = highest
        else:
            torch.maximum(self._largest, highest, out=self._largest)

    def forget(self) -> None:
        """Starts anew."""
        self._largest = None

    def problem(self) -> str:
        """A sentence that names the column to blame, empty if none looks wrong."""
        if self._largest is None:
            return ""
        largest = self._largest.cpu()
        bad = ~torch.isfinite(largest)
        if bad.any():
            name = self._names[int(bad.int().argmax())]
            return f"Feature `{name}` holds NaN or infinity; check how it is prepared."
        highest, column = largest.max(0)
        if float(highest) <= LARGE:
            return ""
        return (
            f"Numeric feature `{self._names[int(column)]}` is not scaled (it reaches "
            f"{float(highest):.3g}); set `scale: standardize` or `log: true` for it."
        )


def loss_problem(
    place: str, cause: str, config: FitConfig, embedding: EmbeddingOptimizerConfig | None
) -> str:
    """The error text for a loss or prediction that is not finite.

    Args:
        place: What was found where.
        cause: What is known to be wrong with the inputs, or nothing.
        config: Learning rate and clipping.
        embedding: Of the tables, None without tables.
    """
    if not cause:
        rates = f"train.learning_rate={config.learning_rate:g}"
        if embedding is not None:
            rates += f", embedding.learning_rate={embedding.learning_rate:g}"
        clip = "" if config.clip_norm else " or set train.clip_norm=1"
        cause = f"Most likely a learning rate is too high ({rates}): lower it tenfold{clip}."
        if getattr(config, "precision", "fp32") == "bf16":
            cause += " If that does not help, try train.precision=fp32."
    return f"expected finite numbers, got {place}. {cause}"


def constant_problem(
    found: Predictions, labels: Tensor, inputs: InputRange, config: TrainConfig, factor: float
) -> str:
    """The text for predictions that are all equal.

    Args:
        found: Of the validation split.
        labels: Of the last training batch, (B, T).
        inputs: Of the batches since the last look.
        config: Learning rate.
        factor: What the schedule currently multiplies learning rates by.

    Returns:
        The text, empty if the predictions differ or there are too few to tell.
    """
    if found.logits.shape[0] < 2:
        return ""
    spread = found.logits.max(0) - found.logits.min(0)
    constant = [task for task, width in zip(found.tasks, spread) if not width > 1e-6]
    if not constant:
        return ""
    column = found.tasks.index(constant[0])
    value = found.probabilities[0, column]
    text = f"the model predicts the same {value:.4g} for every row of `{constant[0]}`."
    cause = _constant_labels(labels[:, column]) or inputs.problem()
    if not cause and config.learning_rate * factor < 1e-7:
        cause = f"The learning rate is {config.learning_rate * factor:.1g}: raise it."
    return f"{text} " + (
        cause
        or f"Most likely train.learning_rate={config.learning_rate:g} is too high and all hidden "
        "units died: lower it tenfold."
    )


def _constant_labels(labels: Tensor) -> str:
    if not labels.numel() or not bool((labels == labels[0]).all()):
        return ""
    return (
        f"All labels of the last training batch are {float(labels[0]):g}: check the label "
        "column, its threshold, and that the file is not sorted by label."
    )
