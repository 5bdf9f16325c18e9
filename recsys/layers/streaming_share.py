"""How often each id comes by in a stream: its share of the rows, learned while training.

Stability: caller
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

_MULTIPLIERS = (0x9E3779B97F4A7C15 - (1 << 64), 0xC2B2AE3D27D4EB4F - (1 << 64))
"""Odd 64-bit numbers, as int64: one hash function each."""


class StreamingShare(nn.Module):
    """Estimates the share of rows that every id has in a stream that may change.

    Whenever an id comes by, the rows that passed since it last did (``gap``) and how often it came
    in this batch (``count``) are added to two sums that forget:

    ``G <- (1 - rate) G + gap``, ``C <- (1 - rate) C + count``, ``share = C / G``

    At first that is its exact share; later it looks back over some ``1 / rate`` batches that had
    the id, so rare ids have as long a memory as frequent ones. State is in buffers, 16 bytes an id:
    saved with the model, the same on all ranks (each sees the ids of all).

    With ``num_buckets`` ids share buckets under two hash functions, and the smaller of the two
    shares counts: for catalogues whose tables are compressed because they are too many.

    Args:
        num_ids: Ids are from 0 to ``num_ids - 1``.
        rate: How fast it forgets, from 0 (never) to below 1.
        num_buckets: Of each of two hash functions, or None for a place of its own for every id.

    Shape:
        - input: (B,) ids, integers
        - output: (B,) logarithms of shares, float32

    Raises:
        ValueError: A number is out of range.

    Source:
        Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations",
        RecSys 2019, Algorithms 2 and 3. Differs: gaps are counted in rows and not in batches, and
        an id that comes several times in a batch counts so often. Theirs estimates how likely a
        batch has the id at all, which is 1 for all that is frequent; both agree on rare ids.

    Example:
        >>> shares = StreamingShare(num_ids=5)
        >>> shares.update(torch.tensor([3, 3, 3, 4]))
        >>> shares(torch.tensor([3, 4])).exp()
        tensor([0.7500, 0.2500])
    """

    gap: Tensor
    count: Tensor
    last: Tensor
    seen: Tensor

    def __init__(self, num_ids: int, rate: float = 0.01, num_buckets: int | None = None) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"`rate`: expected at least 0 and below 1, got {rate}.")
        for name, value in (("num_ids", num_ids), ("num_buckets", num_buckets)):
            if value is not None and value < 1:
                raise ValueError(f"`{name}`: expected at least 1, got {value}.")
        self.rate, self.num_buckets = rate, num_buckets
        size = num_ids if num_buckets is None else num_buckets * len(_MULTIPLIERS)
        self.register_buffer("gap", torch.zeros(size))
        self.register_buffer("count", torch.zeros(size))
        self.register_buffer("last", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Forgets everything.

        Args:
            generator: Not used.
        """
        for buffer in (self.gap, self.count, self.last, self.seen):
            if not buffer.is_meta:
                buffer.zero_()

    def update(self, ids: Tensor, weights: Tensor | None = None) -> None:
        """Learns from a batch. Collective where there are several ranks.

        Args:
            ids: That came by.
            weights: Rows that each of them stands for, or None for 1.

        Shape:
            - ids, weights: (B,)
        """
        counted = torch.ones_like(ids, dtype=torch.float64) if weights is None else weights.double()
        ids, counted = _of_all_ranks(ids.long(), counted)
        if not len(ids):
            return
        self.seen.add_(counted.sum())
        for places in self._places(ids):
            found, which = places.unique(return_inverse=True)
            came = torch.zeros_like(found, dtype=torch.float64).index_add_(0, which, counted)
            passed = self.seen - self.last[found]
            keep = 1 - self.rate
            self.gap[found] = self.gap[found] * keep + passed.to(self.gap.dtype)
            self.count[found] = self.count[found] * keep + came.to(self.count.dtype)
            self.last[found] = self.seen

    def forward(self, ids: Tensor) -> Tensor:
        """Logarithms of shares; an id that never came by has that of one row more."""
        shares = torch.stack(
            [self.count[places] / self.gap[places] for places in self._places(ids.long())]
        ).amin(0)  # nan where there is nothing yet
        unseen = (1 / (self.seen + 1)).to(shares.dtype)
        return torch.where(shares > 0, shares, unseen).log()

    def _places(self, ids: Tensor) -> list[Tensor]:
        """Where ids are kept, by hash function."""
        if self.num_buckets is None:
            return [ids]
        # The upper bits of a product mix best; the shift of a negative number keeps its sign.
        return [
            ((ids + 1) * multiplier >> 32) % self.num_buckets + number * self.num_buckets
            for number, multiplier in enumerate(_MULTIPLIERS)
        ]


def _of_all_ranks(ids: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of all ranks, in rank order."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return ids, counted
    world_size = distributed.get_world_size()
    if world_size == 1:
        return ids, counted
    sizes = [ids.new_zeros(1) for _ in range(world_size)]
    distributed.all_gather(sizes, ids.new_tensor([len(ids)]))
    counts = [int(size) for size in sizes]
    mine = counted.new_zeros(2, max(counts))  # ids of tables are exact in float64
    mine[:, : len(ids)] = torch.stack([ids.double(), counted])
    found = [torch.empty_like(mine) for _ in counts]
    distributed.all_gather(found, mine)
    both = torch.cat([part[:, :count] for part, count in zip(found, counts)], 1)
    return both[0].long(), both[1]
