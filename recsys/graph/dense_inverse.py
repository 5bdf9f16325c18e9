"""The inverse of the items' Gram matrix, in the memory of the matrix itself.

Stability: internal
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.linalg import get_lapack_funcs
from scipy.sparse import csr_array

from recsys.errors import ConfigError
from recsys.graph.products import size, transposed

_ROWS = 2048


def gram_matrix(
    matrix: csr_array, diagonal: float, dtype: Literal["float32", "float64"]
) -> np.ndarray:
    """``R^T R`` with something added to its diagonal, dense.

    Args:
        matrix: R, sparse (U, I).
        diagonal: What is added.
        dtype: Of the result.

    Returns:
        (I, I).
    """
    count = size(matrix)[1]
    out = np.empty((count, count), dtype)
    items = transposed(matrix)
    for start in range(0, count, _ROWS):
        stop = min(start + _ROWS, count)
        csr_array(items[start:stop] @ matrix).astype(dtype).toarray(out=out[start:stop])
    out[np.diag_indices(count)] += diagonal
    return out


def inverse_error(matrix: csr_array, diagonal: float, inverse: np.ndarray) -> float:
    """How wrong an inverse of a Gram matrix is: ``|A A^-1 x - x| / |x|`` for one random x.

    Args:
        matrix: R, sparse (U, I).
        diagonal: What was added to ``R^T R``.
        inverse: (I, I).
    """
    probe = np.random.default_rng(0).choice([-1.0, 1.0], len(inverse))
    solved = (inverse @ probe.astype(inverse.dtype)).astype(np.float64)
    back = matrix.T @ (matrix @ solved) + diagonal * solved
    return float(np.linalg.norm(back - probe) / np.linalg.norm(probe))


def invert_in_place(matrix: np.ndarray) -> None:
    """Replaces a symmetric positive definite matrix by its inverse.

    By Cholesky factors, about ``I^3`` operations, and no memory besides the matrix.

    Args:
        matrix: (I, I), C-contiguous, float32 or float64.

    Raises:
        ConfigError: It is not positive definite in this precision.

    Example:
        >>> matrix = np.array([[2.0, 0.0], [0.0, 4.0]])
        >>> invert_in_place(matrix)
        >>> matrix.round(6).tolist()
        [[0.5, 0.0], [0.0, 0.25]]
    """
    factor, inverse = get_lapack_funcs(("potrf", "potri"), (matrix,))
    columns = matrix.T  # LAPACK's order, the same memory
    _, failed = factor(columns, lower=1, clean=0, overwrite_a=1)
    if failed == 0:
        _, failed = inverse(columns, lower=1, overwrite_c=1)
    if failed:
        raise ConfigError(
            f"the items' Gram matrix is not positive definite in {matrix.dtype} (found at item "
            f"{abs(failed)}). Raise `l2`, or set `precision: float64`."
        )
    count = len(matrix)
    for start in range(0, count, _ROWS):  # LAPACK filled one triangle
        stop = min(start + _ROWS, count)
        for other in range(start, count, _ROWS):
            end = min(other + _ROWS, count)
            block = matrix[start:stop, other:end]
            if other == start:
                upper = np.triu(block)
                block[:] = upper + np.triu(block, 1).T
            else:
                matrix[other:end, start:stop] = block.T
