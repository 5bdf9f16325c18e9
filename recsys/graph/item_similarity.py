"""Items by items: weights of their pairs, what is computed from them, and how neighbours are found.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from recsys.graph.fitted_buffers import FittedBuffers, buffers_of, check_history, csr_of
from recsys.graph.products import dense, scaled, size, sparse_dense, sparse_sparse, sums

_BLOCK_ENTRIES = 1 << 25  # entries that a block of rows may at most have


class ItemWeights(FittedBuffers):
    """A weight of every pair of items: how much seeing the first says for the second.

    Dense or sparse. The score of item j is ``sum_i history_i * w_ij``.

    Args:
        num_items: I.

    Shape:
        - input: sparse (B, I)
        - output: (B, I) float32

    Example:
        >>> weights = ItemWeights(2)
        >>> weights.assign(torch.tensor([[0.0, 0.5], [2.0, 0.0]]))
        >>> weights(csr_array(np.array([[1, 0], [1, 1]], np.float32))).tolist()
        [[0.0, 0.5], [2.0, 0.5]]
    """

    dense: Tensor
    indptr: Tensor
    indices: Tensor
    values: Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.num_items = num_items
        self.add_buffers(
            dense=torch.float32, indptr=torch.int32, indices=torch.int32, values=torch.float32
        )

    def assign(self, weights: Tensor | csr_array) -> None:
        """Takes the weights; a dense tensor is not copied.

        Args:
            weights: (I, I), dense or sparse.
        """
        self.add_buffers(
            dense=torch.float32, indptr=torch.int32, indices=torch.int32, values=torch.float32
        )
        if isinstance(weights, Tensor):
            self.dense = weights
        else:
            self.indptr, self.indices, self.values = buffers_of(weights)

    @property
    def is_sparse(self) -> bool:
        """Whether only some pairs have a weight."""
        return len(self.indptr) > 0

    def matrix(self) -> csr_array:
        """The weights where they are sparse, (I, I)."""
        return csr_of(self.indptr, self.indices, self.values, self.num_items)

    def forward(self, history: csr_array) -> Tensor:
        """Scores of all items."""
        self.require(self.is_sparse or len(self.dense) > 0)
        check_history(history, self.num_items)
        if self.is_sparse:
            return torch.from_numpy(sparse_sparse(history, self.matrix()))
        return sparse_dense(history, self.dense.cpu())

    def column(self, rows: Tensor, column: int) -> Tensor:
        """Weights of some items for one.

        Args:
            rows: Numbers of items, (N,).
            column: Number of the item they speak for.
        """
        self.require(self.is_sparse or len(self.dense) > 0)
        if self.is_sparse:
            return torch.from_numpy(dense(self.matrix()[rows.numpy()][:, [column]])[:, 0])
        return self.dense[rows.to(self.dense.device), column].cpu()

    def rows(self, rows: Tensor) -> Tensor:
        """Weights of some items for all, (N, I).

        Args:
            rows: Numbers of items, (N,).
        """
        self.require(self.is_sparse or len(self.dense) > 0)
        if self.is_sparse:
            return torch.from_numpy(dense(self.matrix()[rows.numpy()]))
        return self.dense[rows.to(self.dense.device)].cpu()


def neighbours(
    left: csr_array,
    right: csr_array,
    top_k: int,
    adjust: Callable[[csr_array, int], None],
    say: Callable[[str], None],
) -> csr_array:
    """The largest entries of every row of ``left @ right``, without its diagonal.

    The product is computed in blocks of rows, so that it is never held as a whole.

    Args:
        left: Sparse (I, U).
        right: Sparse (U, I).
        top_k: Entries that are kept of a row.
        adjust: Changes the values of a block in place; gets the block and its first row.
        say: Shows a line of progress.

    Returns:
        Sparse (I, I) float32 with at most ``top_k`` positive entries a row. Of equal ones those of
        lower numbers are kept.
    """
    blocks, total = [], size(left)[0]
    for start, stop in row_blocks(left, right):
        block = csr_array(left[start:stop] @ right)
        block.sort_indices()
        adjust(block, start)
        row = np.repeat(np.arange(start, stop), np.diff(block.indptr))
        block = kept(block, (block.indices != row) & (block.data > 0))
        blocks.append(top_of_rows(block, top_k))
        say(f"neighbours of {stop:,} of {total:,} items")
    return csr_array(vstack(blocks, format="csr", dtype=np.float32))


def row_blocks(left: csr_array, right: csr_array) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose part of ``left @ right`` has a bounded number of entries.

    Args:
        left: Sparse (M, N).
        right: Sparse (N, K).
    """
    lengths = np.concatenate([[0], np.cumsum(np.diff(right.indptr)[left.indices], dtype=np.int64)])
    before = lengths[left.indptr]
    start, total = 0, size(left)[0]
    while start < total:
        stop = int(np.searchsorted(before, before[start] + _BLOCK_ENTRIES, side="right")) - 1
        stop = min(max(stop, start + 1), total)
        yield start, stop
        start = stop


