"""The supernet of OptEmbed: rows above a learned threshold, random widths.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn

from recsys.embeddings.scheme import Decoder, Rows
from recsys.schema import PAD_INDEX


class Step(torch.autograd.Function):
    """``1[z > 0]`` with the long-tailed surrogate gradient.

    ``2 - 4 |z|`` up to 0.4, 0.4 up to 1, 0 beyond.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, z: Tensor) -> Tensor:  # type: ignore[override]
        """The step."""
        ctx.save_for_backward(z)
        return (z > 0).to(z.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:  # type: ignore[override]
        """The surrogate."""
        (z,) = ctx.saved_tensors  # type: ignore[attr-defined]
        size = z.abs()
        slope = torch.where(size <= 0.4, 2.0 - 4.0 * size, torch.where(size <= 1.0, 0.4, 0.0))
        return grad * slope


class Supernet(Decoder):
    """``1[|e|_1 > t] mask(d) e``: rows above a learned threshold, some columns.

    In training ``d`` is drawn from 1 .. D for every index looked up; in evaluation it is ``width``.
    The loss gets ``alpha exp(-t)``. The threshold has SGD of its own, in `after_step`.

    Args:
        wide: D.
        alpha: Weight of the loss.
        learning_rate: Of the threshold.
        prunes: Whether rows are masked.

    Shape:
        - as `Decoder`, one probe
    """

    linear = False

    def __init__(self, wide: int, alpha: float, learning_rate: float, prunes: bool) -> None:
        super().__init__()
        self.wide, self.alpha, self.learning_rate = wide, alpha, learning_rate
        self.threshold = nn.Parameter(torch.empty(())) if prunes else None
        self.width: Tensor
        self.register_buffer("width", torch.empty((), dtype=torch.int64))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Everything is kept."""
        del generator
        if not self.width.is_meta:
            self.width.fill_(self.wide)
            if self.threshold is not None:
                nn.init.zeros_(self.threshold)

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Masked rows."""
        rows = probes[0]
        columns = torch.arange(self.wide, device=rows.device)
        if self.training:
            width = torch.randint(1, self.wide + 1, (rows.shape[0], 1), device=rows.device)
        else:
            width = self.width
        masked = rows * (columns < width)
        if self.threshold is not None:
            masked = masked * Step.apply(rows.abs().sum(1, keepdim=True) - self.threshold)
        return masked

    def aux_loss(self) -> Tensor | None:
        """``alpha exp(-t)``, once a step however many features share the table."""
        if self.threshold is None or not (self.training and torch.is_grad_enabled()):
            return None
        return self.alpha * (-self.threshold).exp()

    def architecture(self) -> list[nn.Parameter]:
        """The threshold: it decides which rows there are, and no optimizer has it."""
        return [] if self.threshold is None else [self.threshold]

    def after_step(self, rows: Rows) -> None:
        """SGD on the threshold, with the mean gradient of all ranks."""
        del rows
        if self.threshold is None:
            return
        grad = self.threshold.grad
        grad = torch.zeros_like(self.threshold) if grad is None else grad
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(grad)
            grad = grad / distributed.get_world_size()
        with torch.no_grad():
            self.threshold.sub_(self.learning_rate * grad)
        self.threshold.grad = None

    def margin(self, rows: Tensor) -> Tensor:
        """How far every row is above the threshold, (n,); PAD is at minus infinity."""
        size = rows.detach().abs().sum(1)
        if self.threshold is None:
            size = torch.full_like(size, torch.inf)
        else:
            size = size - self.threshold.detach()
        size[PAD_INDEX] = -torch.inf
        return size

    def raise_threshold(self, offset: float) -> None:
        """Prunes more rows.

        Args:
            offset: Added to the threshold.
        """
        if self.threshold is not None:
            with torch.no_grad():
                self.threshold.add_(offset)
