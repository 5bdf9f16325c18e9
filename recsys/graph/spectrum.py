"""The leading eigenvectors of items by items, and the filters made of them.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from recsys.graph.fitted_buffers import (
    FittedBuffers,
    buffers_of,
    check_history,
    check_weights,
    csr_of,
)
from recsys.graph.products import dense, scaled, sparse_dense, sums, transposed

_WIDTH = 32  # users that are smoothed at once: their columns stay in cache
_EXACT = 1024  # up to here the whole spectrum is computed
_DEGREE = 10  # of the polynomials


class ItemFilter(FittedBuffers):
    """Smoothing over the graph, and an ideal low-pass filter, for rows of users over items.

    With R the training pairs, D_U and D_I the degrees of users and items and
    ``R~ = D_U^-1/2 R D_I^-1/2``: `smooth` is the product with ``P = R~^T R~``; the ideal filter is
    ``D_I^-1/2 V V^T D_I^1/2`` with V the leading eigenvectors of P.

    Args:
        num_items: I.
    """

    indptr: Tensor
    indices: Tensor
    values: Tensor
    scale: Tensor
    vectors: Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.num_items = num_items
        self.add_buffers(
            indptr=torch.int32, indices=torch.int32, values=torch.float32, scale=torch.float32,
            vectors=torch.float32,
        )  # fmt: skip
        self._pair: tuple[csr_array, csr_array] | None = None
        self._pair_of: Tensor | None = None

    def assign(self, matrix: csr_array, rank: int, seed: int, say: Callable[[str], None]) -> None:
        """Computes the filter.

        Args:
            matrix: R, sparse (U, I).
            rank: Eigenvectors of the ideal filter; 0 leaves it out.
            seed: Of the random start.
            say: Shows a line of progress.

        Raises:
            DataError: A weight of a pair is negative.
        """
        check_weights(matrix)
        found, degrees = normalized(matrix)
        self.indptr, self.indices, self.values = buffers_of(found)
        self.scale = torch.from_numpy(np.sqrt(degrees))
        self.vectors = torch.empty(self.num_items, 0)
        if rank:
            _, self.vectors = top_eigenvectors(self.smooth, self.num_items, rank, seed, say)

    def smooth(self, columns: Tensor) -> Tensor:
        """``P @ columns``: one step over the graph, from items to users and back.

        Args:
            columns: (I, N) float32.
        """
        if self._pair is None or self._pair_of is not self.values:  # loading replaces buffers
            self._pair_of = self.values
            found = csr_of(self.indptr, self.indices, self.values, self.num_items)
            self._pair = found, transposed(found)
        there, back = self._pair
        return sparse_dense(back, sparse_dense(there, columns))

    def ideal(self, history: csr_array) -> Tensor:
        """What the ideal filter leaves of histories, (B, I).

        Args:
            history: Sparse (B, I).
        """
        scale, vectors = self.scale.cpu()[:, None], self.vectors.cpu()
        down = torch.where(scale > 0, 1 / scale, 0.0)
        return sparse_dense(history, vectors * down) @ (vectors * scale).T

    def respond(self, history: csr_array, response: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Scores that a response makes of histories, a few users at a time.

        Args:
            history: Sparse (B, I).
            response: Gets (I, N) columns of histories, and what the ideal filter leaves of them.

        Returns:
            (B, I) float32.
        """
        self.require(len(self.indptr) > 0)
        check_history(history, self.num_items)
        out = self.ideal(history)
        for start in range(0, len(out), _WIDTH):
            part = slice(start, start + _WIDTH)
            columns = torch.from_numpy(np.ascontiguousarray(dense(history[part]).T))
            out[part] = response(columns, out[part].T.contiguous()).T
        return out


