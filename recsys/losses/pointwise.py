"""Losses of one prediction and its label.

Stability: caller
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of every row: ``-y ln p - (1 - y) ln(1 - p)``, ``p = sigmoid(logit)``.

    Computed from the logits, so it is exact where ``p`` rounds to 0 or 1. Rows with several tasks
    get the mean over their tasks.

    Args:
        logits: Scores before the sigmoid.
        labels: 0 or 1 (or a probability).

    Shape:
        - logits, labels: (B, T)
        - output: (B,)

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> binary_cross_entropy(torch.tensor([[0.0], [100.0]]), torch.tensor([[1.0], [1.0]]))
        tensor([0.6931, 0.0000])
    """
    if logits.shape != labels.shape:
        raise ValueError(
            f"logits and labels must have one shape (B, T), got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}. Does the batch hold the labels of this schema?"
        )
    # softplus(x) - y * x is the same number as the textbook formula, in two operations.
    losses = functional.softplus(logits) - labels * logits
    return losses.squeeze(1) if losses.shape[1] == 1 else losses.mean(dim=1)


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over rows, each counted by its weight; rows of weight 0 do not count.

    Args:
        losses: Loss of every row.
        weights: Weight of every row, None for all 1.

    Shape:
        - losses, weights: (B,)
        - output: scalar

    Example:
        >>> weighted_mean(torch.tensor([1.0, 4.0, 9.0]), torch.tensor([1.0, 1.0, 0.0]))
        tensor(2.5000)
        >>> weighted_mean(torch.tensor([1.0]), torch.tensor([0.0]))
        tensor(0.)
    """
    if weights is None:
        return losses.mean()
    # A batch of padding only has weight 0 and loss 0, not NaN.
    total = weights.sum()
    return (losses * weights).sum() / torch.where(total > 0, total, torch.ones_like(total))
