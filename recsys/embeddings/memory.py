"""Bytes of embedding tables, counted from storage.

Stability: caller
"""

from __future__ import annotations

import dataclasses

from torch import nn


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


def module_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers, shared storage counted once."""
    tensors = [*module.parameters(), *module.buffers()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())
