"""Products of sparse matrices of users and items, the way that is quick for each shape.

Stability: internal
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from recsys.graph import spmm

_WORTH_A_CALL = 6000  # entries of a user, from where one call a user is quicker than one for all


def size(matrix: Any) -> tuple[int, int]:
    """Rows and columns of a sparse matrix (scipy's types do not say that it has two)."""
    rows, columns = matrix.shape
    return rows, columns


def dense(matrix: Any) -> np.ndarray:
    """A sparse matrix written out, float32."""
    return np.asarray(matrix.toarray(), np.float32)


def one_each(columns: np.ndarray, values: np.ndarray | None, width: int) -> csr_array:
    """Rows with one entry each, (N, width), float32.

    Args:
        columns: Where, (N,).
        values: What, (N,); None for all 1.
        width: Number of columns.
    """
    data = np.ones(len(columns), np.float32) if values is None else values
    return csr_array((data, columns, np.arange(len(columns) + 1)), shape=(len(columns), width))


def transposed(matrix: Any) -> csr_array:
    """The transpose of a sparse matrix, by rows, the columns of each in order."""
    return csr_array(matrix.T.tocsr())


def scaled(matrix: Any, rows: np.ndarray | None, columns: np.ndarray | None) -> csr_array:
    """A sparse matrix whose rows and columns are multiplied by numbers, float32.

    Args:
        matrix: Sparse (M, N).
        rows: (M,), or None.
        columns: (N,), or None.
    """
    values = matrix.data.astype(np.float64)
    if rows is not None:
        values *= np.repeat(rows, np.diff(matrix.indptr))
    if columns is not None:
        values *= columns[matrix.indices]
    parts = (values.astype(np.float32), matrix.indices, matrix.indptr)
    return csr_array(parts, shape=size(matrix))


def sums(matrix: Any, axis: int) -> np.ndarray:
    """Sums of a sparse matrix along an axis, float64."""
    return np.asarray(matrix.sum(axis=axis), np.float64).ravel()


def sparse_dense(matrix: csr_array, rows: Tensor) -> Tensor:
    """``matrix @ rows``, by the compiled kernel where there is one.

    It is quickest where a row has 32 numbers: then they stay in cache.

    Args:
        matrix: Sparse (M, N) float32.
        rows: (N, D) float32, on the CPU.

    Returns:
        (M, D) float32.

    Example:
        >>> matrix = csr_array(np.array([[0, 2], [1, 1]], np.float32))
        >>> sparse_dense(matrix, torch.tensor([[1.0], [10.0]])).tolist()
        [[20.0], [11.0]]
    """
    if spmm.fit(rows):
        return spmm.product(
            torch.from_numpy(matrix.indptr.astype(np.int64, copy=False)),
            torch.from_numpy(matrix.indices.astype(np.int32, copy=False)),
            torch.from_numpy(matrix.data.astype(np.float32, copy=False)),
            rows,
        )
    return torch.from_numpy(np.ascontiguousarray(matrix @ rows.numpy(), np.float32))


def sparse_sparse(history: csr_array, weights: csr_array) -> np.ndarray:
    """``history @ weights`` as a dense array.

    Long products go user by user into a dense row, short ones through scipy's sparse product.

    Args:
        history: Sparse (B, I).
        weights: Sparse (I, J).

    Returns:
        (B, J) float32.

    Example:
        >>> weights = csr_array(np.array([[0, 2], [1, 1]], np.float32))
        >>> sparse_sparse(csr_array(np.array([[1, 3]], np.float32)), weights).tolist()
        [[3.0, 5.0]]
    """
    kind = weights.indices.dtype  # scipy would copy the weights to make the types equal
    positions = (history.indices.astype(kind), history.indptr.astype(kind))
    count, width = size(history)
    history = csr_array((history.data, *positions), shape=(count, width))
    entries = int(np.diff(weights.indptr)[history.indices].sum(dtype=np.int64))
    if entries < _WORTH_A_CALL * count:
        return dense(history @ weights)
    out = np.zeros((count, size(weights)[1]), np.float32)
    for row in range(count):
        seen = slice(history.indptr[row], history.indptr[row + 1])
        if seen.start < seen.stop:
            out[row] = weights[history.indices[seen]].T @ history.data[seen]
    return out
