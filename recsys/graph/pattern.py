"""Where the entries of a sparse matrix are: its rows, and how its transpose is read.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from recsys.errors import DataError

_MOST_NODES = 2**31 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Pattern:
    """Edges by row, then column (CSR), and the same edges by column.

    An edge may occur several times (say, under several relations).

    Args:
        indptr: Where the edges of every row begin, and the end of the last.
        col: Column of every edge.
        num_cols: C.
        transposed_indptr: ``indptr`` of the transpose.
        transposed_col: Row of every edge in the order of the transpose.
        mirror: Position here of every edge of the transpose. Where the pattern is symmetric this
            is the edge in the other direction.
        symmetric: Whether the transpose has the same pattern.

    Shape:
        - indptr: (R + 1,) int64, transposed_indptr: (C + 1,) int64
        - col, transposed_col: (E,) int32
        - mirror: (E,) int32, or int64 beyond two billion edges
    """

    indptr: Tensor
    col: Tensor
    num_cols: int
    transposed_indptr: Tensor
    transposed_col: Tensor
    mirror: Tensor
    symmetric: bool

    @classmethod
    def of(cls, row: Tensor, col: Tensor, num_rows: int, num_cols: int) -> tuple[Pattern, Tensor]:
        """The pattern of edges in any order.

        Args:
            row: Of every edge, (E,) integers.
            col: Of every edge, (E,) integers.
            num_rows: R.
            num_cols: C.

        Returns:
            The pattern, and the position in the caller's list of each of its edges, (E,) int64.

        Raises:
            DataError: Lengths differ, or a number is out of range.
        """
        _check(row, col, num_rows, num_cols)
        keys = row.cpu().long() * num_cols + col.cpu().long()
        keys, order = torch.sort(keys, stable=True)
        rows, cols = keys // max(num_cols, 1), (keys % max(num_cols, 1)).int()
        counts = torch.bincount(rows, minlength=num_rows)
        indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        t_indptr, t_col, mirror = _transposed(indptr, cols, num_cols)
        symmetric = torch.equal(indptr, t_indptr) and torch.equal(cols, t_col)
        if symmetric:
            t_indptr, t_col = indptr, cols
        return cls(indptr, cols, num_cols, t_indptr, t_col, mirror, symmetric), order

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.indptr) - 1

    @property
    def num_edges(self) -> int:
        """E, both directions of an undirected edge counted."""
        return len(self.col)

    @functools.cached_property
    def row(self) -> Tensor:
        """Row of every edge, (E,) int32."""
        with torch.inference_mode(False):
            numbers = torch.arange(self.num_rows, dtype=torch.int32, device=self.col.device)
            return numbers.repeat_interleave(self.indptr.diff(), output_size=self.num_edges)

    @functools.cached_property
    def pairs(self) -> Tensor:
        """A number that both directions of an edge share, (E,). Needs a symmetric pattern."""
        with torch.inference_mode(False):
            numbers = torch.arange(
                self.num_edges, dtype=self.mirror.dtype, device=self.mirror.device
            )
            return torch.minimum(numbers, self.mirror)

    def transpose(self) -> Pattern:
        """Rows as columns."""
        back = torch.empty_like(self.mirror)
        back[self.mirror.long()] = torch.arange(
            self.num_edges, dtype=back.dtype, device=back.device
        )
        return Pattern(
            self.transposed_indptr, self.transposed_col, self.num_rows, self.indptr, self.col,
            back, self.symmetric,
        )  # fmt: skip

    def take(self, kept: Tensor) -> Pattern:
        """Some of the edges, in the same order.

        Args:
            kept: Their positions, rising, int64.
        """
        stays = torch.zeros(self.num_edges, dtype=torch.bool, device=kept.device)
        stays[kept] = True
        before = _counts_before(stays)
        indptr, col = before[self.indptr], self.col.index_select(0, kept)
        t_stays = stays.index_select(0, self.mirror)
        symmetric = self.symmetric and torch.equal(stays, t_stays)
        t_kept, t_indptr, t_col = kept, indptr, col
        if not symmetric:
            t_kept = t_stays.nonzero()[:, 0]
            t_indptr = _counts_before(t_stays)[self.transposed_indptr]
            t_col = self.transposed_col.index_select(0, t_kept)
        mirror = before.to(self.mirror.dtype).index_select(0, self.mirror.index_select(0, t_kept))
        return Pattern(indptr, col, self.num_cols, t_indptr, t_col, mirror, symmetric)

    def to(self, device: torch.device | str) -> Pattern:
        """The same on another device."""
        names = ("indptr", "col", "transposed_indptr", "transposed_col", "mirror")
        return dataclasses.replace(self, **{name: getattr(self, name).to(device) for name in names})


def _check(row: Tensor, col: Tensor, num_rows: int, num_cols: int) -> None:
    if max(num_rows, num_cols) > _MOST_NODES:
        raise DataError(
            f"expected at most {_MOST_NODES:,} nodes on a side, got {max(num_rows, num_cols):,}. "
            "Use a model that does not propagate, or split the graph."
        )
    if row.ndim != 1 or row.shape != col.shape:
        raise DataError(
            f"edges: expected as many rows as columns, got {tuple(row.shape)} and "
            f"{tuple(col.shape)}."
        )
    for name, numbers, count in (("row", row, num_rows), ("col", col, num_cols)):
        if numbers.is_floating_point() or numbers.dtype == torch.bool:
            raise DataError(f"edges: expected integers as `{name}`, got {numbers.dtype}.")
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < count:
            raise DataError(
                f"edges: expected `{name}` from 0 to {count - 1}, got {int(numbers.min())} to "
                f"{int(numbers.max())}."
            )


def _counts_before(chosen: Tensor) -> Tensor:
    """How many are chosen before each position, and in all, one more than ``chosen``."""
    counts = torch.zeros(len(chosen) + 1, dtype=torch.int64, device=chosen.device)
    torch.cumsum(chosen, 0, out=counts[1:])
    return counts


def _transposed(indptr: Tensor, col: Tensor, num_cols: int) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets, rows and positions of the edges by column: a counting sort."""
    index = np.int32 if len(col) <= _MOST_NODES else np.int64
    positions = np.arange(len(col), dtype=index)
    parts = (positions, col.numpy(), indptr.numpy().astype(index))
    by_col = csr_array(parts, shape=(len(indptr) - 1, num_cols)).tocsc()
    return (
        torch.from_numpy(by_col.indptr.astype(np.int64)),
        torch.from_numpy(by_col.indices.astype(np.int32)),
        torch.from_numpy(by_col.data),
    )
