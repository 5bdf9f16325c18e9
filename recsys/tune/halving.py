"""Which trials go on: successive halving by fronts, for any number of objectives.

Optuna's pruners take one reported value. Here a trial goes on at a stage if it is among the best
share of all that came so far, ordered by front, then by how lonely it is on its front.

Source:
    Li et al., "A System for Massively Parallel Hyperparameter Tuning" (ASHA), MLSys 2020, in its
    stopping form; order within a front by the crowding distance of Deb et al., "A Fast and Elitist
    Multiobjective Genetic Algorithm: NSGA-II", 2002, section III-B. Different: several objectives.

Stability: internal
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Values = Sequence[float]


def losses(values: Values, directions: Sequence[str]) -> tuple[float, ...]:
    """Values of which less is better.

    Args:
        values: By objective.
        directions: ``maximize`` or ``minimize``.
    """
    return tuple(-v if d == "maximize" else v for v, d in zip(values, directions, strict=True))


def dominates(one: Values, other: Values) -> bool:
    """Whether one is nowhere worse and somewhere better. Less is better.

    Args:
        one: Losses.
        other: Losses.
    """
    return all(a <= b for a, b in zip(one, other)) and any(a < b for a, b in zip(one, other))


def fronts(points: Sequence[Values]) -> list[list[int]]:
    """Positions by front: the first is beaten by nobody, the second only by the first, and so on.

    Args:
        points: Losses.

    Example:
        >>> fronts([(1, 4), (2, 2), (3, 3), (4, 1)])
        [[0, 1, 3], [2]]
    """
    left, found = list(range(len(points))), []
    while left:
        best = set(first_front([points[i] for i in left]))
        found.append([i for place, i in enumerate(left) if place in best])
        left = [i for place, i in enumerate(left) if place not in best]
    return found


def first_front(points: Sequence[Values]) -> list[int]:
    """Positions of the points that no other dominates.

    Args:
        points: Losses.
    """
    found: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: tuple(points[i])):
        # Whoever dominates a point comes before it in this order.
        if not any(dominates(points[j], points[i]) for j in found):
            found.append(i)
    return sorted(found)


def crowding(points: Sequence[Values]) -> list[float]:
    """How far the neighbours of each point of a front are; the ends are infinitely lonely.

    Args:
        points: Losses of one front.
    """
    found = [0.0] * len(points)
    for objective in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda i: points[i][objective])
        low, high = points[order[0]][objective], points[order[-1]][objective]
        found[order[0]] = found[order[-1]] = math.inf
        for before, here, after in zip(order, order[1:], order[2:]):
            if high > low:
                gap = points[after][objective] - points[before][objective]
                found[here] += gap / (high - low)
    return found


def goes_on(mine: Values, others: Sequence[Values], reduction: int) -> bool:
    """Whether a trial is among the best 1 / reduction of those that reached the same stage.

    Args:
        mine: Its losses at this stage.
        others: Those of the trials before it.
        reduction: One of so many goes on.

    Example:
        >>> goes_on((0.4,), [(0.1,), (0.2,), (0.3,)], reduction=2)
        False
    """
    points = [*others, mine]
    place = 0
    for front in fronts(points):
        if len(points) - 1 not in front:
            place += len(front)
            continue
        lonely = crowding([points[i] for i in front])
        own = lonely[front.index(len(points) - 1)]
        place += sum(distance > own for distance in lonely)
        break
    return place < math.ceil(len(points) / reduction)


def hypervolume(points: Sequence[Values], reference: Values) -> float:
    """The volume that points dominate, up to a reference that is worse than all that count.

    Args:
        points: Losses.
        reference: Losses; points that are not better in everything add nothing.

    Example:
        >>> hypervolume([(1, 2), (2, 1)], (3, 3))
        3.0
    """
    inside = [p for p in points if all(a < b for a, b in zip(p, reference))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return float(reference[0] - min(p[0] for p in inside))
    volume = 0.0
    levels = sorted({p[-1] for p in inside})
    for level, above in zip(levels, [*levels[1:], reference[-1]]):
        volume += (above - level) * hypervolume(
            [p[:-1] for p in inside if p[-1] <= level], reference[:-1]
        )
    return volume
