"""Start values of tables as a pure function of (seed, group, table, row, column).

No generator state: any shard of any table can be made alone, in any order, and is the same on
every backend.

Stability: internal
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.schema import PAD_INDEX, Init

_CHUNK = 1 << 16  # values at a time: stays in the cache, and memory is flat
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _stream(seed: int, group: str, table: str) -> np.uint64:
    text = f"{seed}\0{group}\0{table}".encode()
    return np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele et al., OOPSLA 2014, Figure 16), in place."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(31)
    return x


def _values(init: Init, bits: NDArray[np.uint64]) -> NDArray[np.float32]:
    high = (bits >> np.uint64(40)).astype(np.float32)
    high += np.float32(0.5)
    high *= np.float32(2.0**-24)  # in (0, 1), never 0
    if init.kind == "uniform":
        return (high - np.float32(0.5)) * np.float32(init.std * math.sqrt(12.0))
    angle = (bits & np.uint64(0xFFFFFF)).astype(np.float32)
    angle *= np.float32(2.0 * math.pi * 2.0**-24)
    return np.sqrt(-2.0 * np.log(high)) * np.cos(angle) * np.float32(init.std)


def fill(weight: Tensor, init: Init, seed: int, name: tuple[str, str], first_row: int = 0) -> None:
    """Writes start values into a table or into a range of its rows. The PAD row becomes zero.

    Args:
        weight: The rows to fill, in place.
        init: Distribution and standard deviation.
        seed: Of the run.
        name: Group and table.
        first_row: Which row of the table the first row of ``weight`` is.

    Shape:
        - weight: (rows, D)

    Example:
        >>> whole, part = torch.empty(4, 2), torch.empty(2, 2)
        >>> fill(whole, Init(std=1.0), 7, ("g", "t"))
        >>> fill(part, Init(std=1.0), 7, ("g", "t"), first_row=2)
        >>> torch.equal(whole[2:], part), whole[0].tolist()
        (True, [0.0, 0.0])
    """
    rows, dim = weight.shape
    with torch.no_grad():
        if init.kind == "zeros" or init.std == 0 or weight.is_meta:
            weight.zero_()
            return
        start, step = _stream(seed, *name), max(1, _CHUNK // dim)
        for begin in range(0, rows, step):
            end = min(rows, begin + step)
            counter = np.arange(
                (first_row + begin) * dim + 1, (first_row + end) * dim + 1, dtype=np.uint64
            )
            counter *= _GOLDEN
            counter += start
            values = _values(init, _splitmix64(counter)).reshape(end - begin, dim)
            weight[begin:end] = torch.from_numpy(values)
        if first_row <= PAD_INDEX < first_row + rows:
            weight[PAD_INDEX - first_row].zero_()
