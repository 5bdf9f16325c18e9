"""The store of frozen tables: rows in fp32, fp16 or quantized, looked up and never trained.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from recsys.embeddings.scheme import Dtype
from recsys.embeddings.store import LocalStore, Lookup, PhysicalTable


class PackedStore(LocalStore):
    """Frozen tables."""

    def __init__(
        self,
        tables: Sequence[PhysicalTable],
        lookups: Sequence[Lookup],
        row_lookups: Sequence[Lookup],
        dtypes: Mapping[str, Dtype],
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(tables, lookups, row_lookups, device)
        self.dtypes = dict(dtypes)
        for parameter in self.parameters():
            parameter.requires_grad_(False)
