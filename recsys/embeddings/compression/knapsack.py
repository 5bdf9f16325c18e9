"""One option for every table, the best that fit into a budget together.

Stability: internal
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_BUCKETS = 1 << 14  # that bytes are counted in


def choose(
    scores: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]], budget: int | None
) -> list[int]:
    """One candidate a table with the largest sum of scores within a budget.

    Exact up to sizes rounded up to a 16,384th of the budget.

    Args:
        scores: Of every candidate of every table.
        sizes: Bytes, alike.
        budget: Most bytes; None for any.

    Returns:
        Positions; the smallest candidates where nothing else fits.

    Example:
        >>> choose([[0.0, 1.0], [0.0, 3.0]], [[1, 10], [1, 10]], budget=12)
        [0, 1]
    """
    if budget is None:
        return [max(range(len(mine)), key=mine.__getitem__) for mine in scores]
    unit = max(1, budget // _BUCKETS)
    buckets = budget // unit
    best = torch.zeros(buckets + 1, dtype=torch.float64)  # by buckets spent at most
    taken: list[Tensor] = []
    for mine, bytes_ in zip(scores, sizes):
        options = torch.full((len(mine), buckets + 1), -math.inf, dtype=torch.float64)
        for i, (score, size) in enumerate(zip(mine, bytes_)):
            cost = -(-size // unit)
            if cost <= buckets:
                options[i, cost:] = best[: buckets + 1 - cost] + score
        best, choice = options.max(0)
        taken.append(choice)
    if best[buckets] == -math.inf:
        return [min(range(len(mine)), key=mine.__getitem__) for mine in sizes]
    left, picked = buckets, []
    for choice, bytes_ in zip(reversed(taken), reversed(sizes)):
        picked.append(int(choice[left]))
        left -= -(-bytes_[picked[-1]] // unit)
    return picked[::-1]
