"""Items explained by other items: nonnegative elastic nets, many at once.

Stability: internal
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from scipy.sparse import csc_array, csr_array, hstack

from recsys.graph.fitted_buffers import check_weights
from recsys.graph.item_similarity import kept, top_of_rows
from recsys.graph.products import scaled, size, sums, transposed

_BLOCK_FLOATS = 1 << 25  # of the predictions of a block of items: 128 MB
_PICK_COST = 6  # of one number, in numbers of a row that is copied


def item_regressions(
    matrix: csr_array,
    l1: float,
    l2: float,
    candidates: int | None,
    tolerance: float,
    max_sweeps: int,
    say: Callable[[str], None],
) -> csr_array:
    """Weights of all items that best give the column of each, itself left out.

    Of every item j: ``min 1/2 |r_j - R w|^2 + l1 |w|_1 + l2/2 |w|^2`` over ``w >= 0, w_j = 0``, by
    coordinate descent. Where ``r_i . r_j <= l1`` the best ``w_i`` is 0 (weights and R are not
    negative, so others can only lower its gain), hence only items that share enough users are
    visited. One step updates the weight of one item in all nets of a block; what the block
    predicts for users is kept, so a sweep costs ``sum_i |U_i| * |items that share a user with i|``.

    Args:
        matrix: R, sparse (U, I), not negative.
        l1: Makes weights 0.
        l2: Makes weights small.
        candidates: Only so many items enter a net, those with the largest cosine; None for all.
        tolerance: A block is done when no weight changes by more.
        max_sweeps: Over all weights of a block, at most.
        say: Shows a line of progress.

    Raises:
        DataError: A weight of a pair is negative.

    Returns:
        Sparse (I, I): column j has the weights that give item j.
    """
    check_weights(matrix)
    num_users, num_items = size(matrix)
    columns = csc_array(matrix)
    width = min(num_items, max(64, _BLOCK_FLOATS // num_users))
    blocks, started = [], time.monotonic()
    for start in range(0, num_items, width):
        targets = np.arange(start, min(start + width, num_items))
        gram = _gains(matrix, columns, targets, l1, candidates)
        weights, sweeps, change = _descend(columns, gram, l1, l2, tolerance, max_sweeps)
        blocks.append(
            kept(csr_array((weights, gram.indices, gram.indptr), size(gram)), weights > 0)
        )
        done = targets[-1] + 1
        left = (time.monotonic() - started) * (num_items - done) / done
        state = "" if change <= tolerance else f", still changing by {change:.1g}"
        say(f"nets of {done:,} of {num_items:,} items, {sweeps} sweeps{state}; {left:.0f} s left")
    return csr_array(hstack(blocks, format="csr", dtype=np.float32))


def _gains(
    matrix: csr_array, columns: csc_array, targets: np.ndarray, l1: float, candidates: int | None
) -> csr_array:
    """``r_i . r_j`` of the pairs whose weight may be positive, (I, targets)."""
    gram = csr_array(transposed(columns) @ matrix[:, targets])
    gram.sort_indices()
    row = np.repeat(np.arange(size(gram)[0]), np.diff(gram.indptr))
    gram = kept(gram, (gram.data > l1) & (row != targets[gram.indices]))
    if candidates is None:
        return gram
    # Cosine, but for the length of the target, which is the same for all its candidates.
    length = np.sqrt(sums(columns.power(2), 0))
    best = top_of_rows(transposed(scaled(gram, 1 / length.clip(1e-30), None)), candidates)
    best = transposed(best)
    best.sort_indices()
    return scaled(best, length, None)


def _descend(
    columns: csc_array, gram: csr_array, l1: float, l2: float, tolerance: float, max_sweeps: int
) -> tuple[np.ndarray, int, float]:
    """Coordinate descent on one block: weights of the entries of ``gram``."""
    predicted = np.zeros((size(columns)[0], size(gram)[1]), np.float32)
    weights = np.zeros(gram.nnz, np.float32)
    squares = sums(columns.power(2), 0).astype(np.float32)
    gains = gram.data.astype(np.float32) - np.float32(l1)
    values = None if (columns.data == 1).all() else columns.data.astype(np.float32)
    change = 0.0
    for sweep in range(1, max_sweeps + 1):
        change = 0.0
        for item in np.flatnonzero(np.diff(gram.indptr)):
            own = slice(gram.indptr[item], gram.indptr[item + 1])
            pairs = slice(columns.indptr[item], columns.indptr[item + 1])
            rated = None if values is None else values[pairs]
            part = _Part(predicted, columns.indices[pairs], gram.indices[own], rated)
            old = weights[own]
            new = gains[own] - part.total() + squares[item] * old
            np.maximum(new / np.float32(squares[item] + l2), 0, out=new)
            moved = new - old
            most = float(np.abs(moved).max())
            if most > 0:
                weights[own] = new
                part.add(moved)
                change = max(change, most)
        if change <= tolerance:
            return weights, sweep, change
    return weights, max_sweeps, change


class _Part:
    """What is predicted for the users of one item, of the targets that it may give.

    Whole rows are copied where that is quicker than picking many of their numbers.
    """

    def __init__(
        self, table: np.ndarray, users: np.ndarray, targets: np.ndarray, values: np.ndarray | None
    ) -> None:
        self.table, self.users, self.targets = table, users, targets
        self.values = None if values is None else values[:, None]
        self.whole = len(targets) * _PICK_COST > table.shape[1]
        if self.whole:
            self.found = table[users]
        else:
            self.at = np.add.outer(users.astype(np.int64) * table.shape[1], targets)
            self.found = table.ravel().take(self.at)

    def total(self) -> np.ndarray:
        """Sums over users, each times the value of its pair."""
        weight = np.ones((1, len(self.users)), np.float32) if self.values is None else self.values.T
        total = (weight @ self.found)[0]
        return total[self.targets] if self.whole else total

    def add(self, moved: np.ndarray) -> None:
        """Adds to the predictions what weights that moved give."""
        if self.whole:
            step = np.zeros(self.table.shape[1], np.float32)
            step[self.targets] = moved
            self.found += step if self.values is None else self.values * step
            self.table[self.users] = self.found
        else:
            columns = np.flatnonzero(moved)
            step = moved[columns] if self.values is None else self.values * moved[columns]
            self.table.ravel()[self.at[:, columns]] += step
