from typing import ClassVar

import numpy as np
import pytest

from recsys.datasets.user_item_lists import UserItemLists
from recsys.errors import DataError
from recsys.testing.dataset import shared_pack
from recsys.testing.interaction_dataset import InteractionDatasetConformance


class TestUserItemLists(InteractionDatasetConformance):
    dataset = UserItemLists
    # A fifth of five items and of six (1.2) is one each.
    counts: ClassVar = {"train": 9, "valid": 2, "test": 2}

    def config(self, folder):
        (folder / "train.txt").write_text("0 1 2 3 4 5\n1 2 3 4 5 6 7\n")
        (folder / "test.txt").write_text("0 7\n1 1\n")
        return UserItemLists.Config(path=str(folder), split={"valid": 0.2})


def test_files_by_other_names(tmp_path):
    for name, text in (("a", "0 1 2\n"), ("b", "0 3\n"), ("c", "0 4\n")):
        (tmp_path / f"{name}.txt").write_text(text)
    config = UserItemLists.Config(
        path=str(tmp_path), train_file="a.txt", valid_file="b.txt", test_file="c.txt"
    )
    splits = UserItemLists(config).splits(tmp_path)
    assert [split.items.values[split.item].tolist() for _, split in splits.items()] == [
        [1, 2],
        [3],
        [4],
    ]
    config = config.model_copy(update={"valid_file": None, "test_file": None})
    splits = UserItemLists(config).splits(tmp_path)
    assert (splits.train.num_items, splits.test) == (2, None)


def test_original_ids(tmp_path):
    (tmp_path / "train.txt").write_text("0 1\n1 0\n")
    (tmp_path / "test.txt").write_text("0 0\n")
    (tmp_path / "user_list.txt").write_text("org_id remap_id\nann 0\nbob 1\n")
    config = UserItemLists.Config(path=str(tmp_path), original_ids=True)
    with pytest.raises(DataError, match=r"expected `item_list.txt`"):
        UserItemLists(config).splits(tmp_path)
    (tmp_path / "item_list.txt").write_text("org_id remap_id\nx 0\ny 1\n")
    train = UserItemLists(config).splits(tmp_path).train
    assert train.users.values.tolist() == ["ann", "bob"]
    assert train.items.values[train.item].tolist() == ["y", "x"]


def test_missing_files_say_where_to_get_them(tmp_path):
    with pytest.raises(DataError, match=r"`path` is needed. Get train.txt .*LightGCN-PyTorch"):
        UserItemLists(UserItemLists.Config()).splits(tmp_path)
    with pytest.raises(DataError, match=r"expected `train.txt` or `train.rebuilt.txt` in .*Get"):
        UserItemLists(UserItemLists.Config(path=str(tmp_path))).splits(tmp_path)


@pytest.mark.parametrize(
    ("pack", "users", "items", "train", "test"),
    [
        ("gowalla_lightgcn", 29_858, 40_981, 810_128, 217_242),
        ("ml1m_ultragcn", 6_022, 3_043, 796_244, 99_455),
        ("electronics_ultragcn", 1_435, 1_522, 31_887, 4_044),
    ],
)
def test_the_real_packs(tmp_path, pack, users, items, train, test):
    config = UserItemLists.Config(path=str(shared_pack(pack, pack)))
    splits = UserItemLists(config).splits(tmp_path)
    assert (splits.train.num_users, splits.train.num_items) == (users, items)
    assert (len(splits.train) + len(splits.valid), len(splits.test)) == (train, test)
    assert len(splits.valid) == pytest.approx(train / 10, rel=0.02)
    assert splits.train.user_degrees().min() >= 1
    # Ids have no gap, so a number is the id.
    np.testing.assert_array_equal(splits.train.items.values, np.arange(items))
