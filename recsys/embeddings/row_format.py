"""How rows of frozen tables lie in memory: FBGEMM's fused rows, without alignment.

    fp32    D floats                                        4 D bytes
    fp16    D halves                                        2 D
    int8    scale (fp16), bias (fp16), D codes of 8 bits    4 + D
    int4    scale, bias, D codes of 4 bits                  4 + D / 2
    int2    scale, bias, D codes of 2 bits                  4 + D / 4

A value is ``scale * code + bias``. Lower columns are in lower bits. These are the bytes that
FBGEMM's ``IntNBitTableBatchedEmbeddingBagsCodegen`` reads with ``row_alignment=1``.

Stability: internal
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from recsys.embeddings.scheme import Dtype, Grid
from recsys.errors import ConfigError, did_you_mean
from recsys.schema import PAD_INDEX

BITS: dict[Dtype, int] = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4, "int2": 2}
"""Of one value."""
_HEADER = 4
"""Bytes of scale and bias."""


def check_dtype(dtype: str) -> Dtype:
    """The same dtype, if it is one.

    Args:
        dtype: Say of an option.

    Raises:
        ConfigError: Frozen tables cannot be stored so.
    """
    for known in get_args(Dtype):
        if dtype == known:
            return known
    raise ConfigError(
        f"frozen tables are stored as {', '.join(BITS)}; got {dtype!r}. "
        f"{did_you_mean(str(dtype), BITS)}"
    )


def is_quantized(dtype: Dtype) -> bool:
    """Whether rows hold codes."""
    return BITS[dtype] <= 8


def row_bytes(dtype: Dtype, dim: int) -> int:
    """Bytes of one row.

    Args:
        dtype: How it is stored.
        dim: Its width.

    Raises:
        ConfigError: Codes of this width do not fill whole bytes.

    Example:
        >>> [row_bytes(dtype, 16) for dtype in ("fp32", "fp16", "int8", "int4", "int2")]
        [64, 32, 20, 12, 8]
    """
    bits = BITS[dtype] * dim
    if bits % 8:
        raise ConfigError(
            f"{dtype} rows need a width that is a multiple of {8 // BITS[dtype]}, got {dim}. "
            "Freeze in int8, which takes any width, or use another width."
        )
    return bits // 8 + (_HEADER if is_quantized(dtype) else 0)


def stored_dtype(dtype: Dtype, dim: int) -> Dtype:
    """How a table of some width is stored when a dtype is asked for.

    Scale and bias take 4 bytes a row, so very narrow rows would not get smaller than in fp16.
    They are stored in fp16, which is also more exact: up to width 4 for int8, 2 for int4 and int2.

    Args:
        dtype: Asked for.
        dim: Width of the table.

    Example:
        >>> stored_dtype("int8", 1), stored_dtype("int4", 4)
        ('fp16', 'int4')
    """
    if is_quantized(dtype) and _HEADER + -(-BITS[dtype] * dim // 8) >= 2 * dim:
        return "fp16"
    return dtype


def empty_rows(
    dtype: Dtype, rows: int, dim: int, device: torch.device | str | None = None
) -> Tensor:
    """Storage of a table: (rows, dim) floats, or (rows, bytes) uint8 where it is quantized."""
    width = row_bytes(dtype, dim)
    if is_quantized(dtype):
        return torch.empty(rows, width, dtype=torch.uint8, device=device)
    kind = torch.float16 if dtype == "fp16" else torch.float32
    return torch.empty(rows, dim, dtype=kind, device=device)


def quantize_rows(
    weight: Tensor,
    dtype: Dtype,
    scale: Tensor | float | None = None,
    bias: Tensor | float | None = None,
) -> Tensor:
    """Rows as they are stored.

    Without a scale, every row gets the scale and bias of its own smallest and largest value, both
    rounded outwards to fp16, and every value goes to the nearest code. So the error of a value is
    at most half the scale, and a row of equal values comes out as exact as fp16 is.

    Args:
        weight: Rows.
        dtype: How to store them.
        scale: Distance of the values that rows take, for int8, int4 and int2: one, or one a row
            (R,). Codes of values ``scale * k`` come out exact; the values too, if fp16 holds
            scale and bias exactly.
        bias: Smallest value, likewise. None: ``-scale * 2 ** (bits - 1)``, so that ``k`` is a
            signed integer.

    Returns:
        As `empty_rows` makes them.

    Shape:
        - weight: (R, D)

    Raises:
        ConfigError: A value is not finite, or too large for fp16; the width does not fit.

    Example:
        >>> row = torch.tensor([[0.0, 0.5, 1.0, 1.5]])
        >>> quantize_rows(row, "int2").tolist()  # 0.5 and 0 in fp16, then 0b11_10_01_00
        [[0, 56, 0, 0, 228]]
    """
    row_bytes(dtype, weight.shape[1])
    weight = weight.detach()
    if not is_quantized(dtype):
        if scale is not None:
            raise ConfigError(f"`scale` is for int8, int4 and int2, not for {dtype}.")
        found = weight.to(torch.float16 if dtype == "fp16" else torch.float32)
        _check_finite(found, dtype)
        return found
    weight, levels = weight.float(), 2 ** BITS[dtype] - 1
    step, least, header = _headers(weight, levels, scale, bias)
    _check_finite(header, dtype)
    codes = ((weight - least) / step).round_().clamp_(0, levels).to(torch.uint8)
    return torch.cat([header.view(torch.uint8), _packed(codes, BITS[dtype])], dim=1)


def _headers(
    weight: Tensor, levels: int, scale: Tensor | float | None, bias: Tensor | float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """What codes are computed with: scale (R, 1) and bias (R, 1); and both in fp16, (R, 2)."""
    if scale is None:
        least = _half_down(weight.amin(1))
        step = _half_up((weight.amax(1) - least.float()) / levels)
        step = torch.where(step == 0, torch.ones_like(step), step)
        return step.float()[:, None], least.float()[:, None], torch.stack([step, least], dim=1)
    step, middle = _of_rows(scale, weight), (levels + 1) // 2
    half = step.to(torch.float16)
    if not bool((half > 0).all()):
        raise ConfigError(
            f"`scale` must be above 0 in fp16 (at least 6e-8), got {step.min().item():.3g}."
        )
    if bias is None:
        least, half_least = -middle * step, (-middle * half.float()).to(torch.float16)
    else:
        least = _of_rows(bias, weight)
        half_least = least.to(torch.float16)
    return step[:, None], least[:, None], torch.stack([half, half_least], dim=1)


def dequantize_rows(rows: Tensor, dtype: Dtype) -> Tensor:
    """Stored rows as floats, with operations that can be exported.

    Args:
        rows: As `empty_rows` makes them.
        dtype: How they are stored.

    Returns:
        (R, D) float32.
    """
    if not is_quantized(dtype):
        return rows.float()
    # Not a view of the bytes as fp16: rows of odd size are not aligned.
    header = rows[:, 0:_HEADER:2].int() | (rows[:, 1:_HEADER:2].int() << 8)
    header = header.to(torch.int16).view(torch.float16).float()
    codes = rows[:, _HEADER:]
    bits = BITS[dtype]
    if bits < 8:
        mask = 2**bits - 1
        parts = [(codes >> shift) & mask for shift in range(0, 8, bits)]
        codes = torch.stack(parts, dim=2).flatten(1)
    return codes.float() * header[:, :1] + header[:, 1:]


def write_rows(
    target: Tensor, weight: Tensor, dtype: Dtype, grid: Grid | None = None, chunk: int = 1 << 16
) -> None:
    """Quantizes a whole table into its storage, some rows at a time. Its PAD row becomes zero.

    Args:
        target: Storage of the table.
        weight: (R, D), any device.
        dtype: How it is stored.
        grid: Values that its rows take, see `quantize_rows`.
        chunk: Rows held in between.
    """
    for start in range(0, target.shape[0], chunk):
        end = min(start + chunk, target.shape[0])
        grids = (None, None)
        if grid is not None and is_quantized(dtype):
            grids = (grid.scale, grid.bias)
        scale, bias = (_slice(values, start, end) for values in grids)
        target[start:end].copy_(quantize_rows(weight[start:end], dtype, scale, bias))
    target[PAD_INDEX].zero_()


def _slice(values: Tensor | None, start: int, end: int) -> Tensor | None:
    return values[start:end] if values is not None and values.ndim else values


def _of_rows(values: Tensor | float, weight: Tensor) -> Tensor:
    """Scale or bias of every row, from one or from (R,)."""
    return torch.as_tensor(values).detach().to(weight).expand(weight.shape[0])


def _packed(codes: Tensor, bits: int) -> Tensor:
    """(R, D) codes to (R, D * bits / 8) bytes, the first code in the lowest bits."""
    if bits == 8:
        return codes
    parts = codes.view(codes.shape[0], -1, 8 // bits)
    packed = parts[:, :, 0].clone()
    for position in range(1, 8 // bits):
        packed |= parts[:, :, position] << (bits * position)
    return packed


def _half_down(values: Tensor) -> Tensor:
    """The largest fp16 not above each value."""
    half = values.to(torch.float16)
    bits = half.view(torch.int16)
    below_zero = torch.full_like(bits, -0x7FFF)  # the negative number next to zero
    down = torch.where(half > 0, bits - 1, torch.where(half == 0, below_zero, bits + 1))
    return torch.where(half.float() > values, down, bits).view(torch.float16)


def _half_up(values: Tensor) -> Tensor:
    """The smallest fp16 not below each value."""
    return -_half_down(-values)


def _check_finite(values: Tensor, dtype: Dtype) -> None:
    if not bool(values.isfinite().all()):
        raise ConfigError(
            f"the table cannot be stored as {dtype}: a value is NaN, infinite, or above the "
            "largest fp16 (65504). Freeze in fp32, or find out why training made such a value."
        )
