"""Least squares of many small problems that share one matrix: the step of alternating fits.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from recsys.graph.products import size

_CHUNK_FLOATS = 1 << 20  # gathered at once: 4 MB stay in cache


class ImplicitLeastSquares:
    """The vector w of every row that best tells what was seen from what was not.

    It minimizes ``sum_seen c_i (w.v_i - 1)^2 + unobserved * sum_all (w.v_i)^2 + penalty * |w|^2``
    with c_i the value of the history. Exact: where fewer items were seen than a vector has
    numbers, through the Woodbury identity, whose systems are as small as the history; else by the
    normal equations. Rows of like length are solved together. What all rows share is computed
    once, so keep the object where many small batches are solved against the same vectors.

    Args:
        vectors: v, of every item.

    Shape:
        - vectors: (I, D)

    Example:
        >>> problem = ImplicitLeastSquares(torch.tensor([[1.0], [2.0]]))
        >>> seen = csr_array(np.array([[1, 0]], np.float32))
        >>> found = problem.solve(seen, 0.2, torch.tensor([1.0]))
        >>> round(found.item(), 6)  # 1 / (1 + 0.2 (1 + 4) + 1)
        0.333333
    """

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors
        # In the basis where the shared matrix is diagonal, so is its sum with any penalty.
        gram = vectors.double()
        values, turn = torch.linalg.eigh(gram.T @ gram)
        self._values, self._turn = values.clamp_min(0), turn.float()
        self._turned = vectors @ self._turn

    def solve(self, history: csr_array, unobserved: float, penalty: Tensor) -> Tensor:
        """Vectors of rows.

        Args:
            history: Sparse (B, I), not negative.
            unobserved: Weight of what was not seen.
            penalty: Of every row, above 0.

        Shape:
            - penalty: (B,)
            - output: (B, D)
        """
        diagonal, width = (unobserved * self._values).float(), self.vectors.shape[1]
        out = torch.zeros(size(history)[0], width)
        for rows, items, roots in _chunks(history, width):
            shared = diagonal + penalty[rows, None]
            if items.shape[1] == 0:
                continue
            seen = self._turned[items] * roots[:, :, None]
            if items.shape[1] <= width:
                scaled = seen / shared[:, None, :]
                inner = scaled @ seen.mT
                inner.diagonal(dim1=1, dim2=2).add_(1)
                solved = _solve(inner, roots)
                out[rows] = (scaled.mT @ solved[:, :, None]).squeeze(2)
            else:
                inner = seen.mT @ seen
                inner.diagonal(dim1=1, dim2=2).add_(shared)
                out[rows] = _solve(inner, (seen.mT @ roots[:, :, None]).squeeze(2))
        return out @ self._turn.T


def _solve(matrices: Tensor, right: Tensor) -> Tensor:
    factors, _ = torch.linalg.cholesky_ex(matrices)
    return torch.cholesky_solve(right[:, :, None], factors).squeeze(2)


def _chunks(history: csr_array, dim: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows of like length: their numbers, the items and roots of values, padded with 0."""
    lengths = np.diff(history.indptr)
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        # Rows are sorted, so the longest of a chunk is its last.
        need = lengths[order[start:]].astype(np.int64) * np.arange(1, len(order) - start + 1)
        count = max(1, int(np.searchsorted(need * max(dim, 1), _CHUNK_FLOATS, side="right")))
        rows = order[start : start + count]
        longest = int(lengths[rows[-1]])
        place = np.arange(longest)
        inside = place < lengths[rows][:, None]
        at = np.minimum(history.indptr[rows][:, None] + place, max(history.nnz - 1, 0))
        items = np.where(inside, history.indices[at], 0).astype(np.int64)
        roots = np.where(inside, np.sqrt(history.data[at]), 0).astype(np.float32)
        yield torch.from_numpy(rows), torch.from_numpy(items), torch.from_numpy(roots)
        start += count
