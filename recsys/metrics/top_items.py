"""The best items of every user, exactly and always in the same order.

Stability: caller
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recsys.metrics import selection

NO_ITEM = -1
"""Stands in a list where there is no further item to recommend."""
_GROUPS_PER_ROOT = 4.5  # measured: 4,096 groups are quickest for 41,000 items and k = 20
_ITEMS_PER_GROUP = 4  # below, looking through all items is quicker


def top_items(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k items of highest score, falling; of equal scores the lower item number comes first.

    ``torch.topk`` may return any of the items that tie. Here the order is a total one, so the
    result does not depend on block sizes, threads or devices. A score of ``-inf`` means "not to be
    recommended": such items never appear, and the list ends with `NO_ITEM`. NaN counts as the
    highest score, so that the caller sees it.

    On the CPU it is compiled code, see `recsys.metrics.selection`. Without that the maximum of
    groups of items is taken first: the best k lie in the k groups of the highest maxima, and only
    those are looked through.

    Args:
        scores: Of every item, one row a user.
        k: Length of the lists.

    Returns:
        Scores and item numbers.

    Raises:
        ValueError: ``scores`` is not a matrix of floats, or has fewer than ``k`` columns.

    Shape:
        - scores: (B, I)
        - output: (B, k) of the scores' dtype, (B, k) int64

    Example:
        >>> scores = torch.tensor([[0.5, 2.0, 2.0, -torch.inf], [1.0, 1.0, 1.0, 1.0]])
        >>> top_items(scores, 2)[1].tolist()
        [[1, 2], [0, 1]]
        >>> top_items(scores[:1, 2:], 2)[1].tolist()
        [[0, -1]]
    """
    if scores.dim() != 2 or not scores.is_floating_point():
        raise ValueError(
            "`scores` must be a matrix of floats, (users, items), got "
            f"{tuple(scores.shape)} {scores.dtype}."
        )
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"`k` must be from 1 to the {scores.shape[1]:,} items, got {k}.")
    if selection.fit(scores):
        return selection.largest(scores, k)
    # One more than asked for shows whether the last one ties with an item that is left out.
    values, items = _largest(scores, min(k + 1, scores.shape[1]))
    empty = values[:, k - 1] == -torch.inf
    unordered = bool((values[:, 1:] == values[:, :-1]).any())
    if values.shape[1] > k:
        tied = (values[:, k - 1] == values[:, k]) & ~empty
        values, items = values[:, :k], items[:, :k]
        if bool(tied.any()):
            rows = tied.nonzero()[:, 0]
            items[rows] = _lowest_of_tied(scores[rows], values[rows, -1:], k)
            values[rows] = scores[rows].gather(1, items[rows])
    if unordered:
        items, order = items.sort(dim=1)
        values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
        items = items.gather(1, order)
    if bool(empty.any()):
        items = items.masked_fill(values == -torch.inf, NO_ITEM)
    return values, items


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest, falling, ties in any order; exact above the k-th value."""
    size = scores.shape[1]
    groups = 16 * math.ceil(_GROUPS_PER_ROOT * math.sqrt(k * size) / 16)
    if scores.device.type != "cpu" or groups * _ITEMS_PER_GROUP > size or k > groups:
        return scores.topk(k, dim=1)
    # Item i is in group i % groups: the maximum runs along memory.
    full = size // groups
    whole = full * groups
    best = scores[:, :whole].unflatten(1, (full, groups)).amax(1)
    rest = size - whole
    best[:, :rest] = torch.maximum(best[:, :rest], scores[:, whole:])
    chosen = best.topk(k, dim=1, sorted=False).indices
    steps = groups * torch.arange(full + 1)
    items = (chosen[:, :, None] + steps).flatten(1)
    outside = items >= size
    found = scores.gather(1, items.clamp(max=size - 1)).masked_fill_(outside, -torch.inf)
    values, position = found.topk(k, dim=1)
    return values, items.gather(1, position)


def _lowest_of_tied(scores: Tensor, last: Tensor, k: int) -> Tensor:
    """Items above the k-th score, and of those with just that score the lowest numbers."""
    above, equal = scores > last, scores == last
    missing = k - above.sum(1, keepdim=True)
    taken = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= missing))
    return taken.nonzero()[:, 1].view(-1, k)


def flat_positions(users: Tensor, offsets: Tensor, items: Tensor, num_items: int) -> Tensor:
    """Where the items of some users lie in a matrix of scores that has a row for each of them.

    Args:
        users: Of every row of the matrix.
        offsets: Where the items of every user begin in ``items``, and the end of the last.
        items: Of all users.
        num_items: Columns of the matrix.

    Returns:
        Positions in the flattened matrix.

    Shape:
        - users: (B,) int64
        - offsets: (U + 1,) int64
        - items: (E,) int64
        - output: (items of the users,) int64

    Example:
        >>> offsets, items = torch.tensor([0, 2, 2, 3]), torch.tensor([1, 3, 0])
        >>> flat_positions(torch.tensor([2, 0]), offsets, items, 4).tolist()
        [0, 5, 7]
    """
    starts = offsets[users]
    counts = offsets[users + 1] - starts
    rows = torch.repeat_interleave(torch.arange(len(users)), counts)
    within = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    return rows * num_items + items[starts[rows] + within]
