"""Pairs that tell held-out bundles, against a loop over sets."""

import numpy as np
import pytest

from recsys.graph.told_pairs import only_held_out

NONE = np.zeros(0, np.int64), np.zeros(0, np.int64)


@pytest.mark.parametrize("seed", range(5))
def test_like_a_loop(seed):
    random = np.random.default_rng(seed)

    def pairs(count, left, right):
        return random.integers(0, left, count), random.integers(0, right, count)

    taken, held, others, content = pairs(60, 8, 12), pairs(15, 8, 6), pairs(15, 8, 6), pairs(
        30, 6, 12
    )  # fmt: skip

    def explained(user, item, bundles):
        mine = {b for u, b in zip(*map(list, bundles)) if u == user}
        return any(b in mine and i == item for b, i in zip(*map(list, content)))

    wanted = [explained(u, i, held) and not explained(u, i, others) for u, i in zip(*taken)]
    assert 0 < sum(wanted) < len(wanted)
    assert only_held_out(taken, held, others, content).tolist() == wanted


def test_nothing_is_told_by_nothing():
    pairs, content = (np.array([0, 1]), np.array([3, 4])), (np.array([0, 0]), np.array([3, 4]))
    assert only_held_out(pairs, NONE, NONE, content).tolist() == [False, False]
    assert only_held_out(NONE, NONE, NONE, NONE).tolist() == []
