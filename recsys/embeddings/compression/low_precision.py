"""INT8 and INT16 rows in training and serving alike, updated by stochastic rounding.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recsys.embeddings.compression.budget import smaller_of
from recsys.embeddings.compression.grid import (
    Block,
    Grid,
    exponent_steps,
    pack_blocks,
    widest_fit,
)
from recsys.embeddings.compression.integer_rows import IntegerRows, Rounding, start_factor
from recsys.embeddings.scheme import Dtype, Encoder, Part, Scheme, Successor, Trained
from recsys.schema import Init, TableSpec

REACH = 6.0  # start values lie within so many standard deviations
_MOST_ROWS = 1 << 16  # of a whole table that is rounded anew, at a time


class LowPrecisionRows(IntegerRows):
    """Codes with one step for all, or a power of two for each row.

    Args:
        table: What it is.
        bits: 8 or 16.
        rounding: Of updates.
        per: What a step belongs to.
        step: Fixed; None for a power of two that follows the values.
    """

    def __init__(
        self,
        table: TableSpec,
        bits: int,
        rounding: Rounding,
        per: Literal["table", "row"],
        step: float | None,
    ) -> None:
        super().__init__(table, bits, rounding)
        self.fixed, self.per = step, per
        self.exponents: Tensor
        if step is None:
            count = table.num_embeddings if per == "row" else 1
            self.register_buffer("exponents", torch.zeros(count, dtype=torch.int8))

    def table_tensors(self) -> list[Tensor]:
        """Codes and exponents."""
        return [self.codes] if self.fixed is not None else [self.codes, self.exponents]

    def start(self) -> Init:
        """Steps that just hold the start values."""
        init = self.spec.init
        if self.fixed is None:
            std = init.std if init.kind != "zeros" and init.std else 1e-4
            self.exponents.fill_(math.ceil(math.log2(REACH * std / self.high)))
            return init
        if self.rounding == "nearest":
            return init
        return init.model_copy(update={"std": init.std * start_factor(init, self.fixed)})

    def steps_of(self, rows: Tensor) -> Tensor:
        """The step of every row, (R, 1)."""
        if self.fixed is not None:
            return torch.full((rows.shape[0], 1), self.fixed, device=rows.device)
        mine = self.exponents.index_select(0, rows) if self.per == "row" else self.exponents
        return exponent_steps(mine).view(-1, 1).expand(rows.shape[0], 1)

    def fit_steps(self, rows: Tensor, values: Tensor) -> None:
        """Doubles the step until the values fit; halves a row's step that is far too large."""
        if self.fixed is not None:
            return
        largest = values.abs().amax(1)
        mantissa, exponent = torch.frexp(largest / self.high)
        least = torch.where(mantissa > 0.5, exponent, exponent - 1).clamp(-126, 126)
        least = torch.where(largest > 0, least, -126).to(torch.int8)
        if self.per == "table":
            self._widen(least.amax().view(1))
            return
        now = self.exponents.index_select(0, rows)
        shrunk = torch.where((least < now - 1) & (largest > 0), least + 1, now)
        self.exponents.index_copy_(0, rows, torch.maximum(shrunk, least))

    def _widen(self, least: Tensor) -> None:
        """Gives the whole table a larger step, rounding every row anew. Rare: steps double."""
        if not bool(least > self.exponents):
            return
        factor = exponent_steps(self.exponents).double() / exponent_steps(least).double()
        self.exponents.copy_(least)
        for begin in range(0, self.codes.shape[0], _MOST_ROWS):
            part = self.codes[begin : begin + _MOST_ROWS]
            mine = torch.arange(begin, begin + part.shape[0], device=part.device)
            # Far from the numbers that this step's update will use: rows beyond the table.
            other = mine + self.codes.shape[0]
            part.copy_(self.round(other, part.double() * factor))


