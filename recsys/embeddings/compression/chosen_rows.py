"""Ids that were chosen in training have rows of their own, the others share by hash.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from recsys.embeddings.compression.budget import check_fixed
from recsys.embeddings.compression.hashing import HashEncoder
from recsys.embeddings.compression.hot_rows import HotRows
from recsys.embeddings.scheme import Decoder, Encoder, Part, Scheme
from recsys.schema import PAD_INDEX, TableSpec

NOBODY = (1 << 31) - 1  # an id that no table has


class ChosenRowsEncoder(Encoder):
    """A sorted list of ids with their rows, found by bisection; else ``shared_start + h(x)``.

    Args:
        name: Of the table; salts the hash.
        hot_rows: Length of the list. Unused places hold the largest int32.
        num_buckets: Rows that the others share.
        shared_start: Rows before the shared ones, PAD not counted.
        salt: Seed of the hash.

    Shape:
        - as `Encoder`
    """

    def __init__(
        self, name: str, hot_rows: int, num_buckets: int, shared_start: int, salt: int
    ) -> None:
        super().__init__()
        self.shared_start = shared_start
        self.hash = HashEncoder([name], [num_buckets], salt)
        self.ids: Tensor
        self.rows: Tensor
        self.register_buffer("ids", torch.empty(hot_rows, dtype=torch.int32))
        self.register_buffer("rows", torch.empty(hot_rows, dtype=torch.int32))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Writes the salt, and an empty list."""
        self.hash.initialize(generator)
        self.ids.fill_(NOBODY)
        self.rows.zero_()

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The row of every index."""
        rows = self.hash(indices)[0] + self.shared_start
        if self.ids.shape[0]:
            values = indices.int()
            place = torch.searchsorted(self.ids, values).clamp(max=self.ids.shape[0] - 1)
            rows = torch.where(self.ids[place] == values, self.rows[place], rows)
        return (rows.masked_fill(indices == PAD_INDEX, PAD_INDEX),)


class ChosenRows(HotRows):
    """``hot_rows`` ids from a list have rows of their own: how `CAFE` is served.

    Memory: ``4 D (1 + hot_rows + num_buckets) + 8 hot_rows + 8`` bytes a table; multiplexed the
    first term once, over the rows of all tables.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=1000, embedding_dim=8,
        ...                   feature_names=("user",), pooling="sum")
        >>> encoder = ChosenRows(hot_rows=2, num_buckets=3).part(table).encoder
        >>> encoder.ids.copy_(torch.tensor([7, 900])).shape, encoder.rows.copy_(
        ...     torch.tensor([2, 1])).shape
        (torch.Size([2]), torch.Size([2]))
        >>> encoder(torch.tensor([0, 7, 900]))[0].tolist()
        [0, 2, 1]
    """

    narrow: ClassVar[bool] = True
    served_only: ClassVar[bool] = True
    owner_bytes: ClassVar[int] = 8
    kind: Literal["chosen_rows"] = "chosen_rows"
    """Name in configurations."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """As it is: sizes come from training."""
        self.sizes()
        return check_fixed(self.kind, tables, budget, {table.name: self for table in tables})

    def part(self, table: TableSpec) -> Part:
        """One probe."""
        hot, buckets, _, before = self.sizes()
        encoder = ChosenRowsEncoder(table.name, hot, buckets, before, self.salt)
        return Part((self.probe(table, "cafe"),), encoder, Decoder())
