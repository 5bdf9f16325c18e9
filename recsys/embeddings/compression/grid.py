"""Rows on a grid, packed in 2, 4, 8 or 16 bits a number: how quantized training is served.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recsys.embeddings.compression.budget import check_fixed, planned_bytes
from recsys.embeddings.scheme import Decoder, Dtype, Encoder, Part, Scheme
from recsys.errors import ConfigError
from recsys.schema import Frozen, TableSpec

Bits = Literal[0, 2, 4, 8, 16]
StepKind = Literal["fp32", "bf16", "exponent"]
_STEP_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "exponent": torch.int8}
_DTYPE_BITS = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4, "int2": 2}
_CHUNK = 1 << 16  # rows at a time; a multiple of 8, so that packed chunks end with whole bytes


class Block(Frozen):
    """Indices in a row that are stored alike. Index order is frequency order."""

    bits: Bits
    """Of one number. 0: the vectors are zero and nothing is stored."""
    rows: int | None = Field(default=None, ge=0)
    """How many indices; None for all that are left. PAD belongs to no block."""


def block_rows(blocks: Sequence[Block], table: TableSpec) -> list[int]:
    """Indices in every block.

    Args:
        blocks: From index 1 on.
        table: Logical.

    Raises:
        ConfigError: They are not as many as the table has.
    """
    left, counts = table.num_embeddings - 1, []
    for block in blocks:
        counts.append(left if block.rows is None else block.rows)
        left -= counts[-1]
    if left:
        raise ConfigError(
            f"table `{table.name}`: blocks have {sum(counts)} indices, expected "
            f"{table.num_embeddings - 1} (all but PAD). Plan again."
        )
    return counts


def packed_bytes(rows: int, dim: int, bits: int) -> int:
    """Bytes of a block of rows, rows packed one after the other without gaps.

    Args:
        rows: How many.
        dim: Width.
        bits: Of a number.
    """
    return (rows * dim * bits + 7) // 8


def exponent_steps(exponents: Tensor) -> Tensor:
    """``2 ** exponent`` exactly, float32.

    Args:
        exponents: int8, at least -126.
    """
    return ((exponents.to(torch.int32) + 127) << 23).view(torch.float32)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Signed codes as bytes, the first in the lowest bits.

    Args:
        codes: Integers in ``[-2^(bits-1), 2^(bits-1) - 1]``, any shape.
        bits: 2, 4, 8 or 16.

    Returns:
        uint8, one dimension.

    Example:
        >>> pack(torch.tensor([-8, 7, 0]), 4).tolist()
        [240, 8]
    """
    flat = codes.reshape(-1).to(torch.int32) + (1 << (bits - 1))
    if bits == 16:
        return torch.stack((flat & 255, flat >> 8), dim=1).reshape(-1).to(torch.uint8)
    each = 8 // bits
    flat = torch.nn.functional.pad(flat, (0, -flat.shape[0] % each)).view(-1, each)
    shifts = torch.arange(each, dtype=torch.int32, device=flat.device) * bits
    return (flat << shifts).sum(1).to(torch.uint8)


def pack_blocks(
    blocks: Sequence[Block], table: TableSpec, codes_of: Callable[[Tensor], Tensor]
) -> Tensor:
    """The bytes of a whole table, for `GridRows`.

    Args:
        blocks: How it is stored.
        table: Logical.
        codes_of: Signed codes (R, D) of indices (R,) int64 of one block.
    """
    parts, first = [torch.zeros(0, dtype=torch.uint8)], 1
    for block, rows in zip(blocks, block_rows(blocks, table)):
        for begin in range(first, first + rows if block.bits else first, _CHUNK):
            indices = torch.arange(begin, min(begin + _CHUNK, first + rows))
            parts.append(pack(codes_of(indices), block.bits).cpu())
        first += rows
    packed = torch.cat(parts)
    return packed if packed.numel() else torch.zeros(1, dtype=torch.uint8)


