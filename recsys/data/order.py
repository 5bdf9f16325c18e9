"""Which rows of a split come when, on which rank.

The order is a pure function of the seed, the epoch, the rank, the number of ranks and, where that
number changed within the epoch, what was done before: row groups are permuted, the resulting stream
of rows is cut into equal parts for the ranks, and each part is permuted buffer by buffer. Where the
number of ranks changes within an epoch, the rows that nobody has had are such a stream again.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows of a row group.

    Args:
        group: Number of the row group.
        start: First row.
        end: Last row plus one.
        kept: Which rows of the group, ascending; None means all from ``start`` to ``end``, else
            these two count in ``kept``.
    """

    group: int
    start: int
    end: int
    kept: np.ndarray | None = None

    def __len__(self) -> int:
        return self.end - self.start

    def cut(self, start: int, end: int) -> Part:
        """Its rows from ``start`` to ``end``, counted from its own first one."""
        return dataclasses.replace(self, start=self.start + start, end=self.start + end)

    def take(self, rows: np.ndarray) -> Part:
        """Some of its rows, counted from its own first one, ascending."""
        kept = rows + self.start if self.kept is None else self.kept[rows + self.start]
        return Part(self.group, 0, len(kept), kept)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of an epoch that was trained by one number of ranks.

    Args:
        world_size: Ranks.
        rows: That each of them had, padding included.
    """

    world_size: int
    rows: int


@dataclasses.dataclass(frozen=True)
class RowOrder:
    """The order of the rows of a split.

    Args:
        group_rows: Rows of every row group.
        shuffle: Permute row groups and the rows of a buffer.
        seed: Of the permutations.
        buffer_rows: Rows that are permuted among each other, rounded up to whole parts.
    """

    group_rows: Sequence[int]
    shuffle: bool
    seed: int
    buffer_rows: int

    def buffers(
        self, epoch: int, rank: int, world_size: int, before: Sequence[Stage] = ()
    ) -> list[list[Part]]:
        """What a rank reads, buffer by buffer.

        Args:
            epoch: From 0.
            rank: Whose.
            world_size: Number of ranks.
            before: What was trained of this epoch with other numbers of ranks.
        """
        parts = self._stream(epoch, before)
        share, more = divmod(sum(map(len, parts)), world_size)
        first = rank * share + min(rank, more)
        last = first + share + (rank < more)
        wanted = self.buffer_rows if self.shuffle else 1
        found: list[list[Part]] = []
        position, held = 0, wanted
        for part in parts:
            start, end = max(first - position, 0), min(last - position, len(part))
            position += len(part)
            if start >= end:
                continue
            if held >= wanted:
                found.append([])
                held = 0
            found[-1].append(part.cut(start, end))
            held += end - start
        return found

    def within(
        self, epoch: int, rank: int, buffer: int, rows: int, before: Sequence[Stage] = ()
    ) -> np.ndarray | None:
        """The order of rows within a buffer, None for as they are.

        Args:
            epoch: From 0.
            rank: Whose buffer.
            buffer: Its number.
            rows: Its size.
            before: As in `buffers`.
        """
        if not self.shuffle:
            return None
        # A stage more is a number more: rows that come again get another order.
        stage = (len(before),) if before else ()
        return self._random(epoch, 1 + rank, buffer, *stage).permutation(rows)

    def num_rows(self, epoch: int, before: Sequence[Stage] = ()) -> int:
        """Rows of the epoch that nobody has had in the stages before.

        Args:
            epoch: From 0.
            before: As in `buffers`.
        """
        return sum(map(len, self._stream(epoch, before)))

    def _stream(self, epoch: int, before: Sequence[Stage]) -> list[Part]:
        """All rows that are left, in the order in which ranks share them out."""
        if not before:
            groups = np.arange(len(self.group_rows))
            if self.shuffle:
                groups = self._random(epoch, 0, 0).permutation(groups)
            return [Part(group, 0, self.group_rows[group]) for group in groups.tolist()]
        earlier, stage = before[:-1], before[-1]
        return [
            part
            for rank in range(stage.world_size)
            for part in self._left(epoch, rank, stage, earlier)
        ]

    def _left(self, epoch: int, rank: int, stage: Stage, before: Sequence[Stage]) -> Iterator[Part]:
        """What a rank of a stage did not get to."""
        skip = stage.rows
        for number, parts in enumerate(self.buffers(epoch, rank, stage.world_size, before)):
            rows = sum(map(len, parts))
            if skip >= rows:
                skip -= rows
                continue
            if skip:
                order = self.within(epoch, rank, number, rows, before)
                rest = np.arange(skip, rows) if order is None else np.sort(order[skip:])
                parts = _take(parts, rest)
                skip = 0
            yield from parts

    def _random(self, *what: int) -> np.random.Generator:
        return np.random.default_rng([self.seed & ((1 << 63) - 1), *what])


def _take(parts: Iterable[Part], rows: np.ndarray) -> list[Part]:
    """Some rows of several parts that are counted through."""
    found, first = [], 0
    for part in parts:
        mine = rows[(rows >= first) & (rows < first + len(part))] - first
        first += len(part)
        if len(mine):
            found.append(part.take(mine))
    return found
