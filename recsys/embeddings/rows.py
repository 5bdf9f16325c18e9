"""Single rows of physical tables, read and written between steps.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.embeddings.store import PhysicalTable, Store


class PartRows:
    """The physical tables of one part's probes (`recsys.embeddings.scheme.Rows`).

    Args:
        store: Holds them.
        tables: One a probe.
        optimizer: Its state of written rows starts anew.
    """

    def __init__(
        self,
        store: Store,
        tables: Sequence[PhysicalTable],
        optimizer: EmbeddingOptimizer | None,
    ) -> None:
        self._store, self._tables, self._optimizer = store, tuple(tables), optimizer

    def read(self, probe: int, rows: Tensor | None = None) -> Tensor:
        """A copy of some rows (R, D), or of all. Collective on sharded tables."""
        return self._store.read_rows(self._tables[probe].name, rows)

    def write(self, probe: int, rows: Tensor, values: Tensor, reset: bool = True) -> None:
        """Replaces rows on every rank; PAD stays zero."""
        name = self._tables[probe].name
        self._store.write_rows(name, rows, values)
        if reset and self._optimizer is not None:
            self._optimizer.reset_rows(name, rows)
