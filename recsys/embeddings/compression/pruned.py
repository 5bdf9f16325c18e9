"""Pruned tables as they are served: only what is not zero.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recsys.embeddings.compression.budget import check_fixed
from recsys.embeddings.compression.ranked import BitSet, bit_bytes, kept_rows, kept_rows_bytes
from recsys.embeddings.scheme import Decoder, Dtype, Encoder, Part, Scheme, Successor
from recsys.errors import ConfigError
from recsys.schema import TableSpec

Layout = Literal["rows", "bitmask", "csr"]
LAYOUTS: tuple[Layout, ...] = ("rows", "bitmask", "csr")
_VALUES = {"fp32": torch.float32, "fp16": torch.float16}


class KeptRows(Encoder):
    """Indices to rows of a table that keeps some of them; the others go to PAD, which is zero.

    Args:
        rows: Of the logical table.
        kept: How many stay.

    Shape:
        - as `Encoder`
    """

    def __init__(self, rows: int, kept: int) -> None:
        super().__init__()
        self.rows = kept_rows(rows, kept)

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        """1 + position among the kept rows, or 0."""
        return (self.rows(indices).int(),)


class Bitmask(Decoder):
    """Kept rows as one bit an element, and the values of the set bits in order.

    Args:
        rows: Of the logical table.
        width: D.
        kept: Rows with at least one value.
        nnz: Values.
        dtype: Of the values.

    Shape:
        - input: no probes, indices (L,)
        - output: (L, D) float32
    """

    linear = False

    def __init__(self, rows: int, width: int, kept: int, nnz: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.width = width
        self.rows, self.elements = kept_rows(rows, kept), BitSet(max(kept, 1) * width)
        self.values: Tensor
        self.register_buffer("values", torch.zeros(nnz + 1, dtype=dtype))  # the first stays 0

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """All zero."""
        del generator
        self.values.zero_()

    def fill(self, weight: Tensor) -> None:
        """Packs a dense table (n, D)."""
        kept = weight.any(dim=1).nonzero().squeeze(1)
        found = weight[kept].flatten()
        members = found.nonzero().squeeze(1)
        self.rows.fill(kept)
        self.elements.fill(members)
        self.values[1:].copy_(found[members])

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Dense rows of the batch."""
        assert indices is not None
        row = self.rows(indices)
        first = (row - 1).clamp(min=0) * self.width
        columns = torch.arange(self.width, device=indices.device)
        real = (row > 0).unsqueeze(1)
        has = self.elements.has(first.unsqueeze(1) + columns) * real
        place = (self.elements.before(first).unsqueeze(1) + has.cumsum(1)) * has
        return self.values[place].float()

    def table_tensors(self) -> list[Tensor]:
        """The values."""
        return [self.values]


