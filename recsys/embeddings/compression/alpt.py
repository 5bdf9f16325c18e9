"""ALPT: integer rows whose steps are learned.

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
from recsys.embeddings.compression.grid import Block, Grid, pack_blocks, widest_fit
from recsys.embeddings.compression.integer_optimizer import IntegerOptimizer, RowStates
from recsys.embeddings.compression.integer_rows import IntegerRows, start_factor
from recsys.embeddings.compression.low_precision import REACH, LowPrecision
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Dtype, Encoder, Part, Scheme, Successor, Trained
from recsys.schema import Init, TableSpec

_PAPER_STEP = 0.01  # what `scale_lr` is stated for


class LearnedStepRows(IntegerRows):
    """Codes with a learned fp32 step a row.

    Args:
        table: What it is.
        bits: 8 or 16.
        step: Where all start; None for steps that just hold the start values, and are doubled
            when a row leaves its range.
        scale_lr: Learning rate of the steps.
    """

    def __init__(self, table: TableSpec, bits: int, step: float | None, scale_lr: float) -> None:
        super().__init__(table, bits, "stochastic")
        self.fixed, self.scale_lr = step, scale_lr
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros(table.num_embeddings))

    def table_tensors(self) -> list[Tensor]:
        """Codes and steps."""
        return [self.codes, self.steps]

    def start(self) -> Init:
        """The same step for all."""
        init = self.spec.init
        if self.fixed is None:
            std = init.std if init.kind != "zeros" and init.std else 1e-4
            self.steps.fill_(REACH * std / self.high)
            return init
        self.steps.fill_(self.fixed)
        return init.model_copy(update={"std": init.std * start_factor(init, self.fixed)})

    def steps_of(self, rows: Tensor) -> Tensor:
        """The step of every row, (R, 1)."""
        return self.steps.index_select(0, rows).unsqueeze(1)

    def fit_steps(self, rows: Tensor, values: Tensor) -> None:
        """Doubles steps until the values fit, unless the first step was stated."""
        if self.fixed is not None:
            return
        steps = self.steps_of(rows)
        over = values.abs().amax(1, keepdim=True).float() / (steps * self.high)
        mantissa, exponent = torch.frexp(over)
        doublings = torch.where(mantissa > 0.5, exponent, exponent - 1).clamp(min=0)
        self.steps.index_copy_(0, rows, torch.ldexp(steps, doublings).squeeze(1))

    def optimizer(self, config: EmbeddingOptimizerConfig) -> IntegerOptimizer:
        """Trains codes and steps."""
        return LearnedStepOptimizer(config, self)


def step_gradient(
    values: Tensor, steps: Tensor, grads: Tensor, low: int, high: int, scale: float
) -> Tensor:
    """The gradient of the loss to the steps, as LSQ defines it.

    With ``x = value / step``, the derivative of the rounded value to its step is ``round(x) - x``
    where x is in range, and the limit it is clipped to outside.

    Args:
        values: (R, D).
        steps: (R, 1).
        grads: Of the loss to the rounded values, (R, D).
        low: Smallest code.
        high: Largest code.
        scale: Factor on everything.

    Returns:
        (R, 1).
    """
    scaled = values / steps
    slope = torch.where(
        (scaled >= low) & (scaled <= high), scaled.round() - scaled, scaled.clamp(low, high)
    )
    return (grads * slope).sum(1, keepdim=True) * scale


class LearnedStepOptimizer(IntegerOptimizer):
    """Updates the rows, then their steps, then rounds the rows with the new steps.

    Args:
        config: What to run, for rows and steps alike.
        rows: Trained in place.
    """

    def __init__(self, config: EmbeddingOptimizerConfig, rows: LearnedStepRows) -> None:
        super().__init__(config, rows)
        self._learned = rows
        self._step_states = RowStates(config, rows.steps.shape[0], 1, rows.codes.device)

    def update(self, rows: Tensor, grads: Tensor, count: int) -> None:
        """One step of distinct rows."""
        mine, dim = self._learned, grads.shape[1]
        values, steps = mine.read(rows), mine.steps_of(rows)
        pulled = grads + self.config.l2 * values.float() if self.config.l2 else grads
        values -= self._states.change(rows, pulled, self._learning_rate, self._step).double()
        scale = 1 / math.sqrt(max(1, count) * dim * mine.high)
        found = step_gradient(values.float(), steps, grads, mine.low, mine.high, scale)
        rate = mine.scale_lr * self._learning_rate / (self.config.learning_rate or 1.0)
        change = self._step_states.change(rows, found, rate, self._step)
        if mine.fixed is None:
            change = change * (steps / _PAPER_STEP)
        steps = torch.maximum(steps - change, steps * 0.5)
        mine.steps.index_copy_(0, rows, steps.squeeze(1))
        mine.write(rows, values)

    def tensors(self) -> dict[str, Tensor]:
        """The states themselves; those of the steps begin with ``step_``."""
        steps = {f"step_{name}": value for name, value in self._step_states.tensors.items()}
        return {**super().tensors(), **steps}

    def reset_rows(self, table: str, rows: Tensor) -> None:
        """Gives rows the state of rows that were never trained."""
        super().reset_rows(table, rows)
        self._step_states.reset(rows.long())


class ALPT(Scheme):
    """Codes in int8 or int16 with a learned step a row; no fp32 copy, in training neither.

        w' = q step - change
        step <- step - change of g / sqrt(L D (2^(b-1) - 1)),
                g = sum_d (dloss/dw_d) (round(x_d) - x_d),   x = w' / step   (clip limit outside)
        q <- clip(floor(w' / step + u))

    Steps have the embedding optimizer's kind and the rate ``scale_lr``, which follows the
    schedule of the embedding rate. L is the number of indices of the batch. One update at most
    halves a step, so that it stays positive. Tables of width 1 become `LowPrecision`, since a step
    a row would be four times the code.

    A stated first step has to suit trained rows, not start values, because steps learn slowly
    (0.01 in the paper's code; with start values of 1e-4 then one number in 10 000 is not zero).
    By default steps just hold the start values instead, are doubled when a row leaves its range,
    and learn at the rate ``scale_lr step / 0.01``, which is the paper's rate at the paper's step.

    On several ranks every rank holds all rows (see `IntegerOptimizer`).

    Memory: ``n (D bits / 8 + 4)`` bytes a table, plus 16 in training; served without PAD's row.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=1000, embedding_dim=16,
        ...                   feature_names=("user",), pooling="sum")
        >>> ALPT().plan([table], budget=20_000)["user"].bits
        8

    Source:
        Li et al., "Adaptive Low-Precision Training for Embeddings in Click-Through Rate
        Prediction", AAAI 2023, Algorithm 1; defaults of Hetu's ``layers/alpt.py``. Differs: the
        paper takes dloss/dw of the steps' gradient from a second forward and backward at ``w'``
        rounded to the nearest; here it is that of the first, at ``q step``, which is one update
        older. That halves the cost of a training step. Steps by default, see above.
    """

    narrow: ClassVar[bool] = True
    kind: Literal["alpt"] = "alpt"
    """Name in configurations."""
    bits: Literal[8, 16] | None = None
    """Of a number; None is the widest that fits the budget, or 8 without one."""
    step: float | None = Field(default=None, gt=0)
    """Where steps start; None follows the start values."""
    scale_lr: float = Field(default=2e-5, ge=0)
    """Learning rate of the steps."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """The widest of the two that fits."""
        widths = (16, 8) if budget is not None else (8,)
        plans = [
            {table.name: smaller_of(table, self._at(table, bits)) for table in tables}
            for bits in (widths if self.bits is None else (self.bits,))
        ]
        return widest_fit(self.kind, tables, budget, plans)

    def _at(self, table: TableSpec, bits: Literal[8, 16]) -> Scheme:
        if table.embedding_dim == 1:
            return LowPrecision(bits=bits)
        return self.model_copy(update={"bits": bits})

    def part(self, table: TableSpec) -> Part:
        """A decoder that holds everything."""
        self.need(bits=self.bits)
        assert self.bits is not None
        return Part((), Encoder(), LearnedStepRows(table, self.bits, self.step, self.scale_lr))

    def frozen(self, trained: Trained) -> Successor:
        """The same codes, packed, and the steps."""
        rows = trained.part.decoder
        assert isinstance(rows, LearnedStepRows)
        scheme, codes = self.frozen_scheme(), rows.codes.cpu()
        packed = pack_blocks(scheme.blocks, trained.table, lambda indices: codes[indices])
        return Successor(scheme, decoder={"codes": packed, "steps": rows.steps[1:].cpu().clone()})

    def frozen_scheme(self) -> Grid:
        """A grid of the same width."""
        self.need(bits=self.bits)
        assert self.bits is not None
        return Grid(blocks=(Block(bits=self.bits),), per="row", step="fp32")

    def check_dtype(self, dtype: Dtype) -> None:
        """Rows keep their own width."""
        self.frozen_scheme().check_dtype(dtype)
