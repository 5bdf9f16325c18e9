import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.graph.cleaning import Cleaning, clean, with_shared_names


def pairs(log):
    users, items = log.users.values[log.user], log.items.values[log.item]
    return list(zip(users.tolist(), items.tolist()))


def test_numbers_follow_sorted_ids_whatever_the_order_of_the_rows():
    users, items = ["b", "a", "b", "c"], [10, 2, 2, 30]
    log, report = clean(users, items)
    assert log.users.values.tolist() == ["a", "b", "c"]
    assert log.items.values.tolist() == [2, 10, 30]  # by value, not as text
    assert (log.user.tolist(), log.item.tolist()) == ([0, 1, 1, 2], [0, 0, 1, 2])
    again, _ = clean(users[::-1], items[::-1])
    assert pairs(again) == pairs(log)
    assert report["rows"] == 4 and report["duplicate_rows"] == 0


ROWS = (["u", "u", "u", "v"], ["x", "x", "x", "x"])


@pytest.mark.parametrize(
    ("options", "time", "weight"),
    [
        (Cleaning(), [30, 5], [2.0, 9.0]),
        (Cleaning(merge_weight="max"), [30, 5], [4.0, 9.0]),
        (Cleaning(merge_weight="sum", merge_time="first"), [10, 5], [7.0, 9.0]),
    ],
)
def test_duplicates_merge_by_the_stated_rule(options, time, weight):
    log, report = clean(*ROWS, time=[10, 30, 20, 5], weight=[1, 2, 4, 9], options=options)
    assert (log.time.tolist(), log.weight.tolist()) == (time, weight)
    assert log.weight.dtype == np.float32
    assert report["duplicate_rows"] == 2


def test_without_times_the_last_row_counts():
    log, _ = clean(*ROWS, weight=[1, 2, 4, 9])
    assert log.weight.tolist() == [4.0, 9.0]
    log, _ = clean(*ROWS, time=[7, 7, 7, 0], weight=[1, 2, 4, 9])  # equal times: the lowest row
    assert log.weight.tolist() == [4.0, 9.0]


def test_the_smallest_weight_is_of_the_merged_pair():
    """A rating that was lowered later is no wish."""
    log, report = clean(["u", "u", "v"], [1, 1, 1], weight=[5, 2, 4],
                        options=Cleaning(min_weight=4))  # fmt: skip
    assert pairs(log) == [("v", 1)]
    assert (report["light_pairs"], report["core_users"]) == (1, 1)
    with pytest.raises(DataError, match="min_weight is set, and the interactions have no weight"):
        clean([1], [1], options=Cleaning(min_weight=4))


def test_kinds():
    users, items, kinds = ["u", "u", "u", "v"], [1, 1, 2, 1], ["buy", "view", "hide", "view"]
    log, _ = clean(users, items, kind=kinds)
    assert log.kinds == ("buy", "hide", "view")
    assert [log.kinds[k] for k in log.kind] == ["view", "hide", "view"]  # the last row of (u, 1)
    log, report = clean(users, items, kind=kinds, options=Cleaning(kinds=("view", "buy")))
    assert log.kinds == ("view", "buy")
    assert [log.kinds[k] for k in log.kind] == ["buy", "view"]  # the strongest
    assert report["rows_of_other_kinds"] == 1
    with pytest.raises(DataError, match="`kinds` are named, and the rows have no kind"):
        clean([1], [1], options=Cleaning(kinds=("view",)))
    with pytest.raises(DataError, match=r"no row is left of 4: .*'rows_of_other_kinds': 4"):
        clean(users, items, kind=kinds, options=Cleaning(kinds=("rent",)))


def test_k_core_by_hand():
    # w is the only user of 9; without w item 3 has one user, without 3 user v has one item.
    users = ["u", "u", "t", "t", "v", "v", "w", "w"]
    items = [1, 2, 1, 2, 1, 3, 3, 9]
    log, report = clean(users, items, options=Cleaning(min_user=2, min_item=2))
    assert pairs(log) == [("t", 1), ("t", 2), ("u", 1), ("u", 2)]
    assert log.users.values.tolist() == ["t", "u"] and log.items.values.tolist() == [1, 2]
    assert (report["core_users"], report["core_items"], report["core_pairs"]) == (2, 2, 4)
    with pytest.raises(DataError, match=r"no interaction is left of 8: .*Lower min_weight"):
        clean(users, items, options=Cleaning(min_user=3, min_item=3))


