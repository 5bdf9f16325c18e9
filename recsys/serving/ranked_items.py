"""Lists of items, best first, with the caller's ids: what a `Recommender` gives.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from recsys.metrics.top_items import NO_ITEM


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RankedItems:
    """A list of items for each of what was asked for.

    Args:
        asked: Ids of users, or of items, or names of histories, in the order of the question.
        kind: What they are.
        numbers: Item numbers, best first; -1 where there are no more.
        scores: Theirs.
        by_popularity: Whether a list has the most popular items, since nothing is known of the
            user; its scores are numbers of users.
        item_ids: Id of every item number.

    Shape:
        - asked, by_popularity: (N,)
        - numbers, scores: (N, K)

    Example:
        >>> found = RankedItems(np.array(["ann"]), "user", np.array([[2, 0, -1]]),
        ...                     np.array([[0.75, 0.5, 0.0]], np.float32), np.array([False]),
        ...                     np.array(["a", "b", "c"]))
        >>> found[0]
        [('c', 0.75), ('a', 0.5)]
        >>> found.table().to_pylist()[1]
        {'user': 'ann', 'rank': 2, 'item': 'a', 'score': 0.5, 'by_popularity': False}
    """

    asked: np.ndarray
    kind: Literal["user", "item"]
    numbers: np.ndarray
    scores: np.ndarray
    by_popularity: np.ndarray
    item_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.asked)

    def __getitem__(self, position: int) -> list[tuple[Any, float]]:
        """One list: item ids and scores.

        Args:
            position: In the order of the question.
        """
        there = self.numbers[position] != NO_ITEM
        ids = self.item_ids[self.numbers[position][there]].tolist()
        return list(zip(ids, self.scores[position][there].tolist()))

    def __iter__(self) -> Iterator[list[tuple[Any, float]]]:
        return (self[position] for position in range(len(self)))

    def table(self) -> pa.Table:
        """One line a recommendation: what was asked, rank from 1, item and score.

        Columns are ``user, rank, item, score, by_popularity``, or ``item, rank, similar, score``.
        """
        row, place = np.nonzero(self.numbers != NO_ITEM)
        found = [self.asked[row], place + 1, self.item_ids[self.numbers[row, place]],
                 self.scores[row, place]]  # fmt: skip
        if self.kind == "item":
            return pa.table(dict(zip(("item", "rank", "similar", "score"), found)))
        columns = dict(zip(("user", "rank", "item", "score"), found))
        return pa.table({**columns, "by_popularity": self.by_popularity[row]})
