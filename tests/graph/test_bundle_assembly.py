import pytest

from recsys.errors import DataError
from recsys.graph.bundle_assembly import BundleCleaning, BundleNames, assemble
from recsys.graph.interactions import Names
from recsys.graph.splitting import GivenSplit, UserSplit

CONTENT = ([10, 10, 11, 12, 12, 12], [1, 2, 2, 1, 3, 3])
DROP = BundleCleaning(empty="drop", unknown="drop")


def test_numbers_and_counts_by_hand():
    data = assemble(
        {"train": ([5, 4, 5, 5], [10, 11, 12, 12]), "test": ([4, 5], [10, 10])},
        CONTENT, ([4, 4, 6], [3, 4, 1]),
    )  # fmt: skip
    assert data.users.values.tolist() == [4, 5, 6]
    assert data.items.values.tolist() == [1, 2, 3, 4]
    assert data.user_bundle.train.keys.tolist() == [1, 3, 5]  # of 3 bundles
    assert data.bundles.keys.tolist() == [0, 1, 5, 8, 10]  # of 4 items
    # 5 has taken bundle 10 in train already; item 4 is in no bundle; 6 has no bundle.
    assert data.user_bundle.test.keys.tolist() == [0]
    expected = {
        "unknown_rows": 0, "empty_bundles": 0, "pairs_of_empty_bundles": 0, "duplicate_rows": 2,
        "items_without_bundle": 1, "bundles_of_one_item": 1, "bundles_without_train_users": 0,
        "users_without_items": 1, "users_without_train_bundles": 1, "test_pairs_seen": 1,
        "test_users_without_train_bundles": 0, "test_bundles_not_in_train": 0,
        "test_pairs_of_bundles_not_in_train": 0,
    }  # fmt: skip
    assert data.report == expected


def test_an_empty_bundle():
    taken = {"train": ([4, 5], [10, 99])}
    with pytest.raises(DataError, match=r"bundle `99` is empty, as are 0 others.*\n?.*empty=drop"):
        assemble(taken, CONTENT)
    data = assemble(taken, CONTENT, options=DROP)
    assert data.bundles.bundles.values.tolist() == [10, 11, 12]
    assert len(data.user_bundle.train) == 1 and data.num_users == 2
    assert (data.report["empty_bundles"], data.report["pairs_of_empty_bundles"]) == (1, 1)
    # Empty in the middle: later numbers move up.
    named = BundleNames(bundles=Names([10, 99, 11, 12]))
    data = assemble({"train": ([4, 4], [99, 12])}, CONTENT, names=named, options=DROP)
    assert data.user_bundle.train.item.tolist() == [2] and data.bundles.sizes().tolist() == [
        2,
        1,
        2,
    ]


def test_a_bundle_of_unknown_items():
    named = BundleNames(items=Names([1, 3]))
    with pytest.raises(
        DataError, match=r"bundle_item: item `2` is not among the 2 known items, and 1"
    ):
        assemble({"train": ([4], [10])}, CONTENT, names=named)
    data = assemble({"train": ([4, 4], [10, 11])}, CONTENT, names=named, options=DROP)
    assert data.bundles.bundles.values.tolist() == [10, 12]
    assert data.report["unknown_rows"] == 2 and data.report["empty_bundles"] == 1
    with pytest.raises(DataError, match="no bundle has an item"):
        assemble({"train": ([4], [10])}, CONTENT, names=BundleNames(items=Names([9])), options=DROP)


def test_unknown_users_and_bundles_name_the_row():
    named = BundleNames(users=Names([4]), bundles=Names([10, 11, 12]))
    with pytest.raises(DataError, match=r"user_bundle.train: user `5` is not.*\n.*row 2"):
        assemble({"train": ([4, 5], [10, 10])}, CONTENT, names=named)
    with pytest.raises(DataError, match=r"user_bundle.train: bundle `13` is not among the 3"):
        assemble({"train": ([4], [13])}, CONTENT, names=named)


def test_splits_by_a_rule_or_given():
    pairs = ([1] * 10, list(range(10)))
    content = (list(range(10)), [0] * 10)
    data = assemble({"all": pairs}, content, rule=UserSplit(valid=0.1, test=0.2))
    assert [len(split) for _, split in data.user_bundle.items()] == [7, 1, 2]
    data = assemble({"train": pairs}, content, rule=GivenSplit(valid=0.2))
    assert [len(split) for _, split in data.user_bundle.items()] == [8, 2]
    with pytest.raises(DataError, match="needs a rule"):
        assemble({"all": pairs}, content)
    with pytest.raises(DataError, match="kind=by_user has nothing to do"):
        assemble({"train": pairs}, content, rule=UserSplit())
    with pytest.raises(DataError, match="expected `all` or `train`"):
        assemble({"test": pairs}, content)


def test_columns_that_do_not_fit():
    with pytest.raises(DataError, match="bundle_item: expected two columns of one length"):
        assemble({"train": ([1], [1])}, ([1, 2], [1]))
    with pytest.raises(DataError, match="bundles: expected ids of one type"):
        assemble({"train": ([1], ["a"])}, ([1], [1]))
