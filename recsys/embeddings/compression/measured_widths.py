"""What fewer bits would cost, measured while rows are trained.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recsys.embeddings.compression.fake_quantization import (
    Levels,
    ScaledGradient,
    fake_quantize,
    limits,
    lsq_factor,
    per_code,
)
from recsys.embeddings.scheme import Rows
from recsys.schema import TableSpec

Choice = Literal[0, 2, 4, 8]
"""Bits a number."""


class Cost(torch.autograd.Function):
    """The vectors as they are; backward says what other vectors would have cost.

    A vector's change d moves the loss by about ``g d + (g d)^2 / 2``, g its gradient: the second
    derivative of a log-likelihood is the mean of the squared first one. The first term averages
    out where training has settled, the second is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, alpha: Tensor, output: Tensor, group: Tensor, others: Sequence[Tensor]
    ) -> Tensor:
        """The output; ``others`` are what it would be, one a candidate."""
        ctx.save_for_backward(alpha, output, group, *others)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Sums of ``(g d)^2 / 2`` by group, one column a candidate."""
        alpha, output, group, *others = ctx.saved_tensors
        costs = torch.zeros_like(alpha)
        for number, other in enumerate(others):
            moved = (grads[0].float() * (other - output)).sum(1).square() / 2
            costs[:, number].index_add_(0, group, moved)
        return costs, None, None, None


class Measured(Levels):
    """Rows rounded to the widest candidate, while it is measured what fewer bits would cost.

    ``alpha`` holds minus the cost of every group and candidate: a mean over the last ``period``
    steps. It is written by the steps that train the architecture, see `Cost`.

    Args:
        table: Logical.
        sizes: Indices in every group.
        candidates: Widths, rising.
        period: See `Levels`.

    Shape:
        - input: (L, D) and indices (L,)
        - output: (L, D)
    """

    def __init__(
        self, table: TableSpec, sizes: Sequence[int], candidates: Sequence[Choice], period: int
    ) -> None:
        super().__init__(table, sizes, largest=False, period=period)
        self.candidates = tuple(candidates)
        self.alpha = nn.Parameter(torch.zeros(len(sizes), len(self.candidates)))
        self.log_factor = nn.Parameter(torch.zeros(len(sizes), len(self.candidates)))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """No costs, factors 1."""
        super().initialize(generator)
        if not self.alpha.is_meta:
            nn.init.zeros_(self.alpha)
            nn.init.zeros_(self.log_factor)

    def architecture(self) -> list[nn.Parameter]:
        """The costs: no optimizer has them."""
        return [self.alpha]

    def after_step(self, rows: Rows) -> None:
        """Older costs count less."""
        super().after_step(rows)
        with torch.no_grad():
            self.alpha.mul_(1 - 1 / self.period)

    def steps(self) -> Tensor:
        """The step of every group and candidate."""
        shares = [per_code(bits, largest=False) for bits in self.candidates]
        level = self.level.unsqueeze(1) * torch.tensor(shares, device=self.level.device)
        return (level * self.log_factor.exp()).clamp(min=2.0**-100)

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Rounded vectors."""
        assert indices is not None
        values, group, steps = probes[0].float(), self.block_of(indices), self.steps()
        if torch.is_grad_enabled():
            steps = ScaledGradient.apply(steps, lsq_factor(values, self.candidates))
        mine = steps.index_select(0, group)  # pyright: ignore[reportOptionalMemberAccess]
        output = self._rounded(values, mine, len(self.candidates) - 1)
        measures = self.training and torch.is_grad_enabled() and self.alpha.requires_grad
        if not measures or probes[0].requires_grad:  # a step that trains the rows
            return output
        with torch.no_grad():
            others = [self._rounded(values, mine, i) for i in range(len(self.candidates))]
        return Cost.apply(self.alpha, output, group, others)  # pyright: ignore[reportReturnType]

    def _rounded(self, values: Tensor, steps: Tensor, number: int) -> Tensor:
        """The vectors in one of the widths."""
        if not self.candidates[number]:
            return torch.zeros_like(values)
        low, high = torch.tensor(
            limits(self.candidates[number]), dtype=values.dtype, device=values.device
        )
        return fake_quantize(values, steps[:, number : number + 1], low, high, learned=True)
