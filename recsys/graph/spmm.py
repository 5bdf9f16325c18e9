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
import importlib.util
import itertools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_ABI = 2
_WORTH_A_THREAD = 1 << 18  # floats gathered


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None (the reason is logged once)."""
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        return _without("this is not a 64-bit platform")
    spec = importlib.util.find_spec("recsys.graph._spmm")
    if spec is None or spec.origin is None:
        return _without("recsys.graph._spmm was not built (no C compiler at install?)")
    try:
        found = ctypes.CDLL(spec.origin)
        found.recsys_spmm_abi.restype = ctypes.c_int64
        abi = found.recsys_spmm_abi()
    except (OSError, AttributeError) as error:
        return _without(f"{spec.origin} cannot be used: {error}")
    if abi != _ABI:
        return _without(f"{spec.origin} is of another version ({abi}, expected {_ABI}); reinstall")
    for name in ("recsys_spmm", "recsys_edge_dots", "recsys_perturb", "recsys_drop"):
        getattr(found, name).restype = None
    return found


def _without(reason: str) -> None:
    logger.warning("propagation uses torch's sparse product, about 4x slower: %s", reason)


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
        found.recsys_spmm(part, _pointer(x), _pointer(out), ctypes.c_int64(dim))

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
            part, _pointer(left), _pointer(right), _pointer(out), ctypes.c_int64(dim)
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
    threads = torch.get_num_threads() if x.numel() >= _WORTH_A_THREAD else 1

    def work(part: tuple[int, int]) -> None:
        first, last = map(ctypes.c_int64, part)
        kernel(_pointer(x), _pointer(out), first, last, ctypes.c_int64(dim), *options)

    _spread(work, [(rows * t // threads, rows * (t + 1) // threads) for t in range(threads)])
    return out


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _run(
    work: Callable[[ctypes.Array[ctypes.c_int64]], None],
    indptr: Tensor, col: Tensor, values: Tensor, dim: int,
) -> None:  # fmt: skip
    """Calls ``work`` with the struct ``part_t`` of every thread's rows."""
    rows = len(indptr) - 1
    threads = torch.get_num_threads() if len(col) * dim >= _WORTH_A_THREAD else 1
    bounds = [0, rows]
    if threads > 1:
        marks = [len(col) * t // threads for t in range(1, threads)]
        bounds[1:1] = np.searchsorted(indptr.numpy(), marks).tolist()
    struct = ctypes.c_int64 * 5
    addresses = (indptr.data_ptr(), col.data_ptr(), values.data_ptr())
    parts = [struct(*addresses, *pair) for pair in itertools.pairwise(bounds) if pair[0] < pair[1]]
    _spread(work, parts)


@functools.cache
def _threads(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="recsys-graph")


def _spread(work: Callable[[Any], None], parts: list[Any]) -> None:
    """Each part on a thread of its own; the last on this one."""
    waiting = [_threads(len(parts) - 1).submit(work, part) for part in parts[:-1]]
    for part in parts[-1:]:
        work(part)
    for future in waiting:
        future.result()
