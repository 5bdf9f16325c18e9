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
    (num_users, _), (_, width) = size(columns), size(gram)
    predicted = np.zeros(num_users * width, np.float32)
    weights = np.zeros(gram.nnz, np.float32)
    begins = columns.indices.astype(np.int64) * width
    values = columns.data[:, None].astype(np.float32)
    plain = bool((columns.data == 1).all())
    squares = sums(columns.power(2), 0).astype(np.float32)
    targets, gains = gram.indices.astype(np.int64), gram.data.astype(np.float32) - np.float32(l1)
    change = 0.0
    for sweep in range(1, max_sweeps + 1):
        change = 0.0
        for item in np.flatnonzero(np.diff(gram.indptr)):
            entries = slice(gram.indptr[item], gram.indptr[item + 1])
            users = slice(columns.indptr[item], columns.indptr[item + 1])
            at = np.add.outer(begins[users], targets[entries])
            found = predicted.take(at)
            if not plain:
                found *= values[users]
            old = weights[entries]
            new = gains[entries] - found.sum(axis=0) + squares[item] * old
            np.maximum(new / np.float32(squares[item] + l2), 0, out=new)
            moved = new - old
            rows = np.flatnonzero(moved)
            if len(rows) == 0:
                continue
            weights[entries] = new
            predicted[at[:, rows]] += moved[rows] if plain else values[users] * moved[rows]
            change = max(change, float(np.abs(moved).max()))
        if change <= tolerance:
            return weights, sweep, change
    return weights, max_sweeps, change