class GridRows(Decoder):
    """Looks up packed codes and multiplies them by their step. Has no parameters.

    Args:
        rows: Indices in every block.
        bits: Of every block.
        dim: Width.
        per: Whether a step belongs to a block or to a row.
        step: How steps are stored.

    Shape:
        - indices: (L,) int32
        - output: (L, D)
    """

    linear = False

    def __init__(
        self,
        rows: Sequence[int],
        bits: Sequence[int],
        dim: int,
        per: Literal["block", "row"],
        step: StepKind,
    ) -> None:
        super().__init__()
        self._bits, self._dim, self._per = list(bits), dim, per
        sizes = [packed_bytes(count, dim, width) for count, width in zip(rows, bits)]
        self._offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        self._firsts = [sum(rows[:i]) for i in range(len(sizes))]
        self.codes: Tensor
        self.steps: Tensor
        self.register_buffer("codes", torch.zeros(max(1, sum(sizes)), dtype=torch.uint8))
        count = len(bits) if per == "block" else sum(rows)
        self.register_buffer("steps", torch.zeros(count, dtype=_STEP_DTYPES[step]))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Zeros: it is filled by loading."""
        del generator
        if not self.codes.is_meta:
            self.codes.zero_()
            self.steps.zero_()

    def table_tensors(self) -> list[Tensor]:
        """Codes and steps."""
        return [self.codes, self.steps]

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """One vector an index."""
        assert indices is not None
        rows = (indices.long() - 1).clamp(min=0)
        block = torch.zeros_like(rows)
        if len(self._bits) > 1:
            ends = torch.tensor(self._firsts[1:], device=rows.device)
            block = torch.bucketize(rows, ends, right=True)
            codes = self._scattered(rows, block)
        elif self._dim * self._bits[0] % 8 == 0:
            codes = self._whole_rows(rows)
        else:
            codes = self._scattered(rows, block)
        steps = self.steps.index_select(0, rows if self._per == "row" else block)
        steps = exponent_steps(steps) if steps.dtype == torch.int8 else steps.float()
        return codes.float() * steps.unsqueeze(1)

    def _whole_rows(self, rows: Tensor) -> Tensor:
        """Codes where every row has bytes of its own and all rows are alike."""
        bits: int = self._bits[0]
        if bits == 0:
            return rows.new_zeros(rows.shape[0], self._dim)
        table = self.codes.view(-1, self._dim * bits // 8)
        found, half = table.index_select(0, rows), 1 << (bits - 1)
        if bits == 8:
            return found.to(torch.int16) - half
        if bits == 16:
            pairs = found.to(torch.int32).view(rows.shape[0], self._dim, 2)
            return pairs[..., 0] + (pairs[..., 1] << 8) - half
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=rows.device)
        apart = (found.unsqueeze(2) >> shifts) & ((1 << bits) - 1)
        return apart.to(torch.int16).view(rows.shape[0], self._dim) - half

    def _scattered(self, rows: Tensor, block: Tensor) -> Tensor:
        """Codes of any layout, number by number."""

        def of_block(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, device=rows.device).index_select(0, block).unsqueeze(1)

        bits, first = of_block(self._bits), of_block(self._firsts)
        columns = torch.arange(self._dim, device=rows.device)
        place = ((rows.unsqueeze(1) - first) * self._dim + columns) * bits
        byte = (of_block(self._offsets) + (place >> 3)).clamp(max=self.codes.shape[0] - 1)
        found = self.codes[byte].long()
        if 16 in self._bits:
            high = self.codes[(byte + 1).clamp(max=self.codes.shape[0] - 1)].long() << 8
            found = torch.where(bits == 16, found + high, found)
        return ((found >> (place & 7)) & ((1 << bits) - 1)) - (1 << bits) // 2


class Grid(Scheme):
    """Rows ``code * step``, packed. What `low_precision`, `alpt`, `qat`, `mixed_precision` become.

    It is never trained and never planned; freezing makes it.

    Memory: ``sum over blocks of rows D bits / 8``, plus one step a block or a row (4 bytes fp32,
    2 bf16, 1 exponent). PAD is not stored.
    """

    narrow: ClassVar[bool] = True
    served_only: ClassVar[bool] = True
    kind: Literal["grid"] = "grid"
    """Name in configurations."""
    blocks: tuple[Block, ...] = Field(min_length=1)
    """From index 1 on."""
    per: Literal["block", "row"] = "block"
    """What a step belongs to."""
    step: StepKind = "fp32"
    """How steps are stored."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """As it is: for tables that are frozen already."""
        return check_fixed(self.kind, tables, budget, {table.name: self for table in tables})

    def part(self, table: TableSpec) -> Part:
        """A decoder that holds everything."""
        bits = [block.bits for block in self.blocks]
        rows = block_rows(self.blocks, table)
        return Part((), Encoder(), GridRows(rows, bits, table.embedding_dim, self.per, self.step))

    def check_dtype(self, dtype: Dtype) -> None:
        """Rows keep their own width; a dtype is for the model's other tables."""
        widest = max(block.bits for block in self.blocks)
        if _DTYPE_BITS[dtype] < widest:
            raise ConfigError(
                f"frozen in {dtype}: expected at least the {widest} bits that the rows were "
                "trained with, since rounding them again loses what training adapted to. Train "
                f"with `bits` of {_DTYPE_BITS[dtype]}, or freeze in a wider dtype."
            )


def widest_fit(
    kind: str,
    tables: Sequence[TableSpec],
    budget: int | None,
    plans: Sequence[Mapping[str, Scheme]],
) -> dict[str, Scheme]:
    """The first plan that fits a budget.

    Args:
        kind: Of the scheme, for the error.
        tables: Of one group.
        budget: Most bytes; None takes the first plan.
        plans: Largest first.

    Raises:
        BudgetInfeasible: None fits.
    """
    for plan in plans:
        if budget is None or planned_bytes(tables, plan) <= budget:
            return dict(plan)
    return check_fixed(kind, tables, budget, dict(plans[-1]))
