"""Products of a sparse operator with rows, and softmax over its rows, with their gradients.

Stability: internal
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recsys.graph import spmm
from recsys.graph.pattern import Pattern

if TYPE_CHECKING:
    from recsys.graph.propagation import Adjacency

_EDGES_AT_ONCE = 1 << 18  # of the plain computation of edge gradients


class Product(torch.autograd.Function):
    """``A x``: the gradient of x is the product with the transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, adj: Adjacency) -> Tensor:
        """The product; x is kept only where the values need a gradient."""
        ctx.adj = adj
        if values.requires_grad:
            ctx.save_for_backward(x, values)
        pattern = adj.pattern
        return _multiply(pattern.indptr, pattern.col, values, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # type: ignore[override]
        """Of x, and of the values."""
        grad, adj = grads[0], ctx.adj
        grad_x = _times_transpose(adj, grad) if ctx.needs_input_grad[0] else None
        grad_values = None
        if ctx.needs_input_grad[1]:
            x, values = ctx.saved_tensors
            grad_values = _edge_dots(adj.pattern, grad, x.detach()).to(values.dtype)
        return grad_x, grad_values, None


class Polynomial(torch.autograd.Function):
    """A sum of powers of A: the gradient is that sum of powers of the transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, adj: Adjacency, num_layers: int, combine: str) -> Tensor:
        """The sum, the mean or the last power; nothing is kept."""
        ctx.options = adj, num_layers, combine
        pattern, values = adj.pattern, adj.values
        return _powers(
            lambda h: _multiply(pattern.indptr, pattern.col, values, h), x, num_layers, combine
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # type: ignore[override]
        """Of x."""
        adj, num_layers, combine = ctx.options
        found = _powers(lambda h: _times_transpose(adj, h), grads[0], num_layers, combine)
        return found, None, None, None


def _powers(
    multiply: Callable[[Tensor], Tensor], x: Tensor, num_layers: int, combine: str
) -> Tensor:
    total, h = x.clone(), x
    for _ in range(num_layers):
        h = multiply(h)
        if combine == "last":
            total = h
        else:
            total.add_(h)
    return total.div_(num_layers + 1) if combine == "mean" else total


def _times_transpose(adj: Adjacency, grad: Tensor) -> Tensor:
    pattern = adj.pattern
    values = adj.values.detach() if adj.symmetric else adj.transposed_values
    return _multiply(pattern.transposed_indptr, pattern.transposed_col, values, grad)


def _multiply(indptr: Tensor, col: Tensor, values: Tensor, x: Tensor) -> Tensor:
    """The product without gradient."""
    if x.dtype in (torch.float16, torch.bfloat16):
        return _multiply(indptr, col, values, x.float()).to(x.dtype)
    values = values.to(x.dtype)
    if spmm.fit(values, x):
        return spmm.product(indptr, col, values, x)
    if len(col) < 2**31:
        indptr = indptr.int()
    else:
        col = col.long()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        shape = (len(indptr) - 1, len(x))
        matrix = torch.sparse_csr_tensor(indptr, col, values, shape, check_invariants=False)
        return matrix @ x.contiguous()


def _edge_dots(pattern: Pattern, left: Tensor, right: Tensor) -> Tensor:
    """Dot products of the rows at the two ends of every edge."""
    if spmm.fit(left, right):
        return spmm.edge_dots(pattern.indptr, pattern.col, left, right)
    out = left.new_empty(pattern.num_edges)
    parts = zip(*(t.split(_EDGES_AT_ONCE) for t in (pattern.row, pattern.col, out)))
    for row, col, part in parts:
        torch.sum(left.index_select(0, row) * right.index_select(0, col), 1, out=part)
    return out


class RowSoftmax(torch.autograd.Function):
    """Softmax over the edges of every row."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, pattern: Pattern) -> Tensor:
        """Shares that add up to 1 in every row."""
        row = pattern.row
        most = torch.segment_reduce(scores, "max", offsets=pattern.indptr, axis=0)
        most.masked_fill_(most == -torch.inf, 0)  # all scores of a row are -inf: zeros, no NaN
        raised = (scores - most.index_select(0, row)).exp()
        total = torch.segment_reduce(raised, "sum", offsets=pattern.indptr, axis=0)
        out = raised / total.clamp_min_(torch.finfo(total.dtype).tiny).index_select(0, row)
        ctx.pattern = pattern
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # type: ignore[override]
        """Of the scores."""
        (out,), pattern = ctx.saved_tensors, ctx.pattern
        shares = grads[0] * out
        total = torch.segment_reduce(shares, "sum", offsets=pattern.indptr, axis=0)
        return shares - out * total.index_select(0, pattern.row), None
