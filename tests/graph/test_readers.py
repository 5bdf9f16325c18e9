import numpy as np
import pytest

from recsys.errors import DataError
from recsys.graph.cleaning import Cleaning
from recsys.graph.readers import (
    read_labelled_pairs,
    read_linked_plays,
    read_original_ids,
    read_user_item_lists,
    read_weighted_pairs,
    split_labelled,
)
from recsys.graph.splitting import GivenSplit, RandomSplit, UserSplit
from recsys.testing.dataset import shared_pack

WHOLE = GivenSplit(valid=0)


def pairs(split):
    users, items = split.users.values[split.user], split.items.values[split.item]
    return list(zip(users.tolist(), items.tolist()))


def written(folder, **texts):
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return {name: folder / f"{name}.txt" for name in texts}


def test_lists_by_hand(tmp_path):
    files = written(tmp_path, train="4 1 9 1\n0 9\n6\n", test="4 3\n0 9 1\n8 1\n")
    splits = read_user_item_lists(files, WHOLE)
    assert splits.train.users.values.tolist() == [0, 4, 6, 8]
    assert splits.train.items.values.tolist() == [1, 3, 9]
    assert pairs(splits.train) == [(0, 9), (4, 1), (4, 9)]
    assert pairs(splits.test) == [(0, 1), (4, 3), (8, 1)]
    assert splits.report == {
        "users_without_items": 1,  # 6
        "duplicate_rows": 1,  # (4, 1)
        "users_without_train_items": 2,  # 6 and 8
        "test_pairs_seen": 1,  # (0, 9)
        "test_users_without_train_items": 1,  # 8
        "test_items_not_in_train": 1,  # 3
        "test_pairs_of_items_not_in_train": 1,
    }


