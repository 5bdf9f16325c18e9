"""Which items a user has seen: asked for many pairs at once.

Stability: internal
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recsys.graph.interaction_graph import InteractionGraph

_MIX = 0x9E3779B97F4A7C15 - (1 << 64)  # odd, so that multiplying spreads neighbours
_BITS_PER_PAIR = 32
_MASKS = (1 << np.arange(8)).astype(np.uint8)


class KnownPairs:
    """The edges of a graph as a set.

    A bit table says "not seen" for nearly all pairs that were not; the others are looked up in
    the sorted edges.

    Args:
        graph: On the CPU.

    Example:
        >>> graph = InteractionGraph(2, 4, torch.tensor([0, 0, 1]), torch.tensor([1, 3, 2]))
        >>> known = KnownPairs(graph)
        >>> known.seen(torch.tensor([0, 0, 1]), torch.tensor([3, 2, 2])).tolist()
        [0, 2]
    """

    def __init__(self, graph: InteractionGraph) -> None:
        self.num_items, self.item = graph.num_items, graph.item
        self.offsets, self.degrees = graph.offsets(), graph.user_degrees()
        self.keys = graph.user * self.num_items + graph.item
        rank = torch.arange(graph.num_edges) - self.offsets[graph.user]
        self._unseen_before = self.keys - rank  # user * I + unseen items of the user before this
        self._user_by_item = graph.user[torch.argsort(graph.item, stable=True)].numpy()
        self._item_degrees = graph.item_degrees()
        self._item_offsets = self._item_degrees.cumsum(0) - self._item_degrees
        self._log_size = max(3, (_BITS_PER_PAIR * graph.num_edges - 1).bit_length())
        slots = self._slots(self.keys.numpy())
        self._bits = np.zeros(1 << (self._log_size - 3), np.uint8)
        np.bitwise_or.at(self._bits, slots >> 3, _MASKS[slots & 7])

    def _slots(self, keys: np.ndarray) -> np.ndarray:
        """Upper bits of a product modulo 2^64."""
        return ((keys * np.int64(_MIX)) >> (64 - self._log_size)) & ((1 << self._log_size) - 1)

    def seen(self, user: Tensor, item: Tensor) -> Tensor:
        """Positions of the pairs whose user has seen the item.

        Args:
            user: Numbers, (n,).
            item: Numbers, (n,).

        Returns:
            Rising positions, at most n.
        """
        keys = user * self.num_items + item
        slots = self._slots(keys.numpy())
        maybe = torch.from_numpy(np.flatnonzero(self._bits[slots >> 3] & _MASKS[slots & 7]))
        keys = keys[maybe]
        at = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        return maybe[self.keys[at] == keys]

    def unseen(self, user: Tensor, generator: torch.Generator) -> Tensor:
        """One item each that the user has not seen, all of them equally likely.

        Needs no rejection: draws a number r and finds the user's unseen item number r.

        Args:
            user: Numbers of users who have not seen everything, (n,).
            generator: Of the draws.

        Returns:
            (n,) int64.
        """
        count = self.num_items - self.degrees[user]
        draws = torch.rand(len(user), dtype=torch.float64, generator=generator)
        r = torch.minimum((draws * count).long(), count - 1)
        seen_before = torch.searchsorted(
            self._unseen_before, user * self.num_items + r, right=True
        )  # over all users; those of smaller numbers are all before
        return r + seen_before - self.offsets[user]

    def histories(self, user: Tensor) -> tuple[Tensor, Tensor]:
        """All items that users have seen.

        Args:
            user: Numbers, (n,).

        Returns:
            Position in ``user`` and item of each, rising by position.
        """
        row, edge = _ranges(self.offsets[user].numpy(), self.degrees[user].numpy())
        return torch.from_numpy(row), self.item[torch.from_numpy(edge)]

    def among(self, user: Tensor, items: Tensor) -> Tensor:
        """Which of some items users have seen.

        Args:
            user: Numbers, (B,).
            items: Numbers, (N,), also repeated ones.

        Returns:
            Positions in ``user`` and in ``items``, (2, number of pairs), each pair once.
        """
        user_degrees, item_degrees = self.degrees[user].numpy(), self._item_degrees[items].numpy()
        if user_degrees.sum() <= item_degrees.sum():
            row, edge = _ranges(self.offsets[user].numpy(), user_degrees)
            pair, at = _matches(row, self.item.numpy()[edge], items.numpy(), self.num_items)
        else:
            place, edge = _ranges(self._item_offsets[items].numpy(), item_degrees)
            at, pair = _matches(place, self._user_by_item[edge], user.numpy(), len(self.degrees))
        return torch.from_numpy(np.stack([pair, at]))


def _ranges(first: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of several ranges, each with the position of its range."""
    row = np.repeat(np.arange(len(counts)), counts)
    shift = first - (np.cumsum(counts) - counts)
    return row, np.repeat(shift, counts) + np.arange(len(row))


def _matches(
    row: np.ndarray, value: np.ndarray, targets: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a row and a position in ``targets`` with the same value below ``size``."""
    often = np.bincount(targets, minlength=size)
    start = np.cumsum(often) - often
    order = np.argsort(targets, kind="stable")
    counts = often[value]
    kept = np.flatnonzero(counts)
    row, value, counts = row[kept], value[kept], counts[kept]
    pair, at = _ranges(start[value], counts)
    return row[pair], order[at]
