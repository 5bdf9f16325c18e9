"""Who did what with which item: users, items, and the pairs that were seen.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from recsys.errors import DataError, did_you_mean


class Names:
    """The caller's ids of one kind of node, by number from 0, and back.

    Args:
        values: Ids without repetition, strings or integers; the position is the number.

    Raises:
        DataError: An id occurs twice.

    Example:
        >>> names = Names(["ann", "bob"])
        >>> names.numbers(["bob", "eve"]).tolist(), names.values[0]
        ([1, -1], 'ann')
    """

    def __init__(self, values: Any) -> None:
        self._index = pd.Index(values)
        if not self._index.is_unique:
            twice = self._index[self._index.duplicated()][0]
            raise DataError(f"expected different ids, got {twice!r} twice.")
        self.values: np.ndarray = self._index.to_numpy()
        """Id of every number."""

    def __len__(self) -> int:
        return len(self._index)

    def numbers(self, ids: Any) -> np.ndarray:
        """Numbers of ids, -1 where an id is not known.

        Args:
            ids: Of the same kind, strings or integers.

        Shape:
            - output: (number of ids,) int64
        """
        return self._index.get_indexer(pd.Index(ids)).astype(np.int64)

    def require(self, ids: Any, what: str) -> np.ndarray:
        """Numbers of ids that must be known.

        Args:
            ids: Of the same kind.
            what: What to call them in errors, say ``user``.

        Raises:
            DataError: One is not known.
        """
        found = self.numbers(ids)
        if (found < 0).any():
            missing = np.asarray(ids)[int(np.flatnonzero(found < 0)[0])]
            missing = missing.item() if isinstance(missing, np.generic) else missing
            hint = did_you_mean(str(missing), [str(v) for v in self.values[:10_000]])
            raise DataError(f"{what} {missing!r} is not known. {hint}")
        return found


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """Pairs of a user and an item, each at most once, in the order of users, then items.

    `recsys.graph.cleaning.clean` makes them from raw rows and says what it left out. Splits of one
    data set share ``users`` and ``items``, so a number means the same in all of them.

    Args:
        users: Ids of all users, also of those without a pair here.
        items: Ids of all items.
        user: Number of the user of every pair.
        item: Number of its item.
        time: When, in the unit of the log, or None.
        weight: How strong (a rating, a count), or None.
        kind: Position in ``kinds``: what was done (view, buy), or None.
        kinds: Names of what was done.

    Shape:
        - user, item, kind: (E,) int64
        - time: (E,) int64 or float64
        - weight: (E,) float32

    Raises:
        DataError: Arrays of different lengths, a number out of range, or pairs that are not in
            order or occur twice.
    """

    users: Names
    items: Names
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray | None = None
    weight: np.ndarray | None = None
    kind: np.ndarray | None = None
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("item", "time", "weight", "kind"):
            values = getattr(self, name)
            if values is not None and values.shape != self.user.shape:
                raise DataError(
                    f"interactions: expected {len(self)} values of `{name}`, got {values.shape}."
                )
        for name, names in (("user", self.users), ("item", self.items)):
            values = getattr(self, name)
            if len(values) and not 0 <= values.min() <= values.max() < len(names):
                raise DataError(
                    f"interactions: expected numbers of {name}s from 0 to {len(names) - 1}, got "
                    f"{values.min()} to {values.max()}."
                )
        keys = self.keys
        if (np.diff(keys) <= 0).any():
            raise DataError(
                "interactions: expected every pair once, by user and item. "
                "`recsys.graph.cleaning.clean` puts raw rows in order."
            )

    def __len__(self) -> int:
        return len(self.user)

    @property
    def num_users(self) -> int:
        """All users, also those without a pair."""
        return len(self.users)

    @property
    def num_items(self) -> int:
        """All items, also those without a pair."""
        return len(self.items)

    @property
    def keys(self) -> np.ndarray:
        """``user * num_items + item`` of every pair, rising."""
        return self.user * np.int64(max(1, self.num_items)) + self.item

    def offsets(self) -> np.ndarray:
        """Where the pairs of every user begin, and the end of the last: ``indptr`` of a CSR.

        Shape:
            - output: (U + 1,) int64
        """
        counts = np.bincount(self.user, minlength=self.num_users)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def user_degrees(self) -> np.ndarray:
        """Items of every user, (U,) int64."""
        return np.bincount(self.user, minlength=self.num_users)

    def item_degrees(self) -> np.ndarray:
        """Users of every item, (I,) int64."""
        return np.bincount(self.item, minlength=self.num_items)

    def union(self, other: Interactions) -> Interactions:
        """All pairs of both, without times, weights and kinds.

        Args:
            other: With the same users and items.
        """
        keys, size = np.union1d(self.keys, other.keys), max(1, self.num_items)
        return Interactions(self.users, self.items, keys // size, keys % size)

    def take(self, rows: np.ndarray) -> Interactions:
        """Some of the pairs, with the same users and items.

        Args:
            rows: Positions that rise, or a mask.
        """
        parts = {
            name: None if (values := getattr(self, name)) is None else values[rows]
            for name in ("user", "item", "time", "weight", "kind")
        }
        return dataclasses.replace(self, **parts)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class InteractionSplits:
    """Interactions to train on, to choose by and to report on. The same users and items in all.

    Args:
        train: What models see.
        valid: What hyperparameters and epochs are chosen by, or None.
        test: What is reported, or None.
        report: What cleaning and splitting left out, by name: counts to show.
        given: What is told of users that nothing is trained on, when they are judged: then all of
            ``valid`` and ``test`` are of such users, and their scores come from this history.
    """

    train: Interactions
    valid: Interactions | None = None
    test: Interactions | None = None
    report: dict[str, int] = dataclasses.field(default_factory=dict)
    given: Interactions | None = None

    def items(self) -> Sequence[tuple[str, Interactions]]:
        """The splits that there are, by name."""
        found = (("train", self.train), ("valid", self.valid), ("test", self.test))
        return [(name, split) for name, split in found if split is not None]
