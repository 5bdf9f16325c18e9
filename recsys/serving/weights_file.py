"""Writes safetensors files block by block, so that a file may be larger than memory.

Stability: internal
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_ALIGNED = 8


class Stored(Protocol):
    """A tensor that is read by slices, say `recsys.train.shards.StoredTensor`."""

    shape: torch.Size
    dtype: torch.dtype

    def __getitem__(self, index: slice) -> Tensor:
        """Some rows."""
        ...


def write_weights(
    path: Path, tensors: Mapping[str, Tensor | Stored], block_bytes: int = 1 << 26
) -> None:
    """Writes a file that every safetensors reader takes.

    Args:
        path: The file.
        tensors: By name; views and tensors that share memory are fine.
        block_bytes: How much is copied at a time.

    Raises:
        KeyError: A dtype that safetensors files do not know here.
    """
    # Wide numbers first, so that each tensor starts at a multiple of its item's size.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, object] = {}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + math.prod(tensor.shape) * tensor.dtype.itemsize
        shape = list(tensor.shape)
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            for block in _blocks(tensors[name], block_bytes):
                flat = block.detach().cpu().contiguous().reshape(-1)
                file.write(flat.view(torch.uint8).numpy().data)


def _blocks(tensor: Tensor | Stored, block_bytes: int) -> Iterator[Tensor]:
    """A tensor, some rows at a time."""
    if isinstance(tensor, Tensor) and not tensor.ndim:
        yield tensor
        return
    row_bytes = math.prod(tensor.shape[1:]) * tensor.dtype.itemsize
    rows = max(1, block_bytes // max(1, row_bytes))
    for start in range(0, tensor.shape[0] if row_bytes else 0, rows):
        yield tensor[start : min(start + rows, tensor.shape[0])]
