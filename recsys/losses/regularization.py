"""Regularization of the rows that a batch uses.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def l2_regularization(rows: Sequence[Tensor], batch_size: int) -> Tensor:
    """``1/2 sum |row|^2 / B`` over all given rows: those of users, positives, negatives.

    Unlike weight decay it reaches the rows of the batch only, and a row as often as it is used.
    LightGCN and its kin pass rows of the tables, NGCF the propagated vectors.

    Args:
        rows: Tensors whose last dimension is the width.
        batch_size: B; negatives do not count.

    Raises:
        ValueError: There are no rows, or ``batch_size`` is below 1.

    Shape:
        - rows: (..., D) each
        - output: scalar

    Source:
        He et al., "LightGCN", SIGIR 2020, equation 15, as its code computes it.

    Example:
        >>> l2_regularization([torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 1.0]])], 1)
        tensor(13.5000)
    """
    if not rows or batch_size < 1:
        raise ValueError(
            "expected tensors of rows and a batch size of at least 1, got "
            f"{len(rows)} tensors and {batch_size}."
        )
    return 0.5 * torch.stack([part.square().sum() for part in rows]).sum() / batch_size
