"""The compiled product of a sparse matrix with rows, through ctypes.

``recsys/graph/spmm.c`` is built when the package is installed, where there is a C compiler.
Without it torch's sparse product gives the same results, several times slower. Rows are split
over torch's threads by their edges; every row is summed by one thread in the order of its edges,
so results do not depend on the number of threads.

Stability: internal
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys import native
from recsys.native import pointer

logger = logging.getLogger(__name__)

_ABI = 3


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None (the reason is logged once)."""
    otherwise = "propagation uses torch's sparse product, about 4x slower"
    found = native.load("recsys.graph._spmm", _ABI, logger, otherwise)
    if found is not None:
        for name in ("recsys_spmm", "recsys_edge_dots", "recsys_perturb", "recsys_drop"):
            getattr(found, name).restype = None
    return found


def fit(*tensors: Tensor) -> bool:
    """Whether the kernels can work on these: CPU float32."""
    cpu = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
    return cpu and library() is not None


def product(indptr: Tensor, col: Tensor, values: Tensor, x: Tensor) -> Tensor:
    """Sums of ``values * x[col]`` over the edges of every row.

    Args:
        indptr: Where the edges of every row begin, (R + 1,) int64.
        col: Of every edge, (E,) int32.
        values: Of every edge, (E,) float32.
        x: (C, D) float32.

    Returns:
        (R, D).
    """
    found = library()
    assert found is not None
    x, col, values = x.contiguous(), col.contiguous(), values.contiguous()
    dim = x.shape[1]
    out = torch.empty(len(indptr) - 1, dim)

    def work(part: ctypes.Array[ctypes.c_int64]) -> None:
        found.recsys_spmm(part, pointer(x), pointer(out), ctypes.c_int64(dim))

    _run(work, indptr, col, values, dim)
    return out


def edge_dots(indptr: Tensor, col: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Dot products ``left[row] . right[col]`` of every edge.

    Args:
        indptr: Where the edges of every row begin, (R + 1,) int64.
        col: Of every edge, (E,) int32.
        left: (R, D) float32.
        right: (C, D) float32.

    Returns:
        (E,).
    """
    found = library()
    assert found is not None
    left, right, col = left.contiguous(), right.contiguous(), col.contiguous()
    dim = right.shape[1]
    out = torch.empty(len(col))

    def work(part: ctypes.Array[ctypes.c_int64]) -> None:
        found.recsys_edge_dots(
            part, pointer(left), pointer(right), pointer(out), ctypes.c_int64(dim)
        )

    _run(work, indptr, col, out, dim)
    return out


def perturbed(x: Tensor, key: int, size: float) -> Tensor:
    """See `recsys.graph.perturbation.perturb`.

    Args:
        x: (R, D) float32.
        key: Of the noise, from 0 to 2^63 - 1.
        size: Length of the noise of every row.
    """
    found = library()
    assert found is not None
    return _by_rows(found.recsys_perturb, x, ctypes.c_uint64(key), ctypes.c_float(size))


def dropped(x: Tensor, key: int, least: int, scale: float) -> Tensor:
    """See `recsys.graph.perturbation.drop_messages`.

    Args:
        x: (R, D) float32.
        key: Of the draws, from 0 to 2^63 - 1.
        least: Numbers of 24 bits below this drop an entry.
        scale: Of the others.
    """
    found = library()
    assert found is not None
    return _by_rows(
        found.recsys_drop, x, ctypes.c_uint64(key), ctypes.c_uint32(least), ctypes.c_float(scale)
    )


def _by_rows(kernel: Callable[..., None], x: Tensor, *options: Any) -> Tensor:
    """What a kernel writes that takes rows one by one."""
    x = x.contiguous()
    rows, dim = x.shape
    out = torch.empty_like(x)

    def work(part: tuple[int, int]) -> None:
        first, last = map(ctypes.c_int64, part)
        kernel(pointer(x), pointer(out), first, last, ctypes.c_int64(dim), *options)

    native.by_rows(work, rows, x.numel())
    return out


def _run(
    work: Callable[[ctypes.Array[ctypes.c_int64]], None],
    indptr: Tensor, col: Tensor, values: Tensor, dim: int,
) -> None:  # fmt: skip
    """Calls ``work`` with the struct ``part_t`` of every thread's rows."""
    rows = len(indptr) - 1
    threads = torch.get_num_threads() if len(col) * dim >= native.WORTH_A_THREAD else 1
    bounds = [0, rows]
    if threads > 1:
        marks = [len(col) * t // threads for t in range(1, threads)]
        bounds[1:1] = np.searchsorted(indptr.numpy(), marks).tolist()
    struct = ctypes.c_int64 * 5
    addresses = (indptr.data_ptr(), col.data_ptr(), values.data_ptr())
    parts = [struct(*addresses, *pair) for pair in itertools.pairwise(bounds) if pair[0] < pair[1]]
    native.spread(work, parts)
