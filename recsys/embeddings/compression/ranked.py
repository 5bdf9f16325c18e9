"""Sorted sets of integers that know the rank of each member: which rows a pruned table keeps.

Stability: internal
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_WORD, _BLOCK = 64, 512  # bits a word, words a block
_ODD = 0x5555555555555555
_PAIRS = 0x3333333333333333
_NIBBLES = 0x0F0F0F0F0F0F0F0F
_ONES = 0x0101010101010101


def popcount(words: Tensor) -> Tensor:
    """Set bits of every word; the sign bit must be clear.

    Args:
        words: int64, any shape.

    Example:
        >>> popcount(torch.tensor([0, 1, 255, 2**63 - 1])).tolist()
        [0, 1, 8, 63]
    """
    words = words - ((words >> 1) & _ODD)
    words = (words & _PAIRS) + ((words >> 2) & _PAIRS)
    words = (words + (words >> 4)) & _NIBBLES
    return (words * _ONES) >> 56


def bit_bytes(universe: Tensor) -> Tensor:
    """Bytes of a `BitSet`: ``10 W + 4 ceil(W / 512)`` with ``W = max(1, ceil(U / 64))``.

    Args:
        universe: U, int64, any shape.
    """
    words = (-(-universe // _WORD)).clamp(min=1)
    return 10 * words + 4 * (-(-words // _BLOCK))


class BitSet(nn.Module):
    """A set as one bit a number, with the count of members before every word: 1.25 bits in all.

    Args:
        universe: U; members are in [0, U).

    Shape:
        - input: any, numbers in [0, U)
        - output: the same, int64: 1 + rank of members, 0 for the others
    """

    def __init__(self, universe: int) -> None:
        super().__init__()
        words = max(1, -(-universe // _WORD))
        self.words: Tensor
        self.in_block: Tensor
        self.blocks: Tensor
        self.register_buffer("words", torch.zeros(words, dtype=torch.int64))
        self.register_buffer("in_block", torch.zeros(words, dtype=torch.int16))
        self.register_buffer("blocks", torch.zeros(-(-words // _BLOCK), dtype=torch.int32))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """The empty set."""
        del generator
        for buffer in self.buffers():
            buffer.zero_()

    @torch.no_grad()
    def fill(self, members: Tensor) -> None:
        """Makes it the set of these.

        Args:
            members: (M,) int64, ascending, distinct.
        """
        members = members.long()
        self.words.zero_().index_add_(0, members >> 6, torch.ones_like(members) << (members & 63))
        counts = torch.bincount(members >> 6, minlength=self.words.shape[0])
        before = counts.cumsum(0) - counts
        self.blocks.copy_(before[::_BLOCK])
        block = torch.arange(self.words.shape[0], device=before.device) // _BLOCK
        self.in_block.copy_(before - before[::_BLOCK][block])

    def has(self, numbers: Tensor) -> Tensor:
        """1 for members, else 0; int64."""
        return (self.words[numbers >> 6] >> (numbers & 63)) & 1

    def before(self, numbers: Tensor) -> Tensor:
        """How many members are smaller."""
        word, bit = numbers >> 6, numbers & 63
        below = self.words[word] & ((torch.ones_like(bit) << bit) - 1)
        return self.blocks[word // _BLOCK] + self.in_block[word] + popcount(below)

    def forward(self, numbers: Tensor) -> Tensor:
        """1 + rank of members, 0 for the others."""
        numbers = numbers.long()
        return (self.before(numbers) + 1) * self.has(numbers)


class ListSet(nn.Module):
    """A set of positive numbers as a sorted list: 4 bytes a member, found by bisection.

    Args:
        count: Members.

    Shape:
        - as `BitSet`
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.members: Tensor
        self.register_buffer("members", torch.zeros(count + 1, dtype=torch.int32))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """The empty set."""
        del generator
        self.members.zero_()

    @torch.no_grad()
    def fill(self, members: Tensor) -> None:
        """Makes it the set of these.

        Args:
            members: (count,) int64, ascending, distinct, above 0.
        """
        self.members[1:].copy_(members)

    def forward(self, numbers: Tensor) -> Tensor:
        """1 + rank of members, 0 for the others."""
        numbers = numbers.int()
        place = torch.searchsorted(self.members, numbers).clamp(max=self.members.shape[0] - 1)
        return place * (self.members[place] == numbers)


def kept_rows(rows: int, kept: int) -> BitSet | ListSet:
    """The smaller set for kept rows of a table.

    Args:
        rows: Of the table.
        kept: How many stay.
    """
    dense = int(bit_bytes(torch.tensor(rows, device="cpu")))
    return BitSet(rows) if dense <= 4 * (kept + 1) else ListSet(kept)


def kept_rows_bytes(rows: int, kept: Tensor) -> Tensor:
    """Bytes of `kept_rows`.

    Args:
        rows: Of the table.
        kept: int64, any shape.
    """
    return torch.minimum(bit_bytes(torch.tensor(rows, device="cpu")), 4 * (kept + 1))
