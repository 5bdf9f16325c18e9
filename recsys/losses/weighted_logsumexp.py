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
    left: Tensor,
    right: Tensor,
    weights: Tensor,
    dtype: torch.dtype | None = None,
    *,
    own: Tensor | None = None,
    hidden: Tensor | None = None,
) -> Tensor:
    """``sum_b w_b ln (exp own_b + sum_m exp(left_b . right_m))``, a few rows at a time.

    The gradient is computed along with the value, while a block is at hand: three products in all,
    and no memory of B x M. It cannot be differentiated twice.

    Args:
        left: One row each.
        right: What the sums run over.
        weights: Of the rows; no gradient flows to them.
        dtype: Of the products and exponentials, None for that of ``left``. With bfloat16 every
            product and every entry of the gradient is rounded to 8 bits; sums over m, and ``own``,
            are not.
        own: One more exponent of every row, or None.
        hidden: Pairs ``(b, m)`` that are left out, in any order, also repeated ones. A row of which
            nothing is left has no logarithm: give ``own``.

    Shape:
        - left: (B, D)
        - right: (M, D)
        - weights, own: (B,)
        - hidden: (2, number of them) int64
        - output: scalar

    Example:
        >>> rows = torch.tensor([[0.0], [1.0]])
        >>> weighted_logsumexp(rows, torch.zeros(3, 1), torch.tensor([1.0, 2.0]))  # 3 ln 3
        tensor(3.2958)
    """
    if hidden is not None:
        hidden = hidden[:, hidden[0].argsort(stable=True)]
    found = _WeightedLogSumExp.apply(left, right, weights, dtype or left.dtype, own, hidden)
    return found  # type: ignore[return-value]


class _WeightedLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        left: Tensor,
        right: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
        own: Tensor | None,
        hidden: Tensor | None,
    ) -> Tensor:
        needed = ctx.needs_input_grad
        left_grad = torch.empty_like(left) if needed[0] else None
        right_grad = torch.zeros_like(right) if needed[1] else None
        own_grad = None if own is None else torch.empty_like(own)
        total = left.new_zeros(())
        rounded_left, rounded_right = left.to(dtype), right.to(dtype)
        rows = max(1, _ENTRIES_AT_ONCE // max(1, len(right)))
        starts = range(0, len(left), rows)
        ends = _ends(hidden, [*starts, len(left)])
        for number, start in enumerate(starts):
            block = slice(start, start + rows)
            shares = rounded_left[block] @ rounded_right.T
            if hidden is not None:
                row, column = hidden[:, ends[number] : ends[number + 1]]
                shares[row - start, column] = -torch.inf
            most = shares.amax(1, keepdim=True)
            if own is not None:  # rounded like the shares, as it is subtracted from them
                most = torch.maximum(most, own[block, None].to(dtype))
            sums = shares.sub_(most).exp_().sum(1, dtype=left.dtype)
            weight = weights[block]
            if own is not None:
                alone = (own[block] - most[:, 0]).exp()
                sums = sums + alone
                own_grad[block] = weight * alone / sums  # type: ignore[index]
            total += (weight * (most[:, 0] + sums.log())).sum()
            shares *= (weight / sums)[:, None].to(dtype)
            if left_grad is not None:
                left_grad[block] = shares @ rounded_right
            if right_grad is not None:
                right_grad += shares.T @ rounded_left[block]
        ctx.save_for_backward(left_grad, right_grad, own_grad)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # type: ignore[override]
        left, right, own = (None if grad is None else grad * grads[0] for grad in ctx.saved_tensors)
        return left, right, None, None, own, None


def _ends(hidden: Tensor | None, starts: list[int]) -> list[int]:
    """Where the hidden pairs of every block of rows begin, and where the last ones end."""
    if hidden is None:
        return []
    return torch.searchsorted(hidden[0].contiguous(), hidden.new_tensor(starts)).tolist()
