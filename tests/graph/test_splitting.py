import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from recsys.errors import ConfigError, DataError
from recsys.graph.cleaning import clean
from recsys.graph.interactions import Interactions, Names
from recsys.graph.splitting import (
    GivenSplit,
    LeaveOneOut,
    RandomSplit,
    Split,
    TimeSplit,
    UserSplit,
    cut_validation,
    given_splits,
    held_out,
    split_interactions,
)

SIZES = (1, 2, 3, 5, 10, 20)


def log(sizes=SIZES, seed=0):
    users = np.repeat(np.arange(len(sizes)), sizes)
    items = np.concatenate([np.arange(size) for size in sizes])
    time = np.random.default_rng(seed).permutation(len(users))
    return clean(users, items, time=time)[0]


def sizes_by_user(split):
    return split.user_degrees().tolist()


def all_keys(splits):
    return np.sort(np.concatenate([split.keys for _, split in splits.items()]))


@pytest.mark.parametrize("order", ["random", "time"])
def test_by_user_by_hand(order):
    splits = split_interactions(log(), UserSplit(valid=0.1, test=0.2, order=order))
    # Halves go up: 5 * .1 = .5 is 1; of 3 items .6 is 1 for test, .3 is 0 for validation.
    assert sizes_by_user(splits.test) == [0, 0, 1, 1, 2, 4]
    assert sizes_by_user(splits.valid) == [0, 0, 0, 1, 1, 2]
    np.testing.assert_array_equal(all_keys(splits), log().keys)


def test_by_user_and_time_puts_the_last_into_test():
    splits = split_interactions(log(), UserSplit(valid=0.2, test=0.2, order="time"))
    for user in range(len(SIZES)):
        times = [split.time[split.user == user] for _, split in splits.items()]
        for before, after in ((0, 1), (1, 2), (0, 2)):
            if len(times[before]) and len(times[after]):
                assert times[before].max() < times[after].min()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
    st.floats(0, 0.49),
    st.floats(0, 0.5),
    st.integers(0, 5),
)
def test_by_user_every_user_keeps_an_item_and_nothing_is_lost(sizes, valid, test, seed):
    data = log(sizes)
    splits = split_interactions(data, UserSplit(valid=valid, test=test, seed=seed))
    assert min(sizes_by_user(splits.train)) >= 1
    np.testing.assert_array_equal(all_keys(splits), data.keys)
    assert splits.report["users_without_train_items"] == 0


def test_random_has_exact_shares_and_depends_on_the_seed_alone():
    data = log()
    splits = split_interactions(data, RandomSplit(valid=0.1, test=0.2))
    assert [len(split) for _, split in splits.items()] == [29, 4, 8]  # of 41
    np.testing.assert_array_equal(all_keys(splits), data.keys)
    again = split_interactions(data, RandomSplit(valid=0.1, test=0.2))
    other = split_interactions(data, RandomSplit(valid=0.1, test=0.2, seed=1))
    assert again.test.keys.tolist() == splits.test.keys.tolist() != other.test.keys.tolist()


def test_leave_one_out_by_time():
    splits = split_interactions(log(), LeaveOneOut())
    assert sizes_by_user(splits.test) == [0, 1, 1, 1, 1, 1]
    assert sizes_by_user(splits.valid) == [0, 0, 1, 1, 1, 1]
    data = log()
    for user in range(2, len(SIZES)):
        newest = np.sort(data.time[data.user == user])[-2:]
        assert splits.test.time[splits.test.user == user].tolist() == [newest[1]]
        assert splits.valid.time[splits.valid.user == user].tolist() == [newest[0]]
    splits = split_interactions(log(), LeaveOneOut(order="random", valid=False))
    assert splits.valid is None and len(splits.test) == 5