class Csr(Decoder):
    """Kept rows as column numbers and values, one row after the other.

    Args:
        rows: Of the logical table.
        width: D.
        kept: Rows with at least one value.
        nnz: Values.
        dtype: Of the values.

    Shape:
        - as `Bitmask`
    """

    linear = False

    def __init__(self, rows: int, width: int, kept: int, nnz: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.width = width
        self.rows = kept_rows(rows, kept)
        self.starts: Tensor
        self.columns: Tensor
        self.values: Tensor
        self.register_buffer("starts", torch.zeros(kept + 2, dtype=torch.int32))
        self.register_buffer("columns", torch.zeros(nnz + 1, dtype=_column_dtype(width)))
        self.register_buffer("values", torch.zeros(nnz + 1, dtype=dtype))  # the first stays 0

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """All zero."""
        del generator
        for buffer in (self.starts, self.columns, self.values):
            buffer.zero_()

    def fill(self, weight: Tensor) -> None:
        """Packs a dense table (n, D)."""
        kept = weight.any(dim=1).nonzero().squeeze(1)
        found = weight[kept]
        row, column = found.nonzero(as_tuple=True)
        self.rows.fill(kept)
        counts = torch.bincount(row, minlength=kept.shape[0])
        self.starts[:2] = 1
        self.starts[2:].copy_(counts.cumsum(0) + 1)
        self.columns[1:].copy_(column)
        self.values[1:].copy_(found[row, column])

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Dense rows of the batch."""
        assert indices is not None
        row = self.rows(indices)
        start, end = self.starts[row].unsqueeze(1), self.starts[row + 1].unsqueeze(1)
        place = start + torch.arange(self.width, device=indices.device)
        place = place * (place < end)  # past the end: to the zero at position 0
        found = self.values[place].float()
        return torch.zeros_like(found).scatter_add(1, self.columns[place].long(), found)

    def table_tensors(self) -> list[Tensor]:
        """The values."""
        return [self.values]


def _column_dtype(width: int) -> torch.dtype:
    if width <= 256:
        return torch.uint8
    return torch.int16 if width <= 1 << 15 else torch.int32


def layout_bytes(
    layout: Layout, rows: int, width: int, kept: Tensor, nnz: Tensor, value: int = 4
) -> Tensor:
    """Bytes of a layout; the formula of `Pruned`.

    Args:
        layout: Which.
        rows: Of the logical table, PAD included.
        width: D.
        kept: Rows with at least one value, int64, any shape.
        nnz: Values, int64, of the same shape.
        value: Bytes of a value.
    """
    index = kept_rows_bytes(rows, kept)
    if layout == "rows":
        return index + value * width * (kept + 1)
    if layout == "bitmask":
        return index + bit_bytes(kept.clamp(min=1) * width) + value * (nnz + 1)
    return index + 4 * (kept + 2) + (_column_dtype(width).itemsize + value) * (nnz + 1)


def smallest_bytes(rows: int, width: int, kept: Tensor, nnz: Tensor) -> Tensor:
    """Bytes of the smallest layout in fp32, or of the full table where that is smaller.

    Args:
        rows: Of the logical table.
        width: D.
        kept: Rows with at least one value, int64, any shape.
        nnz: Values, of the same shape.
    """
    found = torch.stack([layout_bytes(layout, rows, width, kept, nnz) for layout in LAYOUTS])
    return found.amin(dim=0).clamp(max=4 * rows * width)


class Pruned(Scheme):
    """Only the values that are not zero, in the smallest of three layouts.

    Which rows are kept (k of n) is one bit a row with ranks, or a sorted list of their numbers.
    Then ``rows`` keeps whole rows, an ordinary table of k + 1 rows that stays linear; ``bitmask``
    keeps one bit an element of the kept rows and the values in order; ``csr`` keeps row starts,
    column numbers and values. It is what `DeepLight`, `PEP` and `AutoSrh` freeze into, and is
    never trained.

    Memory: with ``bits(U) = 10 W + 4 ceil(W / 512)`` bytes, ``W = ceil(U / 64)``, for a set of U
    numbers, and ``index = min(bits(n), 4 (k + 1))``, in values of v bytes:

    - rows: ``index + v D (k + 1)``
    - bitmask: ``index + bits(k D) + v (nnz + 1)``
    - csr: ``index + 4 (k + 2) + (c + v) (nnz + 1)``, c = 1 up to D = 256, else 2 or 4

    Example:
        >>> table = TableSpec(name="user", num_embeddings=4, embedding_dim=2,
        ...                   feature_names=("user",), pooling="sum")
        >>> scheme = pruned(table, torch.tensor([[0., 0], [0, 0], [0, 3], [0, 0]])).scheme
        >>> scheme.layout, scheme.kept, scheme.nnz
        ('rows', 1, 1)

    Source:
        The CSR of Hetu's EmbeddingMemoryCompression (``scheduler/switchinference.py``) has 32-bit
        columns and a pointer for every row, 6 % of a table of width 16. Here rows without values
        cost 1.25 bits or nothing, and columns one byte.
    """

    narrow: ClassVar[bool] = True
    served_only: ClassVar[bool] = True
    kind: Literal["pruned"] = "pruned"
    """Name in configurations."""
    layout: Layout | None = None
    """How values are found. Written by recsys."""
    kept: int | None = Field(default=None, ge=0)
    """Rows with at least one value. Written by recsys."""
    nnz: int | None = Field(default=None, ge=0)
    """Values. Written by recsys."""
    values: Literal["fp32", "fp16"] = "fp32"
    """How ``bitmask`` and ``csr`` hold values."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """As it is: sizes come from a trained table."""
        if self.layout is None:
            raise ConfigError(
                "scheme `pruned` is what pruning ends in and cannot be trained. Use `deep_light`, "
                "`pep` or `auto_srh`; their frozen tables are `pruned`."
            )
        plan: dict[str, Scheme] = {table.name: self for table in tables}
        return check_fixed(self.kind, tables, budget, plan)

    def part(self, table: TableSpec) -> Part:
        """A table of the kept rows, or a decoder that holds the values."""
        self.need(layout=self.layout, kept=self.kept, nnz=self.nnz)
        assert self.kept is not None and self.nnz is not None
        rows, width, dtype = table.num_embeddings, table.embedding_dim, _VALUES[self.values]
        if self.layout == "rows":
            probe = table.model_copy(
                update={"name": f"{table.name}@rows", "num_embeddings": self.kept + 1}
            )
            return Part((probe,), KeptRows(rows, self.kept), Decoder())
        make = Bitmask if self.layout == "bitmask" else Csr
        return Part((), Encoder(), make(rows, width, self.kept, self.nnz, dtype))

    def check_dtype(self, dtype: Dtype) -> None:
        """Rows take every dtype; values that stand alone have no row to share a scale with."""
        if self.layout != "rows" and dtype not in _VALUES:
            raise ConfigError(
                f"scheme `pruned` in layout `{self.layout}` holds single values in fp32 or fp16, "
                f"got {dtype}: the integer dtypes have one scale a row, and pruned rows have few "
                "values. Freeze to fp16."
            )

    def stored(self, dtype: Dtype) -> Scheme:
        """With values of this dtype."""
        self.check_dtype(dtype)
        if self.layout == "rows" or dtype == self.values:
            return self
        return self.model_copy(update={"values": dtype})

    def bytes(self, table: TableSpec) -> int:
        """What it takes.

        Args:
            table: That it holds.
        """
        assert self.layout is not None and self.kept is not None and self.nnz is not None
        kept, nnz = (torch.tensor(size, device="cpu") for size in (self.kept, self.nnz))
        value = _VALUES[self.values].itemsize
        size = layout_bytes(
            self.layout, table.num_embeddings, table.embedding_dim, kept, nnz, value
        )
        return int(size)


def smallest(table: TableSpec, kept: int, nnz: int) -> Pruned:
    """The smallest layout for these sizes.

    Args:
        table: That is pruned.
        kept: Rows with at least one value.
        nnz: Values.
    """
    found = [Pruned(layout=layout, kept=kept, nnz=nnz) for layout in LAYOUTS]
    return min(found, key=lambda scheme: scheme.bytes(table))


def pruned(table: TableSpec, weight: Tensor) -> Successor:
    """A dense table with zeros, packed.

    Args:
        table: What the model asks for.
        weight: (n, D); row 0 is taken as zero.
    """
    weight = weight.detach().float().clone()
    weight[0] = 0
    kept = weight.any(dim=1).nonzero().squeeze(1)
    scheme = smallest(table, kept.shape[0], int(weight.count_nonzero()))
    with torch.device(weight.device):
        part = scheme.part(table)
    if isinstance(part.encoder, KeptRows):
        part.encoder.rows.fill(kept)
        rows = torch.cat([weight[:1], weight[kept]])
        return Successor(scheme, (rows,), part.encoder.state_dict(), None)
    assert isinstance(part.decoder, Bitmask | Csr)
    part.decoder.fill(weight)
    return Successor(scheme, (), None, part.decoder.state_dict())
