"""The encoder of all schemes that hash.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recsys.embeddings import kernels
from recsys.embeddings.ids import is_traced
from recsys.embeddings.scheme import Encoder
from recsys.hashing import hash_strings, splitmix64
from recsys.schema import PAD_INDEX

_MASK32 = (1 << 32) - 1


class HashEncoder(Encoder):
    """Hash functions over indices, PAD to PAD.

        h_k(x) = 1 + floor(M_k u_k(x) / 2^32),   u_k(x) = the upper 32 bits of a_k mix(x)

    ``mix`` is splitmix64 and a_k an odd 64-bit number made of the probe's name and the salt. The
    indices are mixed once for all probes.

    Args:
        names: One a probe; equal names give equal hashes, others unrelated ones.
        num_buckets: One a probe, PAD's row not counted.
        salt: Seed of all.

    Shape:
        - as `Encoder`

    Source:
        Dietzfelbinger et al., "A Reliable Randomized Algorithm for the Closest-Pair Problem",
        1997 (multiply-shift). Lemire, "Fast Random Integer Generation in an Interval", 2019 (the
        range without a division).
    """

    def __init__(self, names: Sequence[str], num_buckets: Sequence[int], salt: int) -> None:
        super().__init__()
        self._names, self._salt = tuple(names), salt
        self.num_buckets = tuple(num_buckets)
        self._buckets = np.array(self.num_buckets, dtype=np.int64)
        self.salts: Tensor
        self.register_buffer("salts", torch.empty(len(self._names), dtype=torch.int64))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Writes the salts: of the names alone, not of the run's seed."""
        del generator
        if not self.salts.is_meta:
            self.salts.copy_(torch.from_numpy(hash_strings(self._names, self._salt)))

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        """One tensor of rows a probe."""
        if not is_traced(indices):
            found = kernels.hashed(indices, self.salts, self._buckets)
            if found is not None:
                return found.unbind(0)
        mixed = mixed_products(indices, self.salts)
        rows = mixed.bitwise_right_shift_(32).bitwise_and_(_MASK32)
        if len(set(self.num_buckets)) == 1:
            rows.mul_(self.num_buckets[0])
        else:
            rows.mul_(torch.tensor(self.num_buckets, device=rows.device).unsqueeze(1))
        rows.bitwise_right_shift_(32).add_(1).masked_fill_(indices == PAD_INDEX, PAD_INDEX)
        return tuple(rows.int().unbind(0))


def mixed_products(indices: Tensor, salts: Tensor) -> Tensor:
    """One 64-bit hash an index and salt; the upper bits are the good ones.

    Args:
        indices: Integers of any kind.
        salts: int64; each is made odd.

    Shape:
        - indices: (L,)
        - salts: (K,)
        - output: (K, L) int64, new
    """
    return (salts | 1).unsqueeze(1) * splitmix64(indices.long())
