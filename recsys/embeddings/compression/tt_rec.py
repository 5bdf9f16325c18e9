"""Tensor trains: a table as the product of three small tensors.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys.embeddings.compression.budget import check_fixed, fit, smaller_of
from recsys.embeddings.ids import is_traced
from recsys.embeddings.scheme import Decoder, Dtype, Encoder, Part, Scheme
from recsys.errors import ConfigError
from recsys.schema import TableSpec

_CHUNK = 1 << 15  # vectors at a time: the products of two cores are large
_TAIL = 0.022750131948179195  # P(z > 2) of a standard normal
_TAIL_STD = math.sqrt(1.0 + 4.0 * math.exp(-2.0) / math.sqrt(2.0 * math.pi) / (2.0 * _TAIL))


def split_rows(rows: int) -> tuple[int, int, int]:
    """Three nearly equal numbers whose product is at least ``rows``, ascending.

    Args:
        rows: At least 1.

    Example:
        >>> split_rows(1000), split_rows(23)
        ((10, 10, 10), (2, 3, 4))
    """
    first = max(1, math.floor(rows ** (1 / 3) + 1e-9))
    second = max(1, math.floor(math.sqrt(rows / first) + 1e-9))
    return first, second, -(-rows // (first * second))


def split_width(width: int) -> tuple[int, int, int]:
    """Three factors of a width, ascending, as equal as they can be.

    Args:
        width: At least 1.

    Example:
        >>> split_width(16), split_width(64), split_width(7)
        ((2, 2, 4), (4, 4, 4), (1, 1, 7))
    """
    found = [
        (a, b, width // (a * b))
        for a in range(1, width + 1)
        if width % a == 0
        for b in range(a, width // a + 1)
        if (width // a) % b == 0 and width // (a * b) >= b
    ]
    return min(found, key=sum)


class TensorTrain(Decoder):
    """``row(x) = G1[i1] G2[i2] G3[i3]`` with (i1, i2, i3) the digits of ``x - 1``.

    Equal indices are computed once, and so are the products of the first two cores: frequent
    indices are small and share them.

    Args:
        rows: How many rows each core has.
        widths: Factors of D.
        rank: R.
        std: Standard deviation of the rows at the start.

    Shape:
        - as `Decoder`, without probes
    """

    linear = False

    def __init__(
        self, rows: tuple[int, int, int], widths: tuple[int, int, int], rank: int, std: float
    ) -> None:
        super().__init__()
        self.rows, self.widths, self.rank, self.std = rows, widths, rank, std
        sizes = (widths[0] * rank, rank * widths[1] * rank, rank * widths[2])
        self.cores = nn.ParameterList(
            nn.Parameter(torch.empty(count, size)) for count, size in zip(rows, sizes)
        )

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Equal shares of the deviation for all cores; entries near zero are not drawn.

        Where rows start at zero, the last core alone is zero, so that training can begin.
        """
        share = (self.std / self.rank) ** (1 / 3)  # a row's entry is a sum of R^2 products of three
        shares = (share,) * 3 if self.std > 0 else (self.rank**-0.5, self.rank**-0.5, 0.0)
        for core, own in zip(self.cores, shares):
            if not core.is_meta:
                with torch.no_grad():
                    core.copy_(_far_from_zero(core.shape, generator).mul_(own))

    def table_tensors(self) -> list[Tensor]:
        """The cores."""
        return list(self.cores)

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Gathers and two batched products. PAD is computed as index 1 and replaced later."""
        assert indices is not None
        positions = (indices.long() - 1).clamp(min=0)
        if is_traced(indices):
            return self._product(positions // self.rows[2], positions % self.rows[2])
        distinct, back = torch.unique(positions, return_inverse=True)
        found = [self._of_distinct(some) for some in distinct.split(_CHUNK)]
        return torch.cat(found).index_select(0, back)

    def _of_distinct(self, positions: Tensor) -> Tensor:
        third = self.rows[2]
        pairs, back = torch.unique_consecutive(positions // third, return_inverse=True)
        return self._product(pairs, positions % third, back)

    def _product(self, pairs: Tensor, last: Tensor, back: Tensor | None = None) -> Tensor:
        """Rows of pairs (i1, i2) and of i3; ``back`` says which pair every row has."""
        (_, second, _), (a, b, c), rank = self.rows, self.widths, self.rank
        left = self.cores[0].index_select(0, pairs // second).view(-1, a, rank)
        middle = self.cores[1].index_select(0, pairs % second).view(-1, rank, b * rank)
        left = torch.bmm(left, middle).view(-1, a * b, rank)
        if back is not None:
            left = left.index_select(0, back)
        right = self.cores[2].index_select(0, last).view(-1, rank, c)
        return torch.bmm(left, right).reshape(-1, a * b * c)


class TTRec(Scheme):
    """A table as a tensor train: row x is ``G1[i1] G2[i2] G3[i3]``, cores with inner width R.

    Its entry (j1, j2, j3) is ``sum_r,s G1[i1, j1, r] G2[i2, r, j2, s] G3[i3, s, j3]``, with
    ``n - 1 <= n1 n2 n3``, ``D = d1 d2 d3`` and ``x - 1 = (i1 n2 + i2) n3 + i3``. The cores are
    dense parameters: every rank holds all of them, and the dense optimizer trains them.

    Memory: ``4 R (n1 d1 + n2 d2 R + n3 d3)`` bytes a table. The floor is R = 1. Work: about
    ``R^2 d1 d2`` multiplications for each distinct (i1, i2) of a batch and ``R D`` an index.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=1001, embedding_dim=8,
        ...                   feature_names=("user",), pooling="sum")
        >>> TTRec().plan([table], budget=3200)["user"].rank  # 10 * 2 * (2 * 5 + 5 * 5) * 4 = 2800
        5

    Source:
        Yin et al., "TT-Rec: Tensor Train Compression for Deep Learning Recommendation Models",
        MLSys 2021 (arXiv:2101.11714), equations 2 and 3. Start values leave out small numbers as
        in their section on sampled Gaussians (|z| > 2), rescaled to the deviation asked for.
        There is no cache of frequent rows.
    """

    kind: Literal["tt_rec"] = "tt_rec"
    """Name in configurations."""
    rank: int | None = Field(default=None, ge=1)
    """R, of both inner dimensions; None is set by the budget."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """Ranks that keep one share of every table."""
        if budget is None or self.rank is not None:
            self.need(rank=self.rank)
            fixed = {table.name: smaller_of(table, self) for table in tables}
            return check_fixed(self.kind, tables, budget, fixed)
        return fit(self.kind, tables, budget, lambda share: self._at(tables, share))

    def _at(self, tables: Sequence[TableSpec], share: float) -> dict[str, Scheme]:
        plan: dict[str, Scheme] = {}
        for table in tables:
            rows, widths = _split(table)
            once = rows[0] * widths[0] + rows[2] * widths[2]
            twice = rows[1] * widths[1]
            words = share * table.num_embeddings * table.embedding_dim
            rank = (math.sqrt(once**2 + 4 * twice * words) - once) / (2 * twice)
            chosen = self.model_copy(update={"rank": max(1, math.floor(rank + 1e-9))})
            plan[table.name] = smaller_of(table, chosen)
        return plan

    def part(self, table: TableSpec) -> Part:
        """No probes: the decoder holds the cores."""
        self.need(rank=self.rank)
        assert self.rank is not None
        std = 0.0 if table.init.kind == "zeros" else table.init.std
        return Part((), Encoder(), TensorTrain(*_split(table), self.rank, std))

    def check_dtype(self, dtype: Dtype) -> None:
        """Refuses all but fp32: there are no rows to store otherwise."""
        if dtype != "fp32":
            raise ConfigError(
                f"scheme `{self.kind}`: expected dtype fp32, got {dtype}. Its cores are factors of "
                "a product, not rows of a table, and stay in fp32. Freeze to fp32, or lower `rank`."
            )


def _split(table: TableSpec) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Rows and widths of the cores. PAD has no row."""
    return split_rows(max(1, table.num_embeddings - 1)), split_width(table.embedding_dim)


def _far_from_zero(size: torch.Size, generator: torch.Generator | None) -> Tensor:
    """Normal numbers given that |z| > 2, divided by their deviation."""
    unit = torch.rand(size, generator=generator, dtype=torch.float64, device="cpu") * 2.0 - 1.0
    sign = torch.where(unit < 0, -1.0, 1.0)
    values = -torch.special.ndtri(unit.abs().clamp(min=1e-12) * _TAIL)
    return (values * sign / _TAIL_STD).float()
