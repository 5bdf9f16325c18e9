"""Compiled code of this package: found, checked, and run on several threads.

Every C source is built when the package is installed, where there is a C compiler. None is needed:
whoever calls one has a way without it, and says how much slower that is.

Stability: internal
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

WORTH_A_THREAD = 1 << 18
"""Values to read or write for which another thread is worth its start."""


def load(module: str, abi: int, logger: logging.Logger, otherwise: str) -> ctypes.CDLL | None:
    """A compiled library, or None with the reason logged.

    Args:
        module: Where it was built, say ``recsys.graph._spmm``.
        abi: What its ``recsys_abi()`` must return.
        logger: For the reason.
        otherwise: What is used in its place, and how much slower.
    """
    reason = None
    spec = importlib.util.find_spec(module)
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        reason = "this is not a 64-bit platform"
    elif spec is None or spec.origin is None:
        reason = f"{module} was not built (no C compiler at install?)"
    else:
        try:
            found = ctypes.CDLL(spec.origin)
            found.recsys_abi.restype = ctypes.c_int64
            got = found.recsys_abi()
            if got == abi:
                return found
            reason = f"{spec.origin} is of another version ({got}, expected {abi}); reinstall"
        except (OSError, AttributeError) as error:
            reason = f"{spec.origin} cannot be used: {error}"
    logger.warning("%s: %s", otherwise, reason)
    return None


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    """Address of the first value.

    Args:
        tensor: On the CPU.
    """
    return ctypes.c_void_p(tensor.data_ptr())


@functools.cache
def threads(count: int) -> ThreadPoolExecutor:
    """So many threads, kept.

    Args:
        count: At least 1.
    """
    return ThreadPoolExecutor(count, thread_name_prefix="recsys-native")


def spread(work: Callable[[Any], Any], parts: Sequence[Any]) -> None:
    """Each part on a thread of its own; the last on this one.

    Args:
        work: Called with a part. Parts must not write the same memory.
        parts: What there is to do.
    """
    waiting = [threads(len(parts) - 1).submit(work, part) for part in parts[:-1]]
    for part in parts[-1:]:
        work(part)
    for future in waiting:
        future.result()


def by_rows(work: Callable[[tuple[int, int]], Any], rows: int, values: int) -> None:
    """Splits rows over torch's threads, evenly, where there is enough to do.

    Args:
        work: Called with the first row of a part and the one behind its last.
        rows: In all.
        values: Read or written in all.
    """
    count = max(1, min(rows, torch.get_num_threads())) if values >= WORTH_A_THREAD else 1
    spread(work, [(rows * t // count, rows * (t + 1) // count) for t in range(count)])
