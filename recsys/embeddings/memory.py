"""Bytes of embedding tables, counted from storage.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from torch import Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class TableBytes:
    """Bytes held, by what they are for.

    Args:
        tables: Embedding rows.
        indices: Buffers of encoders (remaps, codes).
        decoders: Parameters and buffers of decoders.
        optimizer: Optimizer states.
    """

    tables: int
    indices: int
    decoders: int
    optimizer: int

    @property
    def total(self) -> int:
        """All together."""
        return self.tables + self.indices + self.decoders + self.optimizer


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of tensors, shared storage counted once; also on meta.

    Args:
        tensors: Any.
    """
    storages = {t.untyped_storage()._cdata: t.untyped_storage() for t in tensors}
    return sum(storage.nbytes() for storage in storages.values())
