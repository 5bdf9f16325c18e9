"""A small table of scores that knows the heaviest ids of a stream, and the rows they own.

Stability: internal
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.embeddings.scheme import Encoder
from recsys.hashing import hash_strings, splitmix64, to_buckets
from recsys.schema import PAD_INDEX

SLOTS = 4  # ids a bucket can hold
_DECAY_EVERY = 10  # times the mass at which every row could be hot


class HotSketch(Encoder):
    """Ids in the sketch that own a row go there, the others to ``1 + hot_rows + h(x) mod M``.

    Every bucket holds four ids with a score. A known id adds to its score. A new one takes the
    place of the id of lowest score that owns no row, and goes on from its score, so a score is
    never too low. An id that is seen again at or above the threshold gets a free row. After a
    mass of ``10 * hot_rows * threshold`` all scores are multiplied by ``decay``, and who falls
    below the threshold loses the row.

    The scores are the one float buffer of an encoder: they choose, and are never trained.

    Args:
        name: Of the table; salts the hashes.
        hot_rows: Rows to give away, and buckets. 0 makes it a hash.
        num_buckets: Rows that all others share.
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
        self, name: str, hot_rows: int, num_buckets: int, threshold: float, decay: float, salt: int
    ) -> None:
        super().__init__()
        self._name, self._salt = name, salt
        self.hot_rows, self.num_buckets = hot_rows, num_buckets
        self.threshold, self.decay = threshold, decay
        self.salts: Tensor
        self.keys: Tensor
        self.scores: Tensor
        self.rows: Tensor
        self.state: Tensor
        self.counts: Tensor
        self.register_buffer("salts", torch.empty(2, dtype=torch.int64))
        self.register_buffer("keys", torch.empty(hot_rows, SLOTS, dtype=torch.int32))
        self.register_buffer("scores", torch.empty(hot_rows, SLOTS))
        self.register_buffer("rows", torch.empty(hot_rows, SLOTS, dtype=torch.int32))
        self.register_buffer("state", torch.empty(2))  # mass since the last decay, threshold now
        # Rows ever given away (the first ones), rows owned now.
        self.register_buffer("counts", torch.empty(2, dtype=torch.int32))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Writes the salts, of the name alone, and empties the sketch."""
        del generator
        if self.salts.is_meta:
            return
        names = [self._name, f"{self._name}@sketch"]
        self.salts.copy_(torch.from_numpy(hash_strings(names, self._salt)))
        for empty in (self.keys, self.scores, self.rows, self.counts):
            empty.zero_()
        self.state.copy_(torch.tensor([0.0, self.threshold]))

    def shared_rows(self, indices: Tensor) -> Tensor:
        """The row that an index shares, int64.

        Args:
            indices: (L,) int64.
        """
        hashed = to_buckets(splitmix64(indices ^ self.salts[0]), self.num_buckets)
        return hashed + (1 + self.hot_rows)

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The row of every index."""
        values = indices.long()
        rows = self.shared_rows(values).int()
        if self.hot_rows:
            buckets = self._buckets(values)
            found = self.keys.index_select(0, buckets) == indices.unsqueeze(1)
            own = (self.rows.index_select(0, buckets) * found).sum(1, dtype=torch.int32)
            rows = torch.where(own > 0, own, rows)
        return (rows.masked_fill(indices == PAD_INDEX, PAD_INDEX),)

    def _buckets(self, values: Tensor) -> Tensor:
        return to_buckets(splitmix64(values ^ self.salts[1]), self.hot_rows)

    # ------------------------------------------------------------------------------- updates

    def update(self, ids: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Counts a batch and gives rows away.

        Args:
            ids: No PAD; may repeat.
            scores: One an id, above 0.

        Returns:
            Who got a row, and which, int64 both.

        Shape:
            - ids: (L,) int64
            - scores: (L,) float32
        """
        unique, inverse = torch.unique(ids, return_inverse=True)
        total = scores.new_zeros(unique.shape[0]).index_add_(0, inverse, scores)
        buckets = self._buckets(unique)
        found = self.keys.index_select(0, buckets) == unique.unsqueeze(1)
        known = found.any(1)
        slots = (buckets * SLOTS + found.int().argmax(1))[known]
        self.scores.view(-1).index_add_(0, slots, total[known])
        new = ~known
        self._admit(unique[new], total[new], buckets[new])
        promoted = self._promote(slots)
        self.state[0] += total.sum()
        if float(self.state[0]) > _DECAY_EVERY * self.hot_rows * self.threshold:
            self._fade()
        return promoted

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
