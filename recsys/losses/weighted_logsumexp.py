"""Logarithms of sums of exponentials of very many products, without holding them.

Stability: internal
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ENTRIES_AT_ONCE = 1 << 21


def weighted_logsumexp(
    left: Tensor, right: Tensor, weights: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """``sum_b w_b ln sum_m exp(left_b . right_m)``, a few rows at a time.

    The gradient is computed along with the value, while a block is at hand: three products in all,
    and no memory of B x M. It cannot be differentiated twice.

    Args:
        left: One row each.
        right: What the sums run over.
        weights: Of the rows; no gradient flows to them.
        dtype: Of the products and exponentials, None for that of ``left``. With bfloat16 every
            product and every entry of the gradient is rounded to 8 bits; sums over m are not.

    Shape:
        - left: (B, D)
        - right: (M, D)
        - weights: (B,)
        - output: scalar

    Example:
        >>> rows = torch.tensor([[0.0], [1.0]])
        >>> weighted_logsumexp(rows, torch.zeros(3, 1), torch.tensor([1.0, 2.0]))  # 3 ln 3
        tensor(3.2958)
    """
    return _WeightedLogSumExp.apply(left, right, weights, dtype or left.dtype)  # type: ignore[return-value]


class _WeightedLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, left: Tensor, right: Tensor, weights: Tensor, dtype: torch.dtype
    ) -> Tensor:
        needed = ctx.needs_input_grad
        left_grad = torch.empty_like(left) if needed[0] else None
        right_grad = torch.zeros_like(right) if needed[1] else None
        total = left.new_zeros(())
        rounded_left, rounded_right = left.to(dtype), right.to(dtype)
        rows = max(1, _ENTRIES_AT_ONCE // max(1, len(right)))
        for start in range(0, len(left), rows):
            block = slice(start, start + rows)
            shares = rounded_left[block] @ rounded_right.T
            most = shares.amax(1, keepdim=True)
            sums = shares.sub_(most).exp_().sum(1, dtype=left.dtype)
            weight = weights[block]
            total += (weight * (most[:, 0] + sums.log())).sum()
            shares *= (weight / sums)[:, None].to(dtype)
            if left_grad is not None:
                left_grad[block] = shares @ rounded_right
            if right_grad is not None:
                right_grad += shares.T @ rounded_left[block]
        ctx.save_for_backward(left_grad, right_grad)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # type: ignore[override]
        left_grad, right_grad = ctx.saved_tensors
        return (
            None if left_grad is None else left_grad * grads[0],
            None if right_grad is None else right_grad * grads[0],
            None,
            None,
        )
