"""What an index takes: finite vectors, one row of meta and one prior an item.

Stability: internal
"""

from __future__ import annotations

import mmap
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from recsys.errors import DataError, did_you_mean
from recsys.retrieval.item_ids import plain

_ROWS = 1 << 16
_LONGEST = 1e18  # two of this length still have a finite float32 product


@runtime_checkable
class VersionedVectors(Protocol):
    """Vectors that say which model made them, as `recsys.serving.vectors.Vectors` do."""

    @property
    def values(self) -> np.ndarray:
        """(N, D)."""
        ...

    @property
    def version(self) -> str | None:
        """Of the model; None where it is not known."""
        ...


def as_vectors(values: Any, name: str) -> Tensor:
    """Vectors as a float32 matrix of their own memory, unless they are mapped from a file.

    A float32 matrix from ``np.load(path, mmap_mode="r")`` stays on disk: its pages are read when
    they are needed, and its file must not change meanwhile.

    Args:
        values: Matrix as an array, a tensor or lists.
        name: What they are, for the error text.

    Raises:
        DataError: They are not a matrix of finite numbers.

    Shape:
        - output: (N, D)
    """
    try:
        array = np.asarray(plain(values), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"`{name}` must be a matrix of numbers: {error}.") from None
    if array.ndim != 2 or not array.shape[1]:
        raise DataError(f"`{name}` must be a matrix, a row a vector, got shape {array.shape}.")
    mapped = _mapped(values)
    table = torch.from_numpy(np.array(array, order="C") if mapped is None else mapped)
    parts = [torch.linalg.vector_norm(part, dim=1) for part in table.split(_ROWS)]
    lengths = torch.cat(parts) if parts else torch.zeros(0)
    good = lengths <= _LONGEST  # false for NaN too
    if not bool(good.all()):
        row = int((~good).nonzero()[0])
        raise DataError(
            f"`{name}` must be finite and shorter than {_LONGEST:g}; {int((~good).sum()):,} of "
            f"{len(good):,} rows are not, first row {row + 1:,}, of length {lengths[row]:g}. Did "
            "the training diverge?"
        )
    return table


def _mapped(values: Any) -> np.ndarray | None:
    """The same pages of a mapped matrix again, in a way that nothing written reaches the file."""
    if not isinstance(values, np.memmap) or values.dtype != np.float32 or not values.size:
        return None
    plain_file = values.flags.c_contiguous and isinstance(values.base, mmap.mmap)
    if values.filename is None or not plain_file:
        return None
    shape, offset = values.shape, values.offset
    return np.memmap(values.filename, np.float32, mode="c", offset=offset, shape=shape)


def as_prior(values: Any, size: int) -> Tensor | None:
    """A finite value an item.

    Args:
        values: Of the items, or None.
        size: N.

    Raises:
        DataError: Their number differs, or one is not finite.
    """
    if values is None:
        return None
    try:
        prior = torch.from_numpy(np.array(plain(values), dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise DataError(f"`prior` must be numbers, one an item: {error}.") from None
    if prior.shape != (size,) or not bool(prior.isfinite().all()):
        raise DataError(
            f"`prior` must be a finite number for each of {size:,} items, got shape "
            f"{tuple(prior.shape)} with {int((~prior.isfinite()).sum()):,} that are not finite."
        )
    return prior


def as_meta(meta: pa.Table | None, size: int, like: pa.Table | None = None) -> pa.Table | None:
    """A row an item, with the columns of the index where it has any.

    Args:
        meta: What was given.
        size: N.
        like: What the index has; only for items that are added.

    Raises:
        DataError: Rows or columns do not fit.
    """
    if meta is not None and not isinstance(meta, pa.Table):
        raise DataError(f"`meta` must be a pyarrow.Table, got {type(meta).__name__}.")
    if meta is not None and (
        meta.num_rows != size or len(set(meta.column_names)) < meta.num_columns
    ):
        raise DataError(
            f"`meta` must have a row for each of {size:,} items and no column twice, got "
            f"{meta.num_rows:,} rows and the columns {', '.join(meta.column_names)}."
        )
    if like is None:
        return meta
    if meta is None:
        raise DataError(
            f"the index has `meta` ({', '.join(like.column_names)}); give it for new items too."
        )
    missing = [name for name in like.column_names if name not in meta.column_names]
    extra = [name for name in meta.column_names if name not in like.column_names]
    if missing or extra:
        hint = did_you_mean((extra or missing)[0], like.column_names)
        raise DataError(
            f"`meta` must have the columns of the index: missing {missing}, unknown {extra}. {hint}"
        )
    try:
        return meta.select(like.column_names).cast(like.schema)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"`meta` does not fit the columns of the index: {error}.") from None


def check_search(
    k: int, unknown: str, cutoff: float | None, min_results: int, adapted: bool, rescore: int = 0
) -> None:
    """Options of a search, see `recsys.retrieval.index.Index.search`.

    Args:
        k: Items wanted.
        unknown: What to do about unknown ids.
        cutoff: Probability that an item must have.
        min_results: Items to keep whatever their probability.
        adapted: Whether the index has an adapter.
        rescore: Candidates for every item wanted.

    Raises:
        DataError: One is out of range, or there is no adapter for the cut-off.
    """
    numbers = {"k": (k, 1), "min_results": (min_results, 0), "rescore": (rescore, 0)}
    for name, (given, least) in numbers.items():
        whole = isinstance(given, int | np.integer) and not isinstance(given, bool)
        if not whole or given < least:
            raise DataError(f"`{name}` must be a whole number, at least {least}, got {given!r}.")
    if cutoff is not None and not 0 <= cutoff <= 1:
        raise DataError(
            f"`cutoff` must be a probability between 0 and 1, got {cutoff!r}. Take it from "
            "index.adapter.threshold(recall=0.8)."
        )
    if cutoff is not None and not adapted:
        raise DataError(
            "`cutoff` needs probabilities, and the index has no adapter. Fit a CosineAdapter "
            "(recsys.retrieval.adapter) on labelled hits and set index.adapter."
        )
    if unknown not in ("error", "ignore"):
        raise DataError(f'`unknown` must be "error" or "ignore", got {unknown!r}.')