def normalized(matrix: csr_array) -> tuple[csr_array, np.ndarray]:
    """``D_U^-1/2 R D_I^-1/2`` and the degrees of items; what has no edge stays 0.

    Args:
        matrix: R, sparse (U, I).

    Returns:
        Sparse (U, I) float32, and (I,) float32.

    Example:
        >>> found, degrees = normalized(csr_array(np.array([[1.0, 1, 0], [1, 0, 0]])))
        >>> (found.toarray() ** 2).round(2).tolist(), degrees.tolist()
        ([[0.25, 0.5, 0.0], [0.5, 0.0, 0.0]], [2.0, 1.0, 0.0])
    """
    users, items = sums(matrix, 1), sums(matrix, 0)
    left, right = (1 / np.sqrt(np.where(d > 0, d, 1)) for d in (users, items))
    return scaled(matrix, left, right), items.astype(np.float32)


def top_eigenvectors(
    apply: Callable[[Tensor], Tensor],
    size: int,
    rank: int,
    seed: int,
    say: Callable[[str], None],
    tolerance: float = 1e-3,
    most: int = 20,
) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues of a symmetric positive semidefinite operator, and their vectors.

    A random block, a quarter wider than asked for, is put through Chebyshev polynomials that damp
    everything below its smallest Ritz value, and made orthogonal, until the residuals of the wanted
    vectors are small. Small operators are written out and solved exactly.

    Args:
        apply: The product with (size, N).
        size: Rows of the operator.
        rank: Eigenvectors that are wanted; at most ``size`` are given.
        seed: Of the random start.
        say: Shows a line of progress.
        tolerance: Largest ``|A v - value * v|``, as a part of the largest value.
        most: Passes, at most; more are needed where values lie close together.

    Returns:
        (rank,) falling and (size, rank), float32.

    Source:
        Zhou, Saad, Tiago, Chelikowsky, "Self-consistent-field calculations using
        Chebyshev-filtered subspace iteration", J. Comput. Phys. 2006. Differs: the damped interval
        is [0, smallest Ritz value], which needs no bound of the spectrum; only columns are scaled.
    """
    rank = min(rank, size)
    if size <= max(_EXACT, 2 * rank):
        whole = apply(torch.eye(size)).double()
        values, vectors = torch.linalg.eigh((whole + whole.T) / 2)
        return values.flip(0)[:rank].float(), vectors.flip(1)[:, :rank].float().contiguous()
    width = min(size, rank + max(16, rank // 4))
    block = torch.randn(size, width, generator=torch.Generator().manual_seed(seed))
    values, block, _ = _ritz(apply, apply(apply(block)))
    for count in range(1, most + 1):
        block = _chebyshev(apply, block, float(values[-1]), _DEGREE)
        values, block, residuals = _ritz(apply, block)
        error = float(residuals[:rank].max() / values[0].clamp_min(1e-30))
        say(f"eigenvectors: pass {count}, error {error:.1e}, wanted {tolerance:.1e}")
        if error <= tolerance:
            break
    return values[:rank].float(), block[:, :rank].contiguous()


def _chebyshev(
    apply: Callable[[Tensor], Tensor], block: Tensor, bound: float, degree: int
) -> Tensor:
    """Chebyshev polynomial of the operator, within 1 for eigenvalues in [0, bound]."""
    half = bound / 2

    def shifted(x: Tensor) -> Tensor:
        return apply(x).sub_(x, alpha=half).div_(half)

    before, now = block, shifted(block)
    for _ in range(degree - 1):
        before, now = now, shifted(now).mul_(2).sub_(before)
        size = now.norm(dim=0).clamp_min(1)  # columns may grow by a constant each: same space
        before, now = before / size, now / size
    return now


def _ritz(apply: Callable[[Tensor], Tensor], block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ritz values of a block's space, falling, orthonormal vectors, and lengths of residuals."""
    basis, _ = torch.linalg.qr(block)
    image = apply(basis)
    small = (basis.T @ image).double()
    values, turn = torch.linalg.eigh((small + small.T) / 2)
    values, turn = values.flip(0), turn.flip(1).float()
    vectors = basis @ turn
    residuals = (image @ turn).sub_(vectors * values.float()).norm(dim=0)
    return values, vectors, residuals
