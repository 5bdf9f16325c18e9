"""Quantization-aware training: float rows, rounded in the forward, served packed.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from recsys.embeddings.compression.budget import smaller_of
from recsys.embeddings.compression.fake_quantization import BlockQuantized, RowQuantized
from recsys.embeddings.compression.grid import Block, Grid, pack_blocks, widest_fit
from recsys.embeddings.scheme import Dtype, Encoder, Part, Scheme, Successor, Trained
from recsys.errors import ConfigError
from recsys.schema import Init, TableSpec

Width = Literal[2, 4, 8]


class QAT(Scheme):
    """Rows are fp32 in training, but every forward sees ``step clip(round(w / step))``.

    ``scale=periodic``: the step is the largest absolute value over ``2^(bits-1) - 1``; gradients
    pass the rounding unchanged. Per table it is taken every ``period`` steps, and after steps
    1, 2, 4, 8, ... of the first period, while rows grow from tiny start values; per row it is the
    row's own in every forward. ``scale=learned``: LSQ. The step is LSQ's start
    ``2 mean|w| / sqrt(2^(bits-1) - 1)`` times a learned factor ``exp(p)``; per table the mean is
    taken on the same schedule and the dense optimizer trains p; per row the mean is the row's own
    and p is a table of width 1 under the embedding optimizer.

    What is served equals the eval forward bit for bit: codes packed in ``bits`` bits and the very
    steps of training (fp32 per table, bfloat16 per row).

    Memory: ``(n - 1) D bits / 8 + 4`` bytes a table per table, ``(n - 1) (D bits / 8 + 2)`` per
    row. In training ``4 n D`` (and 4 n for learned steps per row) and a few bytes.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=1000, embedding_dim=8,
        ...                   feature_names=("user",), pooling="sum")
        >>> QAT().plan([table], budget=4500)["user"].bits
        4

    Source:
        ``periodic``: DQRM (Zhou et al., "DQRM: Deep Quantized Recommendation Models", 2024): one
        scale a table, found every 200 steps on Criteo Kaggle. Differs: the doubling schedule at
        the start. ``learned``: LSQ (Esser et al., "Learned Step Size Quantization", ICLR 2020),
        equations 3 and 5, gradients scaled by ``1 / sqrt(D * largest code)``: a row is the layer.
        Differs: the logarithm of a factor is learned rather than the step, so that the optimizer's
        rate is relative to it; the mean that it multiplies is not only that of the start, because
        LSQ starts from trained weights and these do not.
    """

    narrow: ClassVar[bool] = True
    kind: Literal["qat"] = "qat"
    """Name in configurations."""
    bits: Width | None = None
    """Of a number; None is the widest that fits the budget, or 8 without one."""
    per: Literal["table", "row"] = "table"
    """What a step belongs to. Tables of width 1 always have one step."""
    scale: Literal["periodic", "learned"] = "periodic"
    """Where steps come from. 2 bits need ``learned``."""
    period: int = Field(default=200, ge=1)
    """Steps between two looks at the whole table."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.bits == 2 and self.scale == "periodic":
            raise ConfigError(
                "scheme `qat`: bits=2 with scale=periodic leaves one positive code, which only "
                "the largest values of a table reach: nearly all rows become zero. Set "
                "scale=learned."
            )
        return self

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """The widest that fits."""
        widths: tuple[Width, ...] = (8, 4, 2) if self.scale == "learned" else (8, 4)
        if self.bits is not None:
            widths = (self.bits,)
        elif budget is None:
            widths = (8,)
        plans = [
            {table.name: smaller_of(table, self._at(table, bits)) for table in tables}
            for bits in widths
        ]
        return widest_fit(self.kind, tables, budget, plans)

    def _at(self, table: TableSpec, bits: Width) -> Scheme:
        per = "table" if table.embedding_dim == 1 else self.per
        return self.model_copy(update={"bits": bits, "per": per})

    def part(self, table: TableSpec) -> Part:
        """Float rows, and a decoder that rounds them."""
        self.need(bits=self.bits)
        assert self.bits is not None
        learned = self.scale == "learned"
        probe = table.model_copy(update={"name": f"{table.name}@qat"})
        if self.per == "table":
            rows = [table.num_embeddings - 1]
            decoder = BlockQuantized(table, rows, [self.bits], learned, self.period)
            return Part((probe,), Encoder(), decoder, adapter=decoder)
        probes: tuple[TableSpec, ...] = (probe,)
        if learned:
            update = {
                "name": f"{table.name}@factor",
                "embedding_dim": 1,
                "init": Init(kind="zeros", std=0.0),
            }
            probes = (probe, table.model_copy(update=update))
        return Part(probes, Encoder(), RowQuantized(self.bits, learned))

    def frozen(self, trained: Trained) -> Successor:
        """The codes that the forward rounds to, packed, and the steps it used."""
        scheme, decoder, probes = self.frozen_scheme(), trained.part.decoder, trained.probes
        with torch.no_grad():
            if isinstance(decoder, BlockQuantized):
                return Successor(scheme, decoder=block_state(decoder, trained, scheme.blocks))
            assert isinstance(decoder, RowQuantized)
            steps = decoder.steps(probes)[1:, 0].bfloat16()

            def codes(indices: Tensor) -> Tensor:
                mine = indices.to(probes[0].device)
                return decoder.codes([probe[mine] for probe in probes])

            packed = pack_blocks(scheme.blocks, trained.table, codes)
        return Successor(scheme, decoder={"codes": packed, "steps": steps.cpu()})

    def frozen_scheme(self) -> Grid:
        """A grid of the same width."""
        self.need(bits=self.bits)
        assert self.bits is not None
        if self.per == "row":
            return Grid(blocks=(Block(bits=self.bits),), per="row", step="bf16")
        return Grid(blocks=(Block(bits=self.bits),))

    def check_dtype(self, dtype: Dtype) -> None:
        """Rows keep their own width."""
        self.frozen_scheme().check_dtype(dtype)


def block_state(
    decoder: BlockQuantized, trained: Trained, blocks: Sequence[Block]
) -> dict[str, Tensor]:
    """State of the `GridRows` that gives what a decoder gives.

    Args:
        decoder: Trained.
        trained: Its table.
        blocks: Of both.
    """
    weight = trained.probes[0]

    def codes(indices: Tensor) -> Tensor:
        mine = indices.to(weight.device)
        return decoder.codes(weight[mine], mine.to(decoder.level.device))

    with torch.no_grad():
        packed = pack_blocks(blocks, trained.table, codes)
        return {"codes": packed, "steps": decoder.steps().detach().cpu().clone()}
