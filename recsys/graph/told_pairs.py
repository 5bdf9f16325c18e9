"""Pairs of users and items that give held-out bundles away.

Stability: caller
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

Pairs = tuple[np.ndarray, np.ndarray]


def only_held_out(pairs: Pairs, held: Pairs, others: Pairs, content: Pairs) -> np.ndarray:
    """Which pairs of a user and an item only held-out bundles explain.

    A bundle explains the pair if the user took it and it has the item. A model that sees such a
    pair may read from it what is in the bundle, or who took it.

    Args:
        pairs: Users and items.
        held: Users and bundles, of what is held out.
        others: Users and bundles, of what is learned from.
        content: Bundles and items.

    Shape:
        - pairs, held, others, content: two arrays of numbers each
        - output: bool, one of each of ``pairs``

    Example:
        >>> pairs = np.array([0, 0, 0]), np.array([5, 6, 7])  # what user 0 took by itself
        >>> content = np.array([0, 0, 1]), np.array([5, 6, 6])  # bundle 0 has 5 and 6; 1 has 6
        >>> only_held_out(pairs, (np.array([0]), np.array([0])), (np.array([0]), np.array([1])),
        ...               content).tolist()  # 5 comes from bundle 0 alone, 7 from none
        [True, False, False]
    """
    if not len(pairs[0]):
        return np.zeros(0, bool)
    users = _count(pairs[0], held[0], others[0])
    bundles = _count(held[1], others[1], content[0])
    inside = _counts(content, bundles, _count(pairs[1], content[1]))
    explained = [
        csr_array(_counts(taken, users, bundles) @ inside)[pairs[0], pairs[1]] > 0
        for taken in (held, others)
    ]
    return explained[0] & ~explained[1]


def _count(*numbers: np.ndarray) -> int:
    return 1 + max((int(part.max()) for part in numbers if len(part)), default=0)


def _counts(pairs: Pairs, rows: int, columns: int) -> csr_array:
    return csr_array((np.ones(len(pairs[0]), np.int32), pairs), shape=(rows, columns))
