"""The encoder of all schemes that hash.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.embeddings.scheme import Encoder
from recsys.hashing import hash_strings, splitmix64, to_buckets
from recsys.schema import PAD_INDEX


class HashEncoder(Encoder):
    """Hash functions over indices: ``1 + h_k(x) mod M_k``, PAD to PAD.

    Args:
        names: One a probe; equal names give equal hashes, others unrelated ones.
        num_buckets: One a probe, PAD's row not counted.
        salt: Seed of all.

    Shape:
        - as `Encoder`
    """

    def __init__(self, names: Sequence[str], num_buckets: Sequence[int], salt: int) -> None:
        super().__init__()
        self._names, self._salt = tuple(names), salt
        self.num_buckets = tuple(num_buckets)
        self.salts: Tensor
        self.register_buffer("salts", torch.empty(len(self._names), dtype=torch.int64))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Writes the salts: of the names alone, not of the run's seed."""
        del generator
        if not self.salts.is_meta:
            self.salts.copy_(torch.from_numpy(hash_strings(self._names, self._salt)))

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        """One tensor of rows a probe."""
        values, real = indices.long(), indices != PAD_INDEX
        return tuple(
            ((to_buckets(splitmix64(values ^ self.salts[k]), buckets) + 1) * real).int()
            for k, buckets in enumerate(self.num_buckets)
        )
