"""Rows that are integers while they are trained.

Stability: internal
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from recsys.embeddings import start_values
from recsys.embeddings.compression.integer_optimizer import IntegerOptimizer
from recsys.embeddings.ids import is_traced
from recsys.embeddings.optimizer import EmbeddingOptimizer, EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Decoder
from recsys.hashing import splitmix64
from recsys.schema import Init, TableSpec

Rounding = Literal["stochastic", "nearest"]
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_CHUNK = 1 << 20  # numbers at a time, so that no float copy of a table is ever made


def uniform(seed: Tensor, step: Tensor, rows: Tensor, dim: int) -> Tensor:
    """Numbers in (0, 1) that are a pure function of (seed, step, row, column).

    Args:
        seed: int64, no dimension.
        step: int64, no dimension.
        rows: (R,) int64.
        dim: Columns.

    Returns:
        (R, dim) float64, multiples of 2^-32 plus a half of it.
    """
    stream = splitmix64(splitmix64(step.view(1)) ^ seed)
    columns = torch.arange(1, dim + 1, device=rows.device)
    bits = splitmix64((rows.unsqueeze(1) * dim + columns) * _GOLDEN + stream)
    return (((bits >> 32) & 0xFFFFFFFF).double() + 0.5) * 2.0**-32


def start_factor(init: Init, step: float) -> float:
    """What start values are multiplied by, so that rounded stochastically they have ``init.std``.

    Rounding adds the variance ``f (1 - f) step^2``, f the part after the point. For start values
    far below the step that is nearly all there is.

    Args:
        init: Asked for.
        step: Of the grid.
    """
    if init.kind == "zeros" or init.std == 0:
        return 1.0
    places = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
    unit = math.sqrt(12) * (places - 0.5)
    if init.kind == "normal":
        unit = math.sqrt(2) * torch.erfinv(2 * places - 1)
    low, high, target = 0.0, 1.0, (init.std / step) ** 2
    for _ in range(60):
        middle = (low + high) / 2
        scaled = unit * (middle * init.std / step)
        part = scaled - scaled.floor()
        variance = float((scaled.square() + part * (1 - part)).mean())
        low, high = (low, middle) if variance > target else (middle, high)
    return high


class IntegerRows(Decoder, abc.ABC):
    """Rows ``code * step`` with codes in int8 or int16. There is no float copy.

    Without an optimizer the rows take no gradient: attach one before training.

    Args:
        table: What it is.
        bits: 8 or 16.
        rounding: Of updates.

    Shape:
        - indices: (L,) int32
        - output: (L, D)
    """

    linear = False

    def __init__(self, table: TableSpec, bits: int, rounding: Rounding) -> None:
        super().__init__()
        self.spec, self.rounding = table, rounding
        self.high, self.low = (1 << (bits - 1)) - 1, -(1 << (bits - 1))
        dtype = torch.int8 if bits == 8 else torch.int16
        size = (table.num_embeddings, table.embedding_dim)
        self.codes: Tensor
        self.noise: Tensor
        self.register_buffer("codes", torch.zeros(size, dtype=dtype))
        # Seed of the roundings, and how many steps used it.
        self.register_buffer("noise", torch.zeros(2, dtype=torch.int64))
        self.pending: list[tuple[Tensor, Tensor]] | None = None

    @abc.abstractmethod
    def steps_of(self, rows: Tensor) -> Tensor:
        """The step of every row, (R, 1) float32.

        Args:
            rows: (R,) int64.
        """

    @abc.abstractmethod
    def fit_steps(self, rows: Tensor, values: Tensor) -> None:
        """Chooses the steps for new values before they are rounded.

        Args:
            rows: (R,) int64, distinct.
            values: (R, D) float64.
        """

    @abc.abstractmethod
    def start(self) -> Init:
        """Writes the first steps, and tells the start values to be rounded."""

    def optimizer(self, config: EmbeddingOptimizerConfig) -> IntegerOptimizer:
        """The optimizer of these rows.

        Args:
            config: What to run.
        """
        return IntegerOptimizer(config, self)

    def attach(self, config: EmbeddingOptimizerConfig) -> EmbeddingOptimizer:
        """The optimizer of these rows; from now on backward puts their gradients aside."""
        self.pending = []
        return self.optimizer(config)

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Draws start values and rounds them, a few rows at a time."""
        if self.codes.is_meta:
            return
        seed = int(torch.randint(1 << 62, (1,), generator=generator, device="cpu"))
        self.noise.copy_(torch.tensor([seed, 0]))
        self.codes.zero_()
        init = self.start()
        rows, dim = self.codes.shape
        for begin in range(0, rows, max(1, _CHUNK // dim)):
            mine = torch.arange(begin, min(rows, begin + max(1, _CHUNK // dim)))
            values = torch.empty(len(mine), dim)
            start_values.fill(values, init, seed, ("", self.spec.name), first_row=begin)
            self.write(mine.to(self.codes.device), values.to(self.codes.device).double())
        self.noise[1] = 1

    def table_tensors(self) -> list[Tensor]:
        """Codes; steps are added by those who have them."""
        return [self.codes]

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """One vector an index; backward puts its gradient aside."""
        assert indices is not None
        rows = indices.long()
        vectors = self.codes.index_select(0, rows).float() * self.steps_of(rows)
        pending = self.pending
        if pending is not None and torch.is_grad_enabled() and not is_traced(indices):
            vectors.requires_grad_()
            vectors.register_hook(lambda grad: pending.append((rows, grad.float())))
        return vectors

    def read(self, rows: Tensor) -> Tensor:
        """Values of rows, exact: (R, D) float64.

        Args:
            rows: (R,) int64.
        """
        return self.codes.index_select(0, rows).double() * self.steps_of(rows).double()

    def write(self, rows: Tensor, values: Tensor) -> None:
        """Rounds values and stores them: ``floor(value / step + u)``, clipped.

        Args:
            rows: (R,) int64, distinct.
            values: (R, D) float64.
        """
        self.fit_steps(rows, values)
        self.codes.index_copy_(0, rows, self.round(rows, values / self.steps_of(rows).double()))

    def round(self, rows: Tensor, scaled: Tensor) -> Tensor:
        """Codes of values in units of the step.

        Args:
            rows: (R,) int64.
            scaled: (R, D) float64.
        """
        if self.rounding == "stochastic":
            scaled = scaled + uniform(self.noise[0], self.noise[1], rows, scaled.shape[1])
            scaled = scaled.floor()
        else:
            scaled = scaled.round()
        return scaled.clamp(self.low, self.high).to(self.codes.dtype)
