"""Looking through rows in blocks for the k best of every query, exactly.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recsys.metrics.top_items import top_items
from recsys.retrieval.code_products import pair_dots
from recsys.retrieval.rows import Rows

BLOCK = 1 << 16
"""Rows scored at a time."""


class Hidden(NamedTuple):
    """Rows that some queries must not find, by rising row."""

    queries: Tensor
    rows: Tensor

    @classmethod
    def of(cls, queries: Tensor, rows: Tensor) -> Hidden:
        """Sorts the pairs.

        Args:
            queries: Number of the query of every pair.
            rows: Of every pair.
        """
        rows, order = rows.sort()
        return cls(queries[order], rows)

    def within(self, queries: Tensor, num_queries: int) -> Hidden:
        """The pairs of some queries, which get new numbers in the order given.

        Args:
            queries: Their numbers.
            num_queries: Of all.
        """
        number = torch.full((num_queries,), -1, dtype=torch.int64)
        number[queries] = torch.arange(len(queries))
        number = number[self.queries]
        return Hidden(number[number >= 0], self.rows[number >= 0])

    def among(self, rows: Tensor) -> Hidden:
        """The pairs of some rows, which get new numbers in the order given.

        Args:
            rows: Rising.
        """
        if not len(rows) or not len(self.rows):
            return Hidden(self.queries[:0], self.rows[:0])
        place = torch.searchsorted(rows, self.rows).clamp_(max=len(rows) - 1)
        there = rows[place] == self.rows
        return Hidden(self.queries[there], place[there])


def scan(
    scores_of: Callable[[int, int], Tensor],
    num_rows: int,
    k: int,
    masks: Sequence[tuple[Tensor, Tensor]] = (),
    hidden: Hidden | None = None,
    block: int = BLOCK,
) -> tuple[Tensor, Tensor]:
    """The k best rows of every query; equal scores go to the lower row.

    Args:
        scores_of: Scores of the rows from start to before stop, (B, stop - start), to be changed.
        num_rows: N, at least 1.
        k: At least 1, at most ``num_rows``.
        masks: Numbers of queries, and which rows they may find.
        hidden: Further rows that single queries may not find.
        block: Rows at a time.

    Returns:
        Scores, falling, ``-inf`` where a list has ended, and rows.

    Shape:
        - output: (B, k) float32, (B, k) int64

    Example:
        >>> scores = torch.tensor([[1.0, 3.0, 3.0, 2.0]])
        >>> scan(lambda a, b: scores[:, a:b].clone(), 4, 2, block=2)[1].tolist()
        [[1, 2]]
    """
    best: tuple[Tensor, Tensor] | None = None
    for start in range(0, num_rows, block):
        stop = min(start + block, num_rows)
        scores = scores_of(start, stop)
        for queries, mask in masks:
            closed = ~mask[start:stop]
            if len(queries) == len(scores):
                scores.masked_fill_(closed, -torch.inf)
            else:
                scores[queries] = scores[queries].masked_fill_(closed, -torch.inf)
        if hidden is not None and len(hidden.rows):
            low, high = torch.searchsorted(hidden.rows, torch.tensor([start, stop])).tolist()
            scores[hidden.queries[low:high], hidden.rows[low:high] - start] = -torch.inf
        values, rows = top_items(scores, min(k, stop - start))
        rows += start
        if best is not None:
            values, rows = torch.cat([best[0], values], 1), torch.cat([best[1], rows], 1)
            values, order = values.sort(dim=1, descending=True, stable=True)
            values, rows = values[:, :k], rows.gather(1, order[:, :k])
        best = values, rows
    assert best is not None
    return best


def rescore(
    queries: Tensor, values: Tensor, rows: Tensor, table: Rows, k: int
) -> tuple[Tensor, Tensor]:
    """Inner products of candidates in float64, rounded to float32, and the k best by them.

    Scores then do not depend on how the candidates were found: by which plan, in which block.

    Args:
        queries: Float vectors.
        values: Of the candidates, ``-inf`` where there is none.
        rows: Of the candidates.
        table: Float vectors of all rows.
        k: Length of the lists.

    Shape:
        - queries: (B, D)
        - values, rows: (B, C)
        - output: (B, min(k, C)) float32 and int64
    """
    query, place = (values > -torch.inf).nonzero(as_tuple=True)
    row = rows[query, place]
    exact = torch.full_like(values, -torch.inf)
    for first, part in table.parts():
        mine = ((row >= first) & (row < first + len(part))).nonzero()[:, 0]
        which = query[mine]
        exact[which, place[mine]] = pair_dots(queries, which, part, row[mine] - first)
    rows, order = rows.sort(dim=1)
    exact, best = exact.gather(1, order).sort(dim=1, descending=True, stable=True)
    return exact[:, :k], rows.gather(1, best[:, :k])
