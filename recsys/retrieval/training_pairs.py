"""What codes that are trained learn from: queries and the items that belong to them.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys.errors import DataError
from recsys.retrieval.checks import as_vectors
from recsys.retrieval.item_ids import plain


class PairBatch(NamedTuple):
    """Some pairs."""

    queries: Tensor
    """Of every pair, (B, D)."""
    rows: Tensor
    """Of the items, (B,)."""
    known: Tensor
    """Whether the query of the row belongs to the item of the column in any pair, (B, B)."""


class TrainingPairs:
    """Queries and rows of items, say users and what they took in training.

    Pairs of zero vectors, which have no direction, are left out when codes train.

    Args:
        queries: Of the model whose items are coded.
        which: Number of the query of every pair.
        rows: Position of the item of every pair among the vectors of the index.

    Raises:
        DataError: Vectors are not finite, lengths differ, there is no pair, or a number is wrong.

    Shape:
        - queries: (Q, D)
        - which, rows: (P,)

    Example:
        >>> pairs = TrainingPairs([[1.0, 0.0], [0.0, 1.0]], which=[0, 1, 1], rows=[7, 7, 3])
        >>> len(pairs), pairs.log_shares(8)[[3, 7]].exp()
        (3, tensor([0.3333, 0.6667]))
    """

    def __init__(self, queries: Any, which: Any, rows: Any) -> None:
        self.queries = as_vectors(queries, "queries")
        self.which, self.rows = _numbers(which, "which"), _numbers(rows, "rows")
        if len(self.which) != len(self.rows) or not len(self.rows):
            raise DataError(
                "`which` and `rows` must be of one length, at least 1, got "
                f"{len(self.which):,} and {len(self.rows):,}."
            )
        if int(self.which.max()) >= len(self.queries):
            raise DataError(f"`which` must be numbers of the {len(self.queries):,} queries.")
        self._stride = int(self.rows.max()) + 1
        self._keys: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def usable(self, vectors: Tensor) -> TrainingPairs:
        """The pairs in which neither side is zero.

        Args:
            vectors: Of all items, (N, D).

        Raises:
            DataError: A row is beyond the vectors, dimensions differ, or no pair is left.
        """
        if int(self.rows.max()) >= len(vectors) or self.queries.shape[1] != vectors.shape[1]:
            raise DataError(
                f"pairs have rows up to {int(self.rows.max()):,} and queries of "
                f"{self.queries.shape[1]} values; the index has {len(vectors):,} vectors of "
                f"{vectors.shape[1]}."
            )
        keep = self.queries.any(1)[self.which] & vectors.any(1)[self.rows]
        if not bool(keep.any()):
            raise DataError("every pair has a vector of zeros, so there is nothing to learn from.")
        return TrainingPairs(self.queries, self.which[keep], self.rows[keep])

    def _known(self, which: Tensor, rows: Tensor) -> Tensor:
        if self._keys is None:
            self._keys = (self.which * self._stride + self.rows).sort().values
        asked = which[:, None] * self._stride + rows
        place = torch.searchsorted(self._keys, asked).clamp_(max=len(self._keys) - 1)
        return self._keys[place] == asked

    def log_shares(self, num_rows: int) -> Tensor:
        """Logarithm of the share of the pairs that every item has.

        Args:
            num_rows: N.

        Shape:
            - output: (N,)
        """
        counts = torch.bincount(self.rows, minlength=num_rows).float()
        return (counts / len(self)).log()

    def batches(self, size: int, most: int, random: torch.Generator) -> Iterator[PairBatch]:
        """Batches of one pass, in random order; a last one of a single pair is left out.

        Args:
            size: Pairs in a batch.
            most: Pairs in a pass; others are drawn in the next.
            random: Of the order.
        """
        order = torch.randperm(len(self), generator=random)[:most]
        for part in order.split(size):
            if len(part) > 1:
                which, rows = self.which[part], self.rows[part]
                yield PairBatch(self.queries[which], rows, self._known(which, rows))


def _numbers(values: Any, name: str) -> Tensor:
    array = np.asarray(plain(values))
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise DataError(f"`{name}` must be a list of whole numbers.")
    numbers = torch.from_numpy(array.astype(np.int64))
    if len(numbers) and int(numbers.min()) < 0:
        raise DataError(f"`{name}` must be at least 0, got {int(numbers.min())}.")
    return numbers
