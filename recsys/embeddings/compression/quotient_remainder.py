"""Quotient-remainder tables: two small tables whose pairs of rows are unique.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from recsys.embeddings.compression.budget import check_fixed
from recsys.embeddings.compression.double_hash import Sum
from recsys.embeddings.compression.multiplex import fit_share, keep_full, spans
from recsys.embeddings.scheme import Concat, Decoder, Encoder, Part, Scheme
from recsys.schema import PAD_INDEX, Init, TableSpec


class DivideEncoder(Encoder):
    """Remainder and quotient of ``offset + x - 1`` by m, each plus 1; PAD to PAD.

    Args:
        num_remainders: m.
        offset: Ids of the tables before this one.

    Shape:
        - as `Encoder`
    """

    def __init__(self, num_remainders: int, offset: int) -> None:
        super().__init__()
        self.num_remainders, self.offset = num_remainders, offset

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        """Remainders, quotients."""
        numbers, pad = indices.long() + (self.offset - 1), indices == PAD_INDEX
        quotients = numbers.div(self.num_remainders, rounding_mode="floor")
        remainders = numbers - quotients * self.num_remainders
        return tuple(
            (rows + 1).masked_fill(pad, PAD_INDEX).int() for rows in (remainders, quotients)
        )


class Product(Decoder):
    """The product of two vectors, number by number.

    Shape:
        - as `Decoder`, two probes of one width
    """

    linear = False

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Multiplies them."""
        return probes[0] * probes[1]


class QuotientRemainder(Scheme):
    """Two tables R (m rows) and Q (n / m rows): ``e(x) = R[x mod m] * Q[x // m]``.

    ``*`` is the product number by number, the sum, or (side by side) a concatenation. Every id
    has a pair of rows that no other id has. About c = n / m ids share a row of R.

    No hash here: remainders are unique among m indices in a row, and index order is frequency
    order, so the m most frequent ids never share a row of R with each other, which no hash can
    promise. They share Q[0]; Q tells them from the rarer ids behind them.

    With ``multiplex`` one R and one Q serve all logical tables of a width. Their indices lie one
    after the other, so that pairs stay unique over all of them.

    Start values: for the product R has the std asked for and Q has std 1, so the vectors have
    the std too and a step moves them as far as rows of a plain table. (Equal shares would be
    1e-2 each at 1e-4: a step of plain SGD would do almost nothing. Q must not be all ones: then
    ids that share a row of R would start as one and get the same gradient.) Summed, both have
    ``std / sqrt(2)``; side by side, both the std, R has the first ``ceil(D / 2)`` numbers.

    Memory: ``4 (m + 1 + ceil(n / m) + 1) D`` bytes a table for product and sum, half of that
    side by side; n without PAD. The floor is c = sqrt(n), about ``8 sqrt(n) D`` bytes. Side by
    side never takes more than about half of the full table.

    Configuration::

        compression: {scheme: {kind: quotient_remainder, combine: mul}, ratio: 0.1}

    Example:
        >>> table = TableSpec(name="user", num_embeddings=1001, embedding_dim=8,
        ...                   feature_names=("user",), pooling="sum")
        >>> part = QuotientRemainder(collisions=4).part(table)
        >>> [probe.num_embeddings for probe in part.probes]
        [251, 5]

    Source:
        Shi et al., "Compositional Embeddings Using Complementary Partitions for Memory-Efficient
        Recommendation Systems", KDD 2020, the quotient-remainder trick. R is the large table
        here; in facebookresearch/dlrm (tricks/qr_embedding_bag.py) Q is. Bags are pooled
        after the product; dlrm multiplies pooled rows (its issue 366). Start values are
        ours. A table of width 1 is summed where others are side by side.
    """

    narrow: ClassVar[bool] = True
    kind: Literal["quotient_remainder"] = "quotient_remainder"
    """Name in configurations."""
    combine: Literal["mul", "sum", "concat"] = "mul"
    """How two rows become one vector."""
    collisions: float | None = Field(default=None, ge=1)
    """c, ids that share a row of R: ``m = ceil(n / c)``. None is set by the budget."""
    multiplex: bool = False
    """One R and one Q for all features of one width."""
    offset: int = Field(default=0, ge=0)
    """Ids of the tables before this one where multiplexed. Written by `plan`."""
    total: int | None = Field(default=None, ge=1)
    """Ids of all tables where multiplexed. Written by `plan`."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """One c for all tables, or sqrt(n) for those where it is larger than that."""
        found = spans(tables, self.multiplex)

        def at(share: float) -> dict[str, Scheme]:
            plan: dict[str, Scheme] = {}
            for name, (offset, total) in found.items():
                most = math.sqrt(total)
                collisions = min(most, 1.0 / share) if share else most
                if self.collisions is not None:
                    collisions = self.collisions
                update: dict[str, object] = {"collisions": collisions}
                if self.multiplex:
                    update |= {"offset": offset, "total": total}
                plan[name] = self.model_copy(update=update)
            return plan

        if budget is None or self.collisions is not None:
            self.need(collisions=self.collisions)
            fixed = keep_full(tables, at(1.0), self.multiplex)
            return check_fixed(self.kind, tables, budget, fixed)
        return fit_share(self.kind, tables, budget, self.multiplex, at)

    def part(self, table: TableSpec) -> Part:
        """Remainder and quotient."""
        self.need(collisions=self.collisions)
        if self.multiplex:
            self.need(total=self.total)
        assert self.collisions is not None
        dim, ids = table.embedding_dim, self.total or max(1, table.num_embeddings - 1)
        remainders = max(1, math.ceil(ids / self.collisions))
        quotients, init = math.ceil(ids / remainders), table.init
        widths, inits, decoder = (dim, dim), (init, init), Concat()
        if self.combine == "mul":
            kind = "normal" if init.kind == "zeros" else init.kind
            inits, decoder = (init, Init(kind=kind, std=1.0)), Product()
        elif self.combine == "sum" or dim == 1:
            half = init.model_copy(update={"std": init.std / math.sqrt(2.0)})
            inits, decoder = (half, half), Sum()
        else:
            widths = (dim - dim // 2, dim // 2)
        names = [f"{table.name}@remainder", f"{table.name}@quotient"]
        if self.multiplex:
            names = [f"shared@remainder{dim}", f"shared@quotient{dim}"]
        sizes = zip(names, (remainders + 1, quotients + 1), widths, inits)
        fields = ("name", "num_embeddings", "embedding_dim", "init")
        probes = tuple(table.model_copy(update=dict(zip(fields, size))) for size in sizes)
        return Part(probes, DivideEncoder(remainders, self.offset), decoder)
