"""Refuses indices outside their tables.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from recsys.embeddings import kernels
from recsys.embeddings.ids import Ids
from recsys.errors import SchemaError


def check_range(ids: Ids, keys: Sequence[str], tables: Sequence[tuple[str, int]]) -> None:
    """Refuses an index outside its table.

    Args:
        ids: What will be looked up.
        keys: Name of every slot.
        tables: Name and rows of the (smallest) table that every slot looks up.

    Raises:
        SchemaError: An index is negative or not below ``num_embeddings``.
    """
    if ids.counts is None or ids.values.numel() == 0:
        return
    if ids.values.is_cuda:  # one wait for the device, not one a feature
        limit = torch.tensor([rows for _, rows in tables], device=ids.values.device)
        limit = limit.repeat_interleave(ids.counts_tensor(), output_size=ids.values.shape[0])
        if not bool(((ids.values < 0) | (ids.values >= limit)).any()):
            return
    values, limits = ids.values, [rows for _, rows in tables]
    compiled = values.device.type == "cpu" and values.dtype == torch.int32 and kernels.library()
    if compiled and kernels.out_of_range(values.contiguous(), ids.counts, limits) < 0:
        return
    start = 0
    for key, count, (table, rows) in zip(keys, ids.counts, tables):
        if count:
            low, high = (int(x) for x in ids.values[start : start + count].aminmax())
            if low < 0 or high >= rows:
                refuse_index(key, low if low < 0 else high, table, rows)
        start += count


def refuse_index(key: str, index: int, table: str, rows: int) -> None:
    """Raises the error for one index outside its table.

    Raises:
        SchemaError: Always.
    """
    raise SchemaError(
        f"feature `{key}`: index {index:_} is outside table `{table}` (num_embeddings={rows:_}). "
        "Raise num_embeddings, or encode the ids with the vocabulary the schema was fitted on."
    )