def naive_core(found, min_user, min_item):
    while True:
        users, items = [u for u, _ in found], [i for _, i in found]
        kept = {
            (u, i) for u, i in found if users.count(u) >= min_user and items.count(i) >= min_item
        }
        if kept == found:
            return found
        found = kept


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=40),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_k_core_is_the_naive_one(rows, min_user, min_item):
    expected = naive_core(set(rows), min_user, min_item)
    options = Cleaning(min_user=min_user, min_item=min_item)
    users, items = zip(*rows)
    if not expected:
        with pytest.raises(DataError, match="no interaction is left"):
            clean(list(users), list(items), options=options)
        return
    log, report = clean(list(users), list(items), options=options)
    assert pairs(log) == sorted(expected)
    assert report["duplicate_rows"] == len(rows) - len(set(rows))
    assert report["core_pairs"] == len(set(rows)) - len(expected)


def test_missing_values_are_refused_or_counted():
    users = pd.Series(["u", None, "v", ""])
    with pytest.raises(DataError, match=r"(?s)2 rows have no `user`.*missing=drop.*row 2"):
        clean(users, [1, 2, 3, 4])
    log, report = clean(users, [1, 2, 3, 4], options=Cleaning(missing="drop"))
    assert pairs(log) == [("u", 1), ("v", 3)] and report["missing_rows"] == 2
    with pytest.raises(DataError, match="1 rows have no `weight`"):
        clean([1, 2], [1, 2], weight=[1.0, np.nan])
    with pytest.raises(DataError, match="no row is left of 1"):
        clean([None], [1], options=Cleaning(missing="drop"))


def test_kinds_of_columns():
    ids = pa.chunked_array([["b"], ["a"]]).dictionary_encode()
    days = [datetime.datetime(1970, 1, 2), datetime.datetime(1970, 1, 1)]
    log, _ = clean(ids, pd.Series([1.0, 2.0]), time=pd.Series(days))
    assert log.users.values.tolist() == ["a", "b"]
    assert log.items.values.tolist() == [1, 2] and log.items.values.dtype == np.int64
    assert log.time.tolist() == [0, 86_400_000_000]
    log, _ = clean(np.array([3, 1], np.uint8), np.array([b"x", b"y"]))
    assert log.users.values.tolist() == [1, 3] and log.items.values.tolist() == ["x", "y"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([1.5], [1]), "expected ids of users as text or integers, got double"),
        (([1], [True]), "expected ids of items as text or integers, got bool"),
        ((np.array([2**64 - 1], np.uint64), [1]), "does not fit int64"),
        (([2**64], [1]), "expected one column of users, got: Python int too large"),
        (([1, 2], [1]), "expected 2 values of `item` as of users, got 1"),
        (([1], [1], ["soon"]), "expected `time` as numbers, got string"),
        (([1], [1], None, [np.inf]), "`weight` is infinite"),
        (([[1], "a"], [1, 2]), "expected one column of users"),
        (([b"\xff"], [1]), "an id of a user is not UTF-8"),
        (([], []), "no row is left of 0"),
    ],
)
def test_columns_that_are_refused(columns, message):
    with pytest.raises(DataError, match=message):
        clean(*columns)


def test_shared_names():
    first, _ = clean([1, 5], [7, 8])
    second, _ = clean([3, 5], [8, 9])
    first, second = with_shared_names([first, second])
    assert first.users is second.users
    assert first.users.values.tolist() == [1, 3, 5]
    assert pairs(first) == [(1, 7), (5, 8)] and pairs(second) == [(3, 8), (5, 9)]
    with pytest.raises(DataError, match="ids of one type in all files"):
        with_shared_names([first, clean(["a"], [7])[0]])
