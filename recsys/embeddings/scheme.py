"""Encode -> Store -> Decode: how a logical table is made of physical ones.

A logical table (what a model asks for) is looked up through an `Encoder` (indices to indices of
physical tables), a store (ordinary tables, the only part that is sharded) and a `Decoder`
(physical vectors to the wanted vector)::

    indices (L,) --encode--> indices of probe 0, 1, ... --store--> vectors --decode--> (_, D)

`Full` is the identity on both sides. A compressed variant is another `Scheme`; models, stores and
optimizers do not change.

Stability: experimental
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from recsys.schema import TableSpec


class Encoder(nn.Module):
    """Indices of a logical table to indices of its physical tables, one tensor a probe.

    PAD must stay PAD. Only integer buffers, no trained parameters.

    Shape:
        - input: (L,) int32
        - output: one (L,) int32 a probe
    """

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The same indices."""
        return (indices,)


class Decoder(nn.Module):
    """Vectors of the probes to the vector of the logical table: here the only probe's own.

    Shape:
        - input: one (_, D of the probe) a probe; _ is B where ``linear``, else L
        - output: (_, D)
    """

    linear: bool = True
    """Whether decoding commutes with pooling: decode(pool(x)) == pool(decode(x)). A linear decoder
    gets pooled vectors; the others get one vector an index, and pooling comes after."""

    def forward(self, probes: Sequence[Tensor]) -> Tensor:
        """The vector of the only probe."""
        return probes[0]


@dataclasses.dataclass(frozen=True)
class Part:
    """One logical table, taken apart.

    Args:
        probes: The physical table of every probe. Their ``feature_names`` are the logical ones;
            probes of one part may name one table twice. Names are ``<table>`` or
            ``<table>@<role>``.
        encoder: Makes the probes' indices.
        decoder: Puts the probes' vectors together.
    """

    probes: tuple[TableSpec, ...]
    encoder: Encoder
    decoder: Decoder


class Scheme(Protocol):
    """A way to hold a logical table."""

    def part(self, table: TableSpec) -> Part:
        """Takes a logical table apart."""
        ...


class Full:
    """Every index has a row of its own: no compression."""

    def part(self, table: TableSpec) -> Part:
        """The table itself between two identities."""
        return Part((table,), Encoder(), Decoder())