def test_by_time_with_shares_and_with_borders():
    data = log((4, 6))  # times 0 to 9
    splits = split_interactions(data, TimeSplit(valid=0.2, test=0.3))
    assert [np.sort(split.time).tolist() for _, split in splits.items()] == [
        [0, 1, 2, 3, 4],
        [5, 6],
        [7, 8, 9],
    ]
    splits = split_interactions(data, TimeSplit(valid=0, test=0, valid_from=2, test_from="8"))
    assert [len(split) for _, split in splits.items()] == [2, 6, 2]
    with pytest.raises(ConfigError, match=r"valid_from \(8\) is after test_from \(3\)"):
        split_interactions(data, TimeSplit(valid_from=8, test_from=3))
    with pytest.raises(ConfigError, match="a number or an ISO time as border, got 'soon'"):
        split_interactions(data, TimeSplit(test_from="soon"))


def test_pairs_of_one_time_stay_together():
    data, _ = clean(range(10), [0] * 10, time=[1] * 5 + [2] * 5)
    splits = split_interactions(data, TimeSplit(valid=0, test=0.2))
    assert (len(splits.train), len(splits.test)) == (5, 5)


def test_an_iso_border():
    data, _ = clean([1, 1], [1, 2], time=np.array(["2024-01-01", "2024-02-01"], "datetime64[s]"))
    splits = split_interactions(data, TimeSplit(valid=0, test=0, test_from="2024-01-15"))
    assert splits.test.items.values[splits.test.item].tolist() == [2]


def test_rules_that_need_times():
    data, _ = clean([1, 1], [1, 2])
    for rule in (TimeSplit(), LeaveOneOut(), UserSplit(order="time")):
        with pytest.raises(DataError, match="needs times, and the interactions have none"):
            split_interactions(data, rule)


def test_validation_out_of_train():
    train = log()
    rest, valid = cut_validation(train, 0.2, seed=3)
    assert sizes_by_user(valid) == [0, 0, 1, 1, 2, 4]
    assert np.union1d(rest.keys, valid.keys).tolist() == train.keys.tolist()
    again = cut_validation(train, 0.2, seed=3)[1]
    assert again.keys.tolist() == valid.keys.tolist()
    assert cut_validation(train, 0.2, seed=4)[1].keys.tolist() != valid.keys.tolist()


def made(pairs, users=4, items=5):
    user, item = np.array(sorted(pairs), np.int64).reshape(-1, 2).T
    return Interactions(Names(range(users)), Names(range(items)), user, item)


def test_given_splits_and_their_report():
    train = made([(0, 0), (0, 1), (1, 0), (2, 2)])
    test = made([(0, 1), (0, 3), (1, 1), (3, 3), (3, 0)])
    splits = given_splits(train, test, GivenSplit(valid=0), report={"rows": 9})
    assert splits.valid is None
    assert splits.report == {
        "rows": 9,
        "users_without_train_items": 1,  # 3
        "test_pairs_seen": 1,  # (0, 1) is in train, so it could never be found
        "test_users_without_train_items": 1,
        "test_items_not_in_train": 1,  # 3
        "test_pairs_of_items_not_in_train": 2,
    }
    assert len(splits.test) == 4
    valid = made([(0, 2), (1, 1)])
    splits = given_splits(train, test, GivenSplit(valid=0.5), valid)
    assert len(splits.train) == 4  # nothing is cut where a validation part is given
    assert splits.report["test_pairs_seen"] == 2  # (1, 1) is in validation
    assert [len(split) for _, split in splits.items()] == [4, 2, 3]


def test_there_must_be_something_to_train_on():
    with pytest.raises(DataError, match="no training interaction"):
        held_out(made([]), None, made([(0, 0)]))


def test_an_empty_validation_part_is_no_fault():
    splits = given_splits(made([(0, 0), (1, 0)]), made([(0, 1)]), GivenSplit(valid=0.1))
    assert (len(splits.valid), len(splits.test)) == (0, 1)


def test_config():
    with pytest.raises(ConfigError, match="kind=given is for data that come as train and test"):
        split_interactions(log(), GivenSplit())
    with pytest.raises(ValidationError, match=r"valid \+ test is 1: nothing is left"):
        UserSplit(valid=0.5, test=0.5)
    rule = TypeAdapter(Split).validate_python({"kind": "by_user", "order": "time"})
    assert rule == UserSplit(order="time")
