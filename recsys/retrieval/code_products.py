"""Inner products of queries with vectors in short form, compiled where that was built.

``recsys/retrieval/code_products.c`` is built when the package is installed, where there is a C
compiler. Without it torch gives the same products up to rounding, several times slower. A compiled
product does not depend on the number of threads.

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
_LANES = 8
_NARROW = 16  # bytes of a code up to which looking products up is quicker than unpacking (measured)
_FEW = 8  # queries; for more a matrix product of what is unpacked is quicker (measured, 64 values)
_PAIR_FLOATS = 1 << 22
_HALVES = torch.stack([torch.arange(256) & 15, torch.arange(256) >> 4]).float()


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled code, or None (the reason is logged once)."""
    otherwise = "indexes are looked through by torch, several times slower"
    found = native.load("recsys.retrieval._code_products", _ABI, logger, otherwise)
    if found is not None:
        for name in ("recsys_level_products", "recsys_table_sums", "recsys_pair_dots"):
            getattr(found, name).restype = None
    return found


def few(queries: int) -> bool:
    """Whether compiled code is quicker than a matrix product of unpacked codes.

    Args:
        queries: Number of them.
    """
    return queries < _FEW and library() is not None


def level_products(weights: Tensor, bias: Tensor, codes: Tensor, bits: int) -> Tensor:
    """``bias + weights . levels`` with levels of 8 or 4 bits.

    Args:
        weights: Of every query, one a level.
        bias: Of every query.
        codes: A byte a level; of 4 bits the first half of the levels in the low halves of bytes,
            the others in the high ones.
        bits: 8 or 4.

    Raises:
        ValueError: Codes are not bytes, or not of the weights' number.

    Shape:
        - weights: (B, D)
        - bias: (B,)
        - codes: (n, D) or, of 4 bits, (n, ceil(D / 2)) uint8
        - output: (B, n)

    Example:
        >>> codes = torch.tensor([[0x21, 0x03], [0x00, 0x0F]], dtype=torch.uint8)
        >>> level_products(torch.tensor([[1.0, 10.0, 100.0]]), torch.tensor([0.5]), codes, 4)
        tensor([[231.5000, 150.5000]])
    """
    dims = weights.shape[1]
    _check(codes, dims if bits == 8 else (dims + 1) // 2)
    if not few(len(weights)):
        return torch.addmm(bias[:, None], weights, unpacked(codes, bits, dims).T)
    found, (rows, width) = library(), codes.shape
    out = weights.new_empty((len(weights), rows))
    assert found is not None
    halves, padded = int(bits == 4), -(-width // _LANES) * _LANES
    filled = weights.new_zeros((len(weights), 1 + halves, padded))
    filled[:, 0, :width] = weights[:, :width]
    if halves:
        filled[:, 1, : dims - width] = weights[:, width:]
    if halves and width <= _NARROW:
        tables = filled[:, :, :width, None] * _HALVES[:, None]
        return table_sums(tables.sum(1), codes).add_(bias[:, None])
    bias, codes = bias.contiguous(), codes.contiguous()
    shape = tuple(map(ctypes.c_int64, (rows, len(weights), halves)))

    def work(part: tuple[int, int]) -> None:
        found.recsys_level_products(
            pointer(filled), pointer(bias), pointer(codes), ctypes.c_int64(width), pointer(out),
            *shape, *map(ctypes.c_int64, part),
        )  # fmt: skip

    native.by_rows(work, rows, out.numel() * width)
    return out


def _check(codes: Tensor, width: int) -> None:
    """Compiled code reads what it is told is there."""
    if codes.dtype != torch.uint8 or codes.shape[1] != width:
        raise ValueError(
            f"codes: expected {width} bytes a row, got {codes.shape[1]} of {codes.dtype}. Were "
            "they made by other codes?"
        )


def unpacked(codes: Tensor, bits: int, dims: int) -> Tensor:
    """Levels as floats, (n, dims).

    Args:
        codes: As in `level_products`.
        bits: 8 or 4.
        dims: Levels of a row.
    """
    if bits == 8:
        return codes.float()
    both = codes.new_empty((len(codes), 2 * codes.shape[1]), dtype=torch.float32)
    both[:, : codes.shape[1]] = codes & 15
    both[:, codes.shape[1] :] = codes >> 4
    return both[:, :dims]


def table_sums(tables: Tensor, codes: Tensor) -> Tensor:
    """The sum of what the bytes of every code stand for, for `few` queries.

    Args:
        tables: Of every query, what the 256 bytes stand for at every place.
        codes: Bytes.

    Raises:
        ValueError: Codes are not bytes, or not as many as tables.

    Shape:
        - tables: (B, W, 256)
        - codes: (n, W) uint8
        - output: (B, n)

    Example:
        >>> tables = torch.stack([torch.arange(256.0), 1000 * torch.arange(256.0)])[None]
        >>> table_sums(tables, torch.tensor([[7, 2], [255, 0]], dtype=torch.uint8))
        tensor([[2007.,  255.]])
    """
    _check(codes, tables.shape[1])
    found, (rows, width) = library(), codes.shape
    out = tables.new_empty((len(tables), rows))
    assert found is not None
    tables = tables.contiguous()
    if codes.stride(1) != 1:
        codes = codes.contiguous()
    shape = tuple(map(ctypes.c_int64, (rows, len(tables))))
    strides = tuple(map(ctypes.c_int64, (codes.stride(0), width)))

    def work(part: tuple[int, int]) -> None:
        found.recsys_table_sums(
            pointer(tables), pointer(codes), *strides, pointer(out), *shape,
            *map(ctypes.c_int64, part),
        )  # fmt: skip

    native.by_rows(work, rows, out.numel() * width)
    return out


def pair_dots(queries: Tensor, query: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    """Inner products of pairs, summed in float64 and rounded to float32.

    Args:
        queries: Float vectors.
        query: Number of the query of every pair.
        table: Float vectors; may be mapped from a file.
        rows: Of every pair, in ``table``.

    Shape:
        - queries: (B, D) float32
        - table: (N, D) float32
        - query, rows: (P,) int64
        - output: (P,)

    Example:
        >>> table = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> pair_dots(table, torch.tensor([0, 1]), table, torch.tensor([1, 1]))
        tensor([11., 25.])
    """
    found, dim = library(), queries.shape[1]
    out = queries.new_empty(len(rows))
    if found is None:
        wide, step = queries.double(), max(1, _PAIR_FLOATS // dim)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            out[part] = table[rows[part]].double().mul_(wide[query[part]]).sum(1).float()
        return out
    queries, query, rows = queries.contiguous(), query.contiguous(), rows.contiguous()
    table = table.contiguous()

    def work(part: tuple[int, int]) -> None:
        found.recsys_pair_dots(
            pointer(queries), pointer(query), pointer(table), pointer(rows), ctypes.c_int64(dim),
            pointer(out), *map(ctypes.c_int64, part),
        )  # fmt: skip

    native.by_rows(work, len(rows), len(rows) * dim)
    return out
