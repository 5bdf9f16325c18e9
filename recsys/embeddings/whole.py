"""Whole tables with their gradient, for models that use every row in every step.

Stability: internal
"""

from __future__ import annotations

from torch import Tensor

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.scheme import Full
from recsys.embeddings.store import LocalStore


def whole_table(embeddings: EmbeddingCollection, group: str, table: str) -> Tensor | None:
    """All rows of a table with their gradient, without a lookup, where they lie here as such.

    Args:
        embeddings: Has the table.
        group: Of the table.
        table: Its name.

    Returns:
        (V, D), PAD and OOV first, a view; None where the table is compressed, shared out, frozen,
        or trained by row gradients.
    """
    name, store = f"{group}.{table}", embeddings.store
    plain = isinstance(store, LocalStore) and isinstance(embeddings.schemes[name], Full)
    if not plain or store.is_sparse:
        return None
    found = store.weights()[name]
    return found if embeddings.trains_tables else found.detach()
