"""Float rows that are rounded to a grid in every forward: quantization-aware training.

Stability: internal
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recsys.embeddings.ids import is_traced
from recsys.embeddings.scheme import Decoder, Rows
from recsys.schema import TableSpec

_LEAST = 2.0**-100  # steps of rows that are all zero
_CHUNK = 1 << 20  # numbers at a time when a whole table is read


class Straight(torch.autograd.Function):
    """One tensor in forward, another one's gradient: the straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, output: Tensor) -> Tensor:
        """The output, unchanged to the bit."""
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The value gets the gradient."""
        return grads[0], None


class ScaledGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a constant."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: Tensor) -> Tensor:
        """The value."""
        ctx.save_for_backward(factor)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Scaled."""
        return grads[0] * ctx.saved_tensors[0], None


def limits(bits: int) -> tuple[int, int]:
    """Smallest and largest code of a width; only 0 for no bits.

    Args:
        bits: 0, 2, 4 or 8.

    Example:
        >>> limits(4), limits(0)
        ((-8, 7), (0, 0))
    """
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if bits else (0, 0)


def codes_of(values: Tensor, steps: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """``clip(round(value / step))``, ties to even.

    Args:
        values: (R, D).
        steps: (R, 1), positive.
        low: (R, 1).
        high: (R, 1).
    """
    return torch.minimum(torch.maximum((values / steps).round(), low), high)


def fake_quantize(
    values: Tensor, steps: Tensor, low: Tensor, high: Tensor, learned: bool
) -> Tensor:
    """``code step``, with gradients.

    Learned steps get LSQ's gradients: ``round(x) - x`` inside the range (x = value / step) and the
    limit outside; values get theirs inside only. Otherwise the whole gradient goes to the values.

    Args:
        values: (R, D).
        steps: (R, 1), positive.
        low: (R, 1).
        high: (R, 1).
        learned: See above.
    """
    recorded = torch.is_grad_enabled() and (values.requires_grad or steps.requires_grad)
    if not recorded or is_traced(values):
        return codes_of(values, steps, low, high) * steps
    if not learned:
        return Straight.apply(values, codes_of(values, steps, low, high) * steps)  # pyright: ignore[reportReturnType]
    clipped = torch.minimum(torch.maximum(values / steps, low), high)
    return Straight.apply(clipped, clipped.round()) * steps  # pyright: ignore[reportOperatorIssue]


class Levels(Decoder):
    """Blocks of indices, and how large the numbers of each are, looked up now and then.

    A level is the mean or the largest absolute value of a block. It is taken after training steps
    1, 2, 4, 8, ... up to ``period``, since rows grow fast at first, and then after every
    ``period``-th step. Before that it is what the start values will give.

    Args:
        table: Logical.
        rows: Indices in every block, from index 1 on.
        largest: Largest value rather than the mean.
        period: Steps.
    """

    linear = False

    def __init__(self, table: TableSpec, rows: Sequence[int], largest: bool, period: int) -> None:
        super().__init__()
        self.spec, self.largest, self.period = table, largest, period
        self._ends = [1 + sum(rows[: i + 1]) for i in range(len(rows) - 1)]
        self.level: Tensor
        self.seen: Tensor
        self.register_buffer("level", torch.ones(len(rows)))
        self.register_buffer("seen", torch.zeros(1, dtype=torch.int64))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Writes the levels that start values of this deviation have."""
        del generator
        if self.level.is_meta:
            return
        init, count = self.spec.init, self.spec.num_embeddings * self.spec.embedding_dim
        std = init.std if init.kind != "zeros" and init.std else 1e-4
        normal = init.kind != "uniform"
        if self.largest:
            level = std * (math.sqrt(2 * math.log(count + 1)) if normal else math.sqrt(3))
        else:
            level = std * (math.sqrt(2 / math.pi) if normal else math.sqrt(3) / 2)
        self.level.fill_(level)
        self.seen.zero_()

    def block_of(self, indices: Tensor) -> Tensor:
        """The block of every index, (L,) int64.

        Args:
            indices: (L,).
        """
        if not self._ends:
            return torch.zeros_like(indices, dtype=torch.int64)
        ends = torch.tensor(self._ends, device=indices.device)
        return torch.bucketize(indices.long(), ends, right=True)

    def after_step(self, rows: Rows) -> None:
        """Takes the levels where it is time to. Collective on sharded tables."""
        self.seen += 1
        seen = int(self.seen)
        early = seen <= self.period and seen & (seen - 1) == 0
        if early or seen % self.period == 0:
            self._take(rows)

    def _take(self, rows: Rows) -> None:
        size, device = self.spec.num_embeddings, self.level.device
        found = torch.zeros(len(self.level), dtype=torch.float64, device=device)
        count = torch.zeros_like(found)
        each = max(1, _CHUNK // self.spec.embedding_dim)
        for begin in range(1, size, each):
            indices = torch.arange(begin, min(size, begin + each), device=device)
            values, block = rows.read(0, indices).abs().double(), self.block_of(indices)
            if self.largest:
                found.scatter_reduce_(0, block, values.amax(1), "amax")
            else:
                found.index_add_(0, block, values.mean(1))
                count.index_add_(0, block, torch.ones_like(count[block]))
        if not self.largest:
            found = found / count.clamp(min=1)
        self.level.copy_(torch.where(found > 0, found, self.level))


def per_code(bits: int, largest: bool) -> float:
    """Step as a share of the level: the largest value has the largest code, or LSQ's start.

    Args:
        bits: Of a code.
        largest: What the level is.
    """
    high = max(1, limits(bits)[1])
    return 1 / high if largest else 2 / math.sqrt(high)


class BlockQuantized(Levels):
    """Rounds rows to one grid a block.

    Args:
        table: Logical.
        rows: Indices in every block.
        bits: Of every block.
        learned: Steps are learned (a factor on what the mean gives); otherwise they follow the
            largest value.
        period: See `Levels`.

    Shape:
        - input: (L, D) and indices (L,)
        - output: (L, D)
    """

    def __init__(
        self, table: TableSpec, rows: Sequence[int], bits: Sequence[int], learned: bool, period: int
    ) -> None:
        super().__init__(table, rows, not learned, period)
        self.bits, self.learned = tuple(bits), learned
        if learned:
            self.log_factor = nn.Parameter(torch.zeros(len(self.bits)))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Levels of the start values, factors 1."""
        super().initialize(generator)
        if self.learned and not self.log_factor.is_meta:
            nn.init.zeros_(self.log_factor)

    def steps(self) -> Tensor:
        """The step of every block."""
        shares = [per_code(bits, self.largest) for bits in self.bits]
        steps = self.level * torch.tensor(shares, device=self.level.device)
        return (steps * self.log_factor.exp() if self.learned else steps).clamp(min=_LEAST)

    def _ranges(self, block: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.tensor([limits(bits) for bits in self.bits], dtype=torch.float32)
        found = both.to(block.device).index_select(0, block)
        return found[:, :1], found[:, 1:]

    def codes(self, values: Tensor, indices: Tensor) -> Tensor:
        """What `forward` rounds to.

        Args:
            values: (R, D).
            indices: (R,).
        """
        block = self.block_of(indices)
        return codes_of(values, self.steps()[block].unsqueeze(1), *self._ranges(block))

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Rounded vectors."""
        assert indices is not None
        values, steps, block = probes[0].float(), self.steps(), self.block_of(indices)
        if self.learned and torch.is_grad_enabled():
            steps = ScaledGradient.apply(steps, lsq_factor(values, self.bits))
        mine = steps.index_select(0, block).unsqueeze(1)  # pyright: ignore[reportOptionalMemberAccess]
        return fake_quantize(values, mine, *self._ranges(block), self.learned)


def lsq_factor(values: Tensor, bits: Sequence[int]) -> Tensor:
    """``1 / sqrt(D * largest code)``: LSQ's factor on gradients of steps, a row being its layer.

    Not of the batch's size, so that several ranks train like one process.

    Args:
        values: (L, D).
        bits: Of every block.
    """
    highs = [max(1, limits(width)[1]) for width in bits]
    factors = torch.tensor([1 / math.sqrt(values.shape[1] * high) for high in highs])
    return factors.to(values.device)


class RowQuantized(Decoder):
    """Rounds every row to a grid of its own, taken from the row in each forward.

    Steps are rounded to bfloat16, as they will be stored.

    Args:
        bits: Of a code.
        learned: The second probe is the logarithm of a learned factor on LSQ's start,
            ``2 mean|w| / sqrt(largest code)``; otherwise the largest value gets the largest code.

    Shape:
        - input: (L, D), and (L, 1) where learned
        - output: (L, D)
    """

    linear = False

    def __init__(self, bits: int, learned: bool) -> None:
        super().__init__()
        self.bits, self.learned = bits, learned

    def steps(self, probes: Sequence[Tensor]) -> Tensor:
        """The step of every row, (L, 1).

        Args:
            probes: As in forward.
        """
        size = probes[0].detach().float().abs()
        level = size.mean(1, keepdim=True) if self.learned else size.amax(1, keepdim=True)
        steps = level * per_code(self.bits, largest=not self.learned)
        if self.learned:
            steps = steps * probes[1].float().exp()
        steps = steps.clamp(min=_LEAST)
        rounded = steps.bfloat16().float()
        if steps.requires_grad and not is_traced(steps):
            return Straight.apply(steps, rounded)  # pyright: ignore[reportReturnType]
        return rounded

    def codes(self, probes: Sequence[Tensor]) -> Tensor:
        """What `forward` rounds to.

        Args:
            probes: As in forward.
        """
        return codes_of(probes[0].float(), self.steps(probes), *self._ranges(probes[0]))

    def _ranges(self, values: Tensor) -> tuple[Tensor, Tensor]:
        low, high = torch.tensor([limits(self.bits)], dtype=torch.float32).to(values.device).T
        return low.view(1, 1), high.view(1, 1)

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Rounded vectors."""
        values, steps = probes[0].float(), self.steps(probes)
        if self.learned and torch.is_grad_enabled():
            steps = ScaledGradient.apply(steps, lsq_factor(values, [self.bits]))
        return fake_quantize(values, steps, *self._ranges(values), self.learned)  # pyright: ignore[reportArgumentType]
