"""DeepLight: the smallest weights are set to zero again and again while training.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from recsys.embeddings.compression.pruning import (
    PruningScheme,
    cut,
    magnitude_bits,
    share_out,
    threshold,
)
from recsys.embeddings.scheme import (
    Decoder,
    Encoder,
    Part,
    Phase,
    Rows,
    SearchContext,
    Successor,
    Trained,
)
from recsys.schema import TableSpec

_SAMPLE = 1 << 22  # values that thresholds between steps are found on
_REACHED = 1e-3  # what is missing of the target after `ramp_steps`


class Steps(Decoder):
    """The only probe's vector, and a counter of training steps.

    Args:
        ramp: Steps until it is settled.

    Shape:
        - as `Decoder`
    """

    def __init__(self, ramp: int = 0) -> None:
        super().__init__()
        self.ramp = ramp
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Step 0."""
        del generator
        self.steps.zero_()

    def settled(self) -> bool:
        """Whether the ramp is over."""
        return int(self.steps) >= self.ramp


class _Count:
    """Counts the steps of the warm-up."""

    def __init__(self, decoder: Steps) -> None:
        self.decoder = decoder

    def after_step(self, rows: Rows) -> None:
        """One more."""
        del rows
        self.decoder.steps += 1


class _Prune:
    """Prunes every now and then."""

    def __init__(self, scheme: DeepLight, table: TableSpec, decoder: Steps) -> None:
        self.scheme, self.table, self.decoder = scheme, table, decoder

    def after_step(self, rows: Rows) -> None:
        """Zeroes the smallest weights, as many as the schedule says."""
        self.decoder.steps += 1
        step = int(self.decoder.steps)
        if step % self.scheme.prune_every == 0:
            weight = rows.read(0)
            least = self._threshold(weight, self.scheme.progress(step))
            small = (magnitude_bits(weight) < least) & (weight != 0)
            changed = small.any(dim=1).nonzero().squeeze(1)
            if changed.numel():
                rows.write(0, changed, cut(weight[changed], least), reset=False)

    def _threshold(self, weight: Tensor, progress: float) -> int:
        """Where to cut now, on every so manieth row of a large table."""
        stride = -(-weight.numel() // _SAMPLE)
        sample = torch.cat([weight[:1], weight[1::stride]])
        limit, size = self.scheme.limit(self.table), sample[1:].numel()
        final = threshold(sample, lambda kept, nnz: limit(kept * stride, nnz * stride))
        target = int((magnitude_bits(sample[1:]) >= final).sum())
        most = size - progress * (size - target)
        return threshold(sample, lambda kept, nnz: nnz <= most)


class DeepLight(PruningScheme):
    """Pruning by magnitude on a schedule: after t steps the share s (1 - delta^t) is zero.

    ``warmup`` trains the full table. ``prune`` goes on from there, and every `prune_every` steps
    sets the smallest |w| to zero; weights may grow again in between. delta is such that 99.9 % of
    the final sparsity s is reached after `ramp_steps`; the best weights from then on are kept.
    Freezing cuts the last rest.

    Memory: ``4 n D + 8`` bytes in training; frozen as `Pruned`.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=1000, embedding_dim=8,
        ...                   feature_names=("user",), pooling="sum")
        >>> DeepLight().plan([table], budget=3200)["user"].served.layout
        'bitmask'

    Source:
        Deng et al., "DeepLight: Deep Lightweight Feature Interactions for Accelerating CTR
        Predictions in Ad Serving", WSDM 2021, Algorithm 1. Its schedule is s (1 - 0.99^(t/100))
        with 10 steps between prunes, that is `ramp_steps` 68 732; here the length follows the
        warm-up, so that short trainings reach their target too. The threshold is global in the
        paper; here it is global once, at the end of the warm-up, which gives every table its
        share, and by table from then on. The paper also prunes the dense layers; here only
        tables. Optimizer states start anew in ``prune``.
    """

    kind: Literal["deep_light"] = "deep_light"
    """Name in configurations."""
    prune_every: int = Field(default=100, ge=1)
    """Steps between prunes."""
    ramp_steps: int | None = Field(default=None, ge=1)
    """Steps to 99.9 % of the target. None: half the steps of the warm-up."""
    stage: Literal["warmup", "prune"] = "warmup"
    """Written by recsys."""

    def progress(self, step: int) -> float:
        """Share of the final sparsity that is to be zero.

        Args:
            step: Of the phase ``prune``.
        """
        assert self.ramp_steps is not None
        return 1 - _REACHED ** (step / self.ramp_steps)

    def part(self, table: TableSpec) -> Part:
        """The table itself, with a counter."""
        self.need(served=self.served)
        if self.stage == "warmup":
            decoder = Steps()
            return Part((table,), Encoder(), decoder, _Count(decoder))
        self.need(ramp_steps=self.ramp_steps)
        decoder = Steps(self.ramp_steps or 0)
        return Part((table,), Encoder(), decoder, _Prune(self, table, decoder))

    def phases(self) -> tuple[Phase, ...]:
        """Train, then prune."""
        return (Phase("warmup"), Phase("prune", keeps="settled"))

    def advance(
        self, phase: str, trained: Mapping[str, Trained], context: SearchContext
    ) -> dict[str, Successor]:
        """Shares the budget out and starts to prune."""
        shares = share_out(trained, {name: one.probes[0] for name, one in trained.items()})
        found = {}
        for name, one in trained.items():
            decoder, scheme = one.part.decoder, shares[name]
            assert isinstance(decoder, Steps) and isinstance(scheme, DeepLight)
            ramp = scheme.ramp_steps or max(1, int(decoder.steps) // 2)
            update = {"stage": "prune", "ramp_steps": ramp}
            found[name] = Successor(scheme.model_copy(update=update), one.probes)
        return found

    def frozen(self, trained: Trained) -> Successor:
        """The last cut, packed."""
        return self.serve(trained.table, trained.probes[0])
