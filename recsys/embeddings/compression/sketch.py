"""A small table of scores that knows the heaviest ids of a stream, and the rows they own.

Stability: internal
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.embeddings.compression.hashing import HashEncoder
from recsys.embeddings.scheme import Encoder
from recsys.schema import PAD_INDEX

SLOTS = 4  # ids a bucket can hold
_DECAY_EVERY = 10  # times the mass at which every row could be hot


class HotSketch(Encoder):
    """Ids in the sketch that own a row go there, the others to ``shared_start + h(x)``.

    Every bucket holds four ids with a score. A known id adds to its score. A new one takes the
    place of the id of lowest score that owns no row, and goes on from its score, so a score is
    never below what the sketch saw of its id. An id that is seen again at or above the threshold
    gets a free row. After a mass of ``10 * hot_rows * threshold`` all scores are multiplied by
    ``decay``, and who falls below the threshold loses the row.

    The scores are the one float buffer of an encoder: they choose, and are never trained.

    Args:
        name: Of the table; salts the hashes.
        hot_rows: Rows to give away, and buckets. 0 makes it a hash.
        num_buckets: Rows that all others share.
        hot_start: Rows before those to give away, PAD not counted.
        shared_start: Rows before the shared ones, PAD not counted.
        threshold: Least score of an id that gets a row.
        decay: Factor on all scores.
        salt: Seed of the hashes.

    Shape:
        - as `Encoder`

    Source:
        HotSketch in Zhang et al., "CAFE", SIGMOD 2024, after Metwally et al., "Efficient
        Computation of Frequent and Top-k Elements in Data Streams", ICDT 2005 (SpaceSaving).
        Differs: of the new ids of one batch a bucket takes the four of highest score, lowest
        first; the rest is not counted. When more ids than rows pass the threshold, it rises to
        the score that only as many ids as rows have (there, first come first served).
    """

    def __init__(
        self,
        name: str,
        hot_rows: int,
        num_buckets: int,
        hot_start: int,
        shared_start: int,
        threshold: float,
        decay: float,
        salt: int,
    ) -> None:
        super().__init__()
        self.hot_rows, self.hot_start, self.shared_start = hot_rows, hot_start, shared_start
        self.hash = HashEncoder([name], [num_buckets], salt)
        self.home = HashEncoder([f"{name}@sketch"], [max(1, hot_rows)], salt)
        self.threshold, self.decay = threshold, decay
        self.keys: Tensor
        self.scores: Tensor
        self.rows: Tensor
        self.state: Tensor
        self.counts: Tensor
        self.register_buffer("keys", torch.empty(hot_rows, SLOTS, dtype=torch.int32))
        self.register_buffer("scores", torch.empty(hot_rows, SLOTS))
        self.register_buffer("rows", torch.empty(hot_rows, SLOTS, dtype=torch.int32))
        self.register_buffer("state", torch.empty(2))  # mass since the last decay, threshold now
        # Rows ever given away (the first ones), rows owned now.
        self.register_buffer("counts", torch.empty(2, dtype=torch.int32))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Writes the salts, of the name alone, and empties the sketch."""
        self.hash.initialize(generator)
        self.home.initialize(generator)
        for empty in (self.keys, self.scores, self.rows, self.counts):
            empty.zero_()
        self.state.copy_(torch.tensor([0.0, self.threshold]))

    def shared_rows(self, indices: Tensor) -> Tensor:
        """The row that an index shares, int64.

        Args:
            indices: (L,) int64.
        """
        return self.hash(indices)[0].long() + self.shared_start

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The row of every index."""
        rows = self.hash(indices)[0] + self.shared_start
        if self.hot_rows:
            buckets = self._buckets(indices)
            found = self.keys.index_select(0, buckets) == indices.unsqueeze(1)
            own = (self.rows.index_select(0, buckets) * found).sum(1, dtype=torch.int32)
            rows = torch.where(own > 0, own + self.hot_start, rows)
        return (rows.masked_fill(indices == PAD_INDEX, PAD_INDEX),)

    def _buckets(self, values: Tensor) -> Tensor:
        return (self.home(values)[0] - 1).clamp_(min=0)  # PAD goes anywhere

    # ------------------------------------------------------------------------------- updates

    def update(self, ids: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Counts a batch and gives rows away.

        Args:
            ids: No PAD; may repeat.
            scores: One an id, above 0.

        Returns:
            Who got a row, and which of the table's, int64 both.

        Shape:
            - ids: (L,) int64
            - scores: (L,) float32
        """
        unique, inverse = torch.unique(ids, return_inverse=True)
        total = scores.new_zeros(unique.shape[0]).index_add_(0, inverse, scores)
        buckets = self._buckets(unique)
        found = self.keys.index_select(0, buckets) == unique.unsqueeze(1)
        known = found.any(1)
        slots = (buckets.long() * SLOTS + found.int().argmax(1))[known]
        self.scores.view(-1).index_add_(0, slots, total[known])
        new = ~known
        self._admit(unique[new], total[new], buckets[new])
        who, own = self._promote(slots)
        self.state[0] += total.sum()
        if float(self.state[0]) > _DECAY_EVERY * self.hot_rows * self.threshold:
            self._fade()
        return who, own + self.hot_start

    def owners(self) -> tuple[Tensor, Tensor]:
        """The ids that own a row, ascending, and the row of the table of each, int64 both."""
        own = self.rows.view(-1) > 0
        ids, order = torch.sort(self.keys.view(-1)[own].long())
        return ids, self.rows.view(-1)[own].long()[order] + self.hot_start

    def _admit(self, ids: Tensor, scores: Tensor, buckets: Tensor) -> None:
        """Puts new ids in the place of the lightest ones."""
        if not ids.shape[0]:
            return
        order = torch.argsort(scores, descending=True, stable=True)
        order = order[torch.argsort(buckets[order], stable=True)]
        ids, scores, buckets = ids[order], scores[order], buckets[order]
        place = torch.arange(ids.shape[0], device=ids.device)
        first = torch.ones_like(place, dtype=torch.bool)
        first[1:] = buckets[1:] != buckets[:-1]
        rank = place - torch.where(first, place, 0).cummax(0).values
        # One id a bucket at a time, so that no two write the same slot.
        for turn in reversed(range(SLOTS)):
            mine = (rank == turn).nonzero().squeeze(1)
            bucket = buckets[mine]
            held = self.scores[bucket].masked_fill(self.rows[bucket] > 0, torch.inf)
            least, slot = held.min(1)
            free = least < torch.inf
            slots = (bucket * SLOTS + slot)[free]
            self.keys.view(-1)[slots] = ids[mine][free].int()
            self.scores.view(-1)[slots] = (least + scores[mine])[free]

    def _promote(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Gives free rows to those of these slots that deserve one, the heaviest first."""
        rows, scores = self.rows.view(-1), self.scores.view(-1)
        slots = slots[(rows[slots] == 0) & (scores[slots] >= self.state[1])]
        if not slots.shape[0]:
            return slots, slots
        free = self._free(slots.shape[0])
        best = torch.argsort(scores[slots], descending=True, stable=True)[: free.shape[0]]
        slots = slots[best]
        rows[slots] = free.int()
        self.counts[1] += free.shape[0]
        return self.keys.view(-1)[slots].long(), free

    def _free(self, wanted: int) -> Tensor:
        """Up to so many free rows: new ones first, then those that were taken back."""
        given, owned = self.counts.tolist()
        if given < self.hot_rows:
            last = min(given + wanted, self.hot_rows)
            self.counts[0] = last
            return torch.arange(given + 1, last + 1, device=self.rows.device)
        free = torch.full((self.hot_rows + 1,), owned < self.hot_rows, device=self.rows.device)
        if owned < self.hot_rows:
            free[self.rows.view(-1)] = False
            free[0] = False
        return free.nonzero().squeeze(1)[:wanted]

    def _fade(self) -> None:
        """Lets scores decay, sets the threshold, takes rows back."""
        self.scores.mul_(self.decay)
        heaviest = self.scores.numel() - self.hot_rows + 1
        last = self.scores.view(-1).kthvalue(heaviest).values
        self.state.copy_(torch.stack([torch.zeros_like(last), last.clamp(min=self.threshold)]))
        self.rows[self.scores < self.state[1]] = 0
        self.counts[1] = (self.rows > 0).sum()