def test_a_validation_part_is_cut_or_given(tmp_path):
    train = "".join(f"{user} {' '.join(map(str, range(10)))}\n" for user in range(3))
    files = written(tmp_path, train=train, test="0 10\n1 10\n2 10\n", valid="1 11\n")
    given = read_user_item_lists(files, GivenSplit(valid=0.2))
    assert (len(given.train), pairs(given.valid)) == (30, [(1, 11)])
    del files["valid"]
    cut = read_user_item_lists(files, GivenSplit(valid=0.2))
    assert cut.valid.user_degrees().tolist() == [2, 2, 2]
    assert sorted(pairs(cut.train) + pairs(cut.valid)) == pairs(given.train)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1\n1 2", "may have been cut"),
        ("0 1\n1 x\n", r"(?s)a whole number, got 'x'.*row 2"),
        ("0 1\n1 -2\n", r"(?s)not negative, got '-2'.*row 2"),
        ("0\n1\n", "no line has an item"),
    ],
)
def test_faults_of_lists(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_user_item_lists(written(tmp_path, train=text), WHOLE)
    assert "train.txt" in str(caught.value)


def test_original_ids(tmp_path):
    files = written(tmp_path, train="0 1\n1 0\n", test="0 0\n")
    lists = written(
        tmp_path,
        user_list="org_id remap_id\nann 0\nbob 1\neve 2\n",
        item_list="org_id remap_id freebase_id\nx 1 m.1\ny 0 m.2\n",
    )
    names = {"user": lists["user_list"], "item": lists["item_list"]}
    splits = read_user_item_lists(files, WHOLE, names)
    assert pairs(splits.train) == [("ann", "x"), ("bob", "y")]
    assert pairs(splits.test) == [("ann", "y")]
    with pytest.raises(DataError, match="1 numbers have no original id, the first is 7"):
        read_original_ids(lists["item_list"], np.array([0, 7]))
    (tmp_path / "item_list.txt").write_text("org_id remap_id\nx\n")
    with pytest.raises(DataError, match=r"(?s)expected `org_id remap_id`, got 'x'.*row 1"):
        read_original_ids(lists["item_list"], np.array([0]))
    (tmp_path / "item_list.txt").write_text("x 1\n")
    with pytest.raises(DataError, match="expected the header `org_id remap_id"):
        read_original_ids(lists["item_list"], np.array([0]))
    with pytest.raises(DataError, match="not readable"):
        read_original_ids(tmp_path / "absent.txt", np.array([0]))


def test_weighted_pairs(tmp_path):
    files = written(tmp_path, train="2\t5\t1.5e+02\n1\t4\t3\n2\t5\t50\n", test="1\t5\t7\n")
    splits = read_weighted_pairs(files, WHOLE, np.array([9]))
    assert splits.train.users.values.tolist() == [1, 2, 9]
    assert pairs(splits.train) == [(1, 4), (2, 5)]
    assert splits.train.weight.tolist() == [3.0, 200.0]
    assert splits.report["users_without_train_items"] == 1
    for text, message in (
        ("1\t4\tx\n", r"(?s)expected a number, got 'x'.*row 1, column `count`"),
        ("1\t4\t1\n1\t4\t-2\n", r"(?s)a number from 0, got -2.*row 2, column `count`"),
        ("1\t4\t1\n-1\t4\t2\n", r"(?s)a number from 0, got -1.*row 2, column `user`"),
        ("1\t4\t1\n1\t\t2\n", r"(?s)got nothing.*row 2, column `item`"),
        ("1\t4\t1\n1\t4\n", "expected 3 cells, got 2"),
        ("1\t4\t1", "may have been cut"),
    ):
        with pytest.raises(DataError, match=message):
            read_weighted_pairs(written(tmp_path, train=text), WHOLE)


LABELLED = "0 7 1\n0 8 0\n1 8 1\n1 9 0\n2 7 1\n2 8 1\n2 9 0\n2 6 0\n"


def test_labelled_pairs_keep_what_only_negatives_name(tmp_path):
    found = read_labelled_pairs(written(tmp_path, ratings=LABELLED)["ratings"])
    assert (len(found), found.items.values.tolist()) == (8, [6, 7, 8, 9])
    assert pairs(found.of_label(1)) == [(0, 7), (1, 8), (2, 7), (2, 8)]
    assert pairs(found.of_label(0)) == [(0, 8), (1, 9), (2, 6), (2, 9)]
    for text, message in (
        ("0 7 1\n0 8 2\n", r"(?s)a label of 0 or 1, got 2.*row 2"),
        ("0 8 0\n0 7 1\n0 7 0\n", r"(?s)label 1 here and label 0 in another row.*row 2"),
        ("0 7\n", "expected 3 numbers"),
    ):
        with pytest.raises(DataError, match=message):
            read_labelled_pairs(written(tmp_path, ratings=text)["ratings"])


@pytest.mark.parametrize("rule", [RandomSplit(valid=0.25, test=0.25), UserSplit(test=0.5)])
def test_labelled_splits_hold_the_interactions_and_as_many_negatives(tmp_path, rule):
    found = read_labelled_pairs(written(tmp_path, ratings=LABELLED)["ratings"])
    splits, labelled = split_labelled(found, rule)
    both = []
    for name, split in splits.items():
        part = labelled[name]
        seen = part.label == 1
        np.testing.assert_array_equal(part.user[seen] * 4 + part.item[seen], split.keys)
        both += list(zip(part.user.tolist(), part.item.tolist(), part.label.tolist()))
    assert sorted(both) == sorted(zip(found.user, found.item, found.label))
    assert len(labelled["test"]) == 2 * len(splits.test)


def test_linked_plays(tmp_path):
    plays = tmp_path / "user_artists.dat"
    plays.write_text("userID\tartistID\tweight\n2\t50\t10\n2\t60\t3\n3\t51\t2\n4\t60\t1\n")
    links = written(tmp_path, links="50\t0\n51\t1\n52\t2\n")["links"]
    log, report = read_linked_plays(plays, links)
    assert pairs(log) == [(2, 50), (3, 51)]
    assert log.users.values.tolist() == [2, 3]  # 4 played nothing that is known
    assert report["pairs_of_unlinked_items"] == 2
    log, report = read_linked_plays(plays, links, Cleaning(min_weight=5))
    assert (pairs(log), report["light_pairs"]) == ([(2, 50)], 1)


def test_real_lists():
    for pack, train, sizes in (
        ("gowalla_lightgcn", "train.rebuilt.txt", (29_858, 40_981, 810_128, 217_242)),
        ("ml1m_ultragcn", "train.txt", (6_022, 3_043, 796_244, 99_455)),
        ("electronics_ultragcn", "train.txt", (1_435, 1_522, 31_887, 4_044)),
    ):
        folder = shared_pack(pack, pack)
        splits = read_user_item_lists({"train": folder / train, "test": folder / "test.txt"}, WHOLE)
        data = splits.train
        assert (data.num_users, data.num_items, len(data), len(splits.test)) == sizes
        assert set(splits.report.values()) == {0}  # clean as published
        # Numbers are the ids of the files.
        line = (folder / "test.txt").read_text().splitlines()[1].split()
        items = splits.test.item[splits.test.user == int(line[0])]
        assert items.tolist() == sorted(map(int, line[1:]))


def test_real_weighted_pairs():
    folder = shared_pack("lastfm_lightgcn", "lastfm_lightgcn")
    files = {"train": folder / "data1.txt", "test": folder / "test1.txt"}
    splits = read_weighted_pairs(files, WHOLE)
    assert (splits.train.num_items, len(splits.train), len(splits.test)) == (4_489, 42_135, 10_533)
    assert splits.report["test_pairs_of_items_not_in_train"] == 41


def test_real_plays_are_the_positives_that_kgcn_made_of_them():
    folder = shared_pack("kg_music", "kg_music_kgcn")
    log, report = read_linked_plays(
        folder / "user_artists.dat", folder / "item_index2entity_id.txt"
    )
    made = read_labelled_pairs(shared_pack("kg_music", "kg_music_mcclk") / "ratings_final.txt")
    assert (report["rows"], len(made), len(made.of_label(1))) == (92_834, 42_346, 21_173)
    assert (len(log), log.num_users, log.num_items) == (21_173, 1_872, 3_846)
