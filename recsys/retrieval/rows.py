"""Rows that are written once: a fixed part, perhaps on disk, and what was appended in memory.

Stability: internal
"""

from __future__ import annotations

import torch
from torch import Tensor


class Rows:
    """A table that grows at its end. Older copies of the object stay valid.

    Args:
        base: The fixed part; may be mapped from a file.
        tail: Buffer of appended rows, some of it unused.
        used: Rows of ``tail`` in use.

    Shape:
        - base, tail: (rows, ...) of one dtype

    Example:
        >>> old = Rows(torch.tensor([[1.0], [2.0]]))
        >>> new = old.append(torch.tensor([[3.0]]))
        >>> len(old), new.block(1, 3).tolist(), new.take(torch.tensor([2, 0])).tolist()
        (2, [[2.0], [3.0]], [[3.0], [1.0]])
    """

    __slots__ = ("_base", "_tail", "_used")

    def __init__(self, base: Tensor, tail: Tensor | None = None, used: int = 0) -> None:
        self._base = base
        self._tail = base.new_empty((0, *base.shape[1:])) if tail is None else tail
        self._used = used

    def __len__(self) -> int:
        return len(self._base) + self._used

    @property
    def row_bytes(self) -> int:
        """Of one row."""
        return self._base[:0].element_size() * self._base.shape[1:].numel()

    @property
    def width(self) -> int:
        """Values in a row."""
        return self._base.shape[1]

    def parts(self) -> list[tuple[int, Tensor]]:
        """Number of the first row, and the rows, of the fixed part and of what was appended."""
        parts = [(0, self._base), (len(self._base), self._tail[: self._used])]
        return parts if self._used else parts[:1]

    def append(self, rows: Tensor) -> Rows:
        """The table with more rows; this one stays as it is.

        Args:
            rows: Of the same width and dtype.
        """
        tail, end = self._tail, self._used + len(rows)
        if end > len(tail):
            tail = rows.new_empty((max(end, 2 * len(tail), 64), *rows.shape[1:]))
            tail[: self._used] = self._tail[: self._used]
        tail[self._used : end] = rows
        return Rows(self._base, tail, end)

    def block(self, start: int, stop: int) -> Tensor:
        """Rows from ``start`` to before ``stop``, a view where they lie in one part.

        Args:
            start: First row.
            stop: Behind the last.
        """
        size = len(self._base)
        if stop <= size:
            return self._base[start:stop]
        if start >= size:
            return self._tail[start - size : stop - size]
        return torch.cat([self._base[start:], self._tail[: stop - size]])

    def take(self, positions: Tensor) -> Tensor:
        """Copies of some rows.

        Args:
            positions: Of the rows, (n,) int64.
        """
        size = len(self._base)
        if not self._used or not len(positions) or int(positions.max()) < size:
            return self._base[positions]
        out = self._base.new_empty((len(positions), *self._base.shape[1:]))
        fixed = positions < size
        out[fixed] = self._base[positions[fixed]]
        out[~fixed] = self._tail[positions[~fixed] - size]
        return out
