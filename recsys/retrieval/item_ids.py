"""Ids of items: integers or strings, all of one kind, none twice.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from recsys.errors import DataError


def plain(values: Any) -> Any:
    """An array, tensor or Arrow column as a numpy array; anything else unchanged.

    Args:
        values: What was given.
    """
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    if isinstance(values, pa.ChunkedArray):
        return values.to_numpy()
    return values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values


def as_ids(values: Any, name: str = "ids") -> NDArray:
    """Ids as an array of int64 or of Python strings.

    Args:
        values: List, set, array, tensor or Arrow column.
        name: What they are, for the error text.

    Returns:
        A flat array.

    Raises:
        DataError: They are neither all integers nor all strings, or not a flat list.

    Example:
        >>> as_ids([3, 1]), as_ids(["a"]).tolist()
        (array([3, 1]), ['a'])
    """
    values = plain(values)
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise DataError(f"`{name}` must be a list of ids, got {values!r}.")
    flat = values.tolist() if isinstance(values, np.ndarray) else list(values)
    if not flat:
        return np.zeros(0, np.int64)
    kinds = {_kind(value) for value in flat}
    if kinds == {"integer"}:
        try:
            return np.array([int(value) for value in flat], np.int64)
        except OverflowError:
            raise DataError(f"`{name}` must be integers of 64 bits, or strings.") from None
    if kinds != {"string"}:
        wrong = next(value for value in flat if _kind(value) != _kind(flat[0]) or len(kinds) == 1)
        raise DataError(
            f"`{name}` must be all integers or all strings, got {', '.join(sorted(kinds))}; one "
            f"of them is {wrong!r}."
        )
    ids = np.empty(len(flat), object)
    ids[:] = [str(value) for value in flat]
    return ids


def _kind(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "bool"
    if isinstance(value, int | np.integer):
        return "integer"
    return "string" if isinstance(value, str) else type(value).__name__


def check_distinct(ids: NDArray, name: str = "ids") -> None:
    """Refuses ids that come twice.

    Args:
        ids: From `as_ids`.
        name: What they are, for the error text.

    Raises:
        DataError: An id comes twice.
    """
    seen: set[Any] = set()
    for row, value in enumerate(ids.tolist(), 1):
        if value in seen:
            raise DataError(f"`{name}` must differ: {value!r} comes again in row {row:,}.")
        seen.add(value)


def same_kind(ids: NDArray, others: NDArray, name: str) -> None:
    """Refuses strings where the index has integers, and the other way round.

    Args:
        ids: Of the index.
        others: What was given.
        name: What they are, for the error text.

    Raises:
        DataError: They are of another kind.
    """
    if len(ids) and len(others) and ids.dtype != others.dtype:
        kinds = ["strings" if a.dtype == object else "integers" for a in (ids, others)]
        raise DataError(
            f"`{name}` must be {kinds[0]} like the ids of the index, got {kinds[1]}: {others[0]!r}."
        )
