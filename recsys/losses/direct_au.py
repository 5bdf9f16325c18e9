"""Alignment and uniformity on the unit sphere: no negatives at all.

Stability: caller
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of pairs that belong together, after scaling to length 1.

    Args:
        first: Say of users.
        second: Of their items.

    Raises:
        ValueError: The shapes differ.

    Shape:
        - first, second: (B, D)
        - output: scalar, from 0 to 4

    Example:
        >>> alignment(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor(2.)
    """
    if first.dim() != 2 or first.shape != second.shape:
        raise ValueError(
            f"expected pairs of vectors (B, D), got {tuple(first.shape)} and {tuple(second.shape)}."
        )
    first, second = functional.normalize(first, dim=1), functional.normalize(second, dim=1)
    return (first - second).square().sum(1).mean()


def uniformity(vectors: Tensor) -> Tensor:
    """``ln mean_{i != j} exp(-2 |x_i - x_j|^2)`` after scaling to length 1: low where spread out.

    From ``|x - y|^2 = 2 - 2 cos``, so one matrix product; no distance, whose gradient is not
    defined at 0. A single row has nobody to be far from: 0.

    Args:
        vectors: Of one kind of node; the same one twice counts as a pair at distance 0.

    Shape:
        - vectors: (B, D)
        - output: scalar, from -8 to 0

    Example:
        >>> uniformity(torch.tensor([[1.0, 0.0], [-5.0, 0.0]]))
        tensor(-8.)
    """
    count = len(vectors)
    vectors = functional.normalize(vectors, dim=1)
    if count < 2:
        return vectors.sum() * 0.0
    itself = torch.eye(count, dtype=torch.bool, device=vectors.device)
    exponents = (4 * (vectors @ vectors.T) - 4).masked_fill(itself, -torch.inf)
    return exponents.flatten().logsumexp(0) - math.log(count * (count - 1))


def direct_au(users: Tensor, items: Tensor, gamma: float) -> Tensor:
    """``alignment(users, items) + gamma (uniformity(users) + uniformity(items)) / 2``.

    Args:
        users: Of every training pair of the batch.
        items: Of every training pair of the batch.
        gamma: Weight of uniformity.

    Raises:
        ValueError: The shapes differ.

    Shape:
        - users, items: (B, D)
        - output: scalar

    Source:
        Wang et al., "Towards Representation Alignment and Uniformity in Collaborative Filtering",
        KDD 2022; the uniformity of Wang and Isola, ICML 2020, with t = 2.

    Example:
        >>> direct_au(torch.eye(2), torch.eye(2), gamma=0.5)
        tensor(-2.)
    """
    return alignment(users, items) + gamma * (uniformity(users) + uniformity(items)) / 2
