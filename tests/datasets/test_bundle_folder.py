from typing import ClassVar

import pytest

from recsys.datasets.bundle_folder import BundleFolder
from recsys.errors import DataError
from recsys.testing.bundle_dataset import BundleDatasetConformance

FILES = {
    "user_bundle_train": "0 0\n0 1\n1 2\n2 3\n2 4\n",
    "user_bundle_tune": "1 0\n",
    "user_bundle_test": "2 5\n0 6\n",
    "bundle_item": "".join(f"{b} {b}\n{b} {(b + 1) % 10}\n" for b in range(10)),
    "user_item": "0 0\n3 11\n",
    "Toy_data_size": "4\t10\t12\n",
}


def write(folder, **other):
    for name, text in (FILES | other).items():
        if text is not None:
            (folder / f"{name}.txt").write_text(text.replace(" ", "\t"))
    return BundleFolder.Config(path=str(folder))


class TestBundleFolder(BundleDatasetConformance):
    dataset = BundleFolder
    counts: ClassVar = {"train": 5, "valid": 1, "test": 2}

    def config(self, folder):
        return write(folder)


def test_sizes_and_counts(tmp_path):
    data = BundleFolder(write(tmp_path)).bundle_data(tmp_path)
    assert (data.num_users, data.num_bundles, data.num_items) == (4, 10, 12)
    assert data.report["items_without_bundle"] == 2
    assert data.report["bundles_without_train_users"] == 5
    assert data.report["users_without_train_bundles"] == 1
    assert data.user_item.keys.tolist() == [0, 3 * 12 + 11]


def test_count_json_is_a_size_file_too(tmp_path):
    config = write(tmp_path, Toy_data_size=None)
    (tmp_path / "count.json").write_text('{"#U": 5, "#B": 10, "#I": 13}')
    assert BundleFolder(config).bundle_data(tmp_path).num_items == 13
    (tmp_path / "count.json").write_text('{"#U": 5}')
    with pytest.raises(DataError, match="expected an object with the numbers #U, #B and #I"):
        BundleFolder(config).bundle_data(tmp_path)
    (tmp_path / "count.json").write_text('{"#U": 5, "#B": "x", "#I": 13}')
    with pytest.raises(DataError, match="expected numbers above 0"):
        BundleFolder(config).bundle_data(tmp_path)


def test_without_sizes_ids_are_those_that_occur(tmp_path):
    data = BundleFolder(write(tmp_path, Toy_data_size=None, user_item=None)).bundle_data(tmp_path)
    assert (data.num_users, data.num_items, data.user_item) == (3, 10, None)


def test_validation_is_cut_where_no_file_came(tmp_path):
    config = write(tmp_path, user_bundle_tune=None, user_bundle_train="0 0\n0 1\n0 2\n0 3\n0 4\n")
    config = config.model_copy(update={"split": type(config.split)(valid=0.2)})
    data = BundleFolder(config).bundle_data(tmp_path)
    assert [len(split) for _, split in data.user_bundle.items()] == [4, 1, 2]


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"Toy_data_size": "4 10\n"}, "expected the numbers of users, bundles and items, got 2"),
        ({"Toy_data_size": "4 11 12\n"}, r"bundle `10` is empty"),
        ({"Toy_data_size": "4 10 9\n"}, r"bundle_item: item `9` is not among the 9 known items"),
        ({"user_bundle_test": "2 77\n"}, r"user_bundle.test: bundle `77` is not among the 10"),
        ({"bundle_item": "0 0\n1\n"}, r"expected 2 numbers \(bundle, item\), got 1"),
        ({"bundle_item": "0 0\n1 1"}, "the last line has no line end"),
        ({"bundle_item": "0 x\n"}, "expected a whole number, got 'x'"),
        ({"bundle_item": None}, "expected `bundle_item.txt` in .*CrossCBR"),
    ],
)
def test_what_is_refused(tmp_path, files, text):
    with pytest.raises(DataError, match=text):
        BundleFolder(write(tmp_path, **files)).bundle_data(tmp_path)


def test_faults_can_be_left_out(tmp_path):
    config = write(tmp_path, Toy_data_size="4 11 9\n", user_item=None)
    config = config.model_copy(
        update={"cleaning": type(config.cleaning)(empty="drop", unknown="drop")}
    )
    data = BundleFolder(config).bundle_data(tmp_path)
    assert data.report["empty_bundles"] == 1 and data.report["unknown_rows"] == 2
    assert data.num_bundles == 10 and data.report["bundles_of_one_item"] == 2


def test_two_size_files(tmp_path):
    config = write(tmp_path, Other_data_size="1 1 1\n")
    with pytest.raises(DataError, match="expected one size file"):
        BundleFolder(config).bundle_data(tmp_path)
