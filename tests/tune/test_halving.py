"""Order by fronts, checked by hand and against brute force."""

import math
import random

import pytest

from recsys.tune.halving import crowding, dominates, fronts, goes_on, hypervolume, losses


def test_less_is_better():
    assert losses((0.8, 100), ("maximize", "minimize")) == (-0.8, 100)
    assert dominates((1, 2), (1, 3)) and not dominates((1, 2), (1, 2))
    assert not dominates((1, 3), (2, 2))


def test_fronts_of_six_points():
    points = [(1, 5), (2, 3), (4, 1), (3, 4), (5, 2), (5, 5)]
    assert fronts(points) == [[0, 1, 2], [3, 4], [5]]


def test_crowding_by_hand():
    # Ends are lonely; (2, 3): (4 - 1) / 3 + (5 - 1) / 4 = 2.
    assert crowding([(1, 5), (2, 3), (4, 1)]) == [math.inf, 2.0, math.inf]


@pytest.mark.parametrize(
    ("mine", "others", "reduction", "expected"),
    [
        ((0.1,), [], 3, True),  # the first of a stage has nobody to lose to
        ((0.3,), [(0.1,), (0.2,)], 3, False),
        ((0.1,), [(0.2,), (0.3,)], 3, True),
        ((0.2,), [(0.1,), (0.3,), (0.4,)], 2, True),  # the second of four
        ((3, 3), [(1, 4), (2, 2), (4, 1)], 2, False),  # behind a whole front
        ((0.5, 0.5), [(0, 9), (9, 0), (0.6, 0.6)], 4, False),  # on the front, but not its end
        ((0, 9), [(9, 0), (1, 8), (2, 7)], 2, True),
    ],
)
def test_who_goes_on(mine, others, reduction, expected):
    assert goes_on(mine, others, reduction) is expected


def test_hypervolume_against_counting():
    draw = random.Random(3)
    for size in (1, 2, 3):
        points = [tuple(draw.randint(0, 5) for _ in range(size)) for _ in range(6)]
        reference = (5,) * size
        cells = [()]
        for _ in range(size):
            cells = [(*cell, i) for cell in cells for i in range(5)]
        count = sum(
            any(all(p <= c for p, c in zip(point, cell)) for point in points) for cell in cells
        )
        assert hypervolume(points, reference) == count