class LowPrecision(Scheme):
    """Codes in int8 or int16 are all there is: no fp32 copy, in training neither.

        w = q step;     q <- clip(floor((w - change) / step + u)),   u uniform in (0, 1)

    The change is that of the embedding optimizer, on the rows that a batch touched, duplicates
    summed. Rounding is unbiased, so an update far below the step still moves a row: by a whole
    step, rarely. u is a hash of (seed, step counter, row, column): a resumed run goes on exactly.

    By default the step is a power of two that follows the values: just large enough for the start
    values, and doubled whenever an update leaves the range (per table all rows are then rounded
    anew; per row it is also halved, which loses nothing). So start values of any size keep their
    standard deviation, no value is ever clipped, and nothing has to be tuned: a step fixed at
    0.01 is a hundred times the usual start values, and clips at 1.28. ``per=row`` keeps a large
    row from coarsening all others, for one byte a row. A stated ``step`` is fixed and clips.

    On several ranks every rank holds all rows (see `IntegerOptimizer`): only the work is shared.

    Memory: ``n D bits / 8`` bytes a table in training, plus n of exponents ``per=row`` (1 a table
    otherwise, none for a fixed step) and 16 for the rounding; served without PAD's row.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=1000, embedding_dim=8,
        ...                   feature_names=("user",), pooling="sum")
        >>> LowPrecision().plan([table], budget=8000)["user"].bits
        8

    Source:
        INT8/16 of Zhang et al., "Experimental Analysis of Large-scale Learnable Vector Storage
        Compression", VLDB 2024 (Hetu ``layers/quantize.py``): global step 0.01, middle 0.
        Differs: steps by default, see above; rounding is done in float64, so that the smallest
        updates of int16 rows survive.
    """

    narrow: ClassVar[bool] = True
    kind: Literal["low_precision"] = "low_precision"
    """Name in configurations."""
    bits: Literal[8, 16] | None = None
    """Of a number; None is the widest that fits the budget, or 8 without one."""
    per: Literal["table", "row"] = "table"
    """What a step belongs to. Tables of width 1 always have one step."""
    step: float | None = Field(default=None, gt=0)
    """Fixed step of all rows, clipping beyond; None follows the values."""
    rounding: Rounding = "stochastic"
    """``nearest`` loses updates below half a step. For comparison."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """The widest of the two that fits."""
        widths = (16, 8) if budget is not None else (8,)
        plans = [
            {table.name: smaller_of(table, self._at(table, bits)) for table in tables}
            for bits in (widths if self.bits is None else (self.bits,))
        ]
        return widest_fit(self.kind, tables, budget, plans)

    def _at(self, table: TableSpec, bits: int) -> Scheme:
        per = "table" if table.embedding_dim == 1 else self.per
        return self.model_copy(update={"bits": bits, "per": per})

    def part(self, table: TableSpec) -> Part:
        """A decoder that holds everything."""
        self.need(bits=self.bits)
        assert self.bits is not None
        rows = LowPrecisionRows(table, self.bits, self.rounding, self.per, self.step)
        return Part((), Encoder(), rows)

    def frozen(self, trained: Trained) -> Successor:
        """The same codes, packed."""
        rows = trained.part.decoder
        assert isinstance(rows, LowPrecisionRows)
        scheme, codes = self.frozen_scheme(), rows.codes.cpu()
        packed = pack_blocks(scheme.blocks, trained.table, lambda indices: codes[indices])
        if self.step is not None:
            steps = torch.tensor([self.step])
        else:
            steps = rows.exponents[1:] if self.per == "row" else rows.exponents
        state = {"codes": packed, "steps": steps.cpu().clone()}
        return Successor(scheme, decoder=state)

    def frozen_scheme(self) -> Grid:
        """A grid of the same width."""
        self.need(bits=self.bits)
        assert self.bits is not None
        if self.step is not None:
            return Grid(blocks=(Block(bits=self.bits),))
        per = "row" if self.per == "row" else "block"
        return Grid(blocks=(Block(bits=self.bits),), per=per, step="exponent")

    def check_dtype(self, dtype: Dtype) -> None:
        """Rows keep their own width."""
        self.frozen_scheme().check_dtype(dtype)
