"""The order of rows, by hand where nothing is permuted."""

import numpy as np
import pytest

from recsys.data.order import Part, RowOrder, Stage


def rows(parts) -> list[int]:
    """Numbers counted through groups of 10 rows."""
    found = []
    for part in parts:
        kept = range(part.start, part.end)
        if part.kept is not None:
            kept = part.kept[part.start : part.end].tolist()
        found += [10 * part.group + row for row in kept]
    return found


def test_ranks_have_equal_parts_of_the_stream():
    order = RowOrder([10, 10, 5], shuffle=False, seed=0, buffer_rows=1)
    assert order.buffers(0, 0, 2) == [[Part(0, 0, 10)], [Part(1, 0, 3)]]
    assert order.buffers(0, 1, 2) == [[Part(1, 3, 10)], [Part(2, 0, 5)]]
    assert order.within(0, 0, 0, 10) is None


def test_what_is_left_is_shared_out_again():
    order = RowOrder([10, 10, 5], shuffle=False, seed=0, buffer_rows=1)
    before = [Stage(world_size=2, rows=8)]  # rank 0 had 0..7 of 0..12, rank 1 had 13..20 of 13..24
    assert order.num_rows(0, before) == 9
    left = [rows(p for b in order.buffers(0, r, 3, before) for p in b) for r in range(3)]
    assert left == [[8, 9, 10], [11, 12, 21], [22, 23, 24]]
    before.append(Stage(world_size=3, rows=2))
    assert rows(p for b in order.buffers(0, 0, 1, before) for p in b) == [10, 21, 24]
    assert order.num_rows(0, [*before, Stage(1, 100)]) == 0


@pytest.mark.parametrize("done", [0, 3, 7, 12, 50])
def test_what_is_left_of_permuted_buffers(done):
    order = RowOrder([10] * 5, shuffle=True, seed=4, buffer_rows=20)
    first: list[int] = []
    for number, parts in enumerate(order.buffers(3, 0, 2)):
        at = order.within(3, 0, number, sum(map(len, parts)))
        first += np.array(rows(parts))[at].tolist()
    second: list[int] = []
    for number, parts in enumerate(order.buffers(3, 1, 2)):
        at = order.within(3, 1, number, sum(map(len, parts)))
        second += np.array(rows(parts))[at].tolist()
    assert sorted(first + second) == list(range(50))
    left = order.buffers(3, 0, 1, [Stage(2, done)])
    expected = first[done:] + second[done:]
    assert sorted(rows(p for b in left for p in b)) == sorted(expected)
    again = order.within(3, 0, 0, 20, [Stage(2, done)])
    assert again.tolist() != order.within(3, 0, 0, 20).tolist()  # rows come in another order
