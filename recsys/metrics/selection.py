"""The compiled choice of the largest scores, through ctypes.

``recsys/metrics/selection.c`` is built when the package is installed, where there is a C compiler.
Without it torch gives the same lists, slower.

Stability: internal
"""

from __future__ import annotations

import ctypes
import functools
import logging

import torch
from torch import Tensor

from recsys import native
from recsys.native import pointer

logger = logging.getLogger(__name__)

_ABI = 1
_SPARE = 128  # 2 * AT_ONCE of selection.c


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled code, or None (the reason is logged once)."""
    otherwise = "lists are chosen by torch, several times slower"
    found = native.load("recsys.metrics._selection", _ABI, logger, otherwise)
    if found is not None:
        found.recsys_select.restype = None
    return found


def fit(scores: Tensor) -> bool:
    """Whether the compiled code can work on these.

    Args:
        scores: A matrix.
    """
    plain = scores.device.type == "cpu" and scores.dtype == torch.float32
    near = scores.stride(1) == 1 and scores.shape[1] < 1 << 31
    return plain and near and not scores.requires_grad and library() is not None


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """See `recsys.metrics.top_items.top_items`.

    Args:
        scores: That `fit`.
        k: Length of the lists, from 1 to the columns.
    """
    found = library()
    assert found is not None
    rows, size = scores.shape
    values, places = scores.new_empty((rows, k)), torch.empty((rows, k), dtype=torch.int64)

    def work(part: tuple[int, int]) -> None:
        keys = torch.empty(2 * k + _SPARE, dtype=torch.int64)
        numbers = map(ctypes.c_int64, (scores.stride(0), size, k, *part))
        found.recsys_select(
            pointer(scores), *numbers, pointer(keys), pointer(values), pointer(places)
        )

    native.by_rows(work, rows, rows * size)
    return values, places