def kept(matrix: csr_array, mask: np.ndarray) -> csr_array:
    """Some of the entries of a sparse matrix.

    Args:
        matrix: Any.
        mask: Of its entries.
    """
    counts = np.concatenate([[0], np.cumsum(mask)])
    parts = (matrix.data[mask], matrix.indices[mask], counts[matrix.indptr])
    return csr_array(parts, shape=size(matrix))


def top_of_rows(matrix: csr_array, top_k: int) -> csr_array:
    """The largest entries of every row; of equal ones those in front.

    Args:
        matrix: Sparse, entries of a row in the order of columns.
        top_k: Entries that are kept of a row.

    Example:
        >>> matrix = csr_array(np.array([[1, 3, 2, 3], [0, 0, 4, 0]]))
        >>> top_of_rows(matrix, 2).toarray().tolist()
        [[0, 3, 0, 3], [0, 0, 4, 0]]
    """
    lengths = np.diff(matrix.indptr)
    mask = np.ones(matrix.nnz, bool)
    for row in np.flatnonzero(lengths > top_k):
        entries = slice(matrix.indptr[row], matrix.indptr[row + 1])
        values = matrix.data[entries]
        limit = np.partition(values, len(values) - top_k)[len(values) - top_k]
        chosen = values > limit
        chosen[np.flatnonzero(values == limit)[: top_k - int(chosen.sum())]] = True
        mask[entries] = chosen
    return kept(matrix, mask)


def weighted(
    matrix: csr_array, weighting: Literal["none", "tfidf", "bm25"], k1: float = 1.2, b: float = 0.75
) -> csr_array:
    """Pairs by how much they say: users with many items count less, and so do popular items.

    An item is a document and its users are its words. ``tfidf``: ``sqrt(r) * idf_u``. ``bm25``:
    ``r (k1 + 1) / (r + k1 (1 - b + b d_i / mean d)) * idf_u``. Both with
    ``idf_u = ln((1 + I) / (1 + |I_u|))``.

    Args:
        matrix: R, sparse (U, I).
        weighting: Which of them, or none.
        k1: Of bm25: from where more of a weight says little.
        b: Of bm25: how much popular items are held back, 0 to 1.

    Returns:
        Sparse (U, I) float32.
    """
    if weighting == "none":
        return matrix
    rarity = np.log((1 + size(matrix)[1]) / (1.0 + np.diff(matrix.indptr)))
    if weighting == "tfidf":
        values = np.sqrt(matrix.data)
    else:
        popularity = sums(matrix, 0)
        length = 1 - b + b * popularity / popularity.mean()
        values = matrix.data * (k1 + 1) / (matrix.data + k1 * length[matrix.indices])
    found = csr_array((values, matrix.indices, matrix.indptr), shape=size(matrix))
    return scaled(found, rarity, None)
