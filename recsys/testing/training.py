"""A few training steps, for tests of models and of embedding backends.

Stability: testing
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from recsys.base import CTRModel
from recsys.embeddings.optimizer import EmbeddingOptimizer, EmbeddingOptimizerConfig
from recsys.losses.pointwise import weighted_mean
from recsys.types import Batch


def train_steps(
    model: CTRModel,
    batches: Iterable[Batch],
    tables: EmbeddingOptimizerConfig | EmbeddingOptimizer,
    dense: torch.optim.Optimizer | None = None,
) -> list[float]:
    """One step a batch on the weighted mean loss plus the auxiliary loss.

    Args:
        model: Trained in place.
        batches: What to train on.
        tables: How the tables are trained, or the optimizer that does it.
        dense: Optimizer of all other parameters; by default Adam with a step size of 0.01.

    Returns:
        The loss of every batch, before its step.

    Example:
        >>> from recsys.models.ctr.lr import LR
        >>> from recsys.testing.data import random_batch, tiny_schema
        >>> model = LR(LR.Config(), tiny_schema())
        >>> batches = [random_batch(model.schema)] * 5
        >>> losses = train_steps(model, batches, EmbeddingOptimizerConfig())
        >>> losses[-1] < losses[0]
        True
    """
    dense = dense or torch.optim.Adam(dense_parameters(model), lr=0.01)
    if isinstance(tables, EmbeddingOptimizerConfig):
        owner = model.embeddings.attach_optimizer(tables) if model.embeddings.groups else None
    else:
        owner = tables
    losses = []
    for batch in batches:
        dense.zero_grad()
        if owner is not None:
            owner.zero_grad()
        rows = model.loss(model(batch), batch)
        loss = weighted_mean(rows, batch.weights) + model.auxiliary_loss()
        loss.backward()
        dense.step()
        if owner is not None:
            owner.step()
        losses.append(loss.item())
    return losses


def dense_parameters(model: CTRModel) -> list[torch.nn.Parameter]:
    """All parameters that the embedding optimizer does not own.

    Args:
        model: Any CTR model.
    """
    tables = {id(parameter) for parameter in model.embeddings.table_parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in tables]
