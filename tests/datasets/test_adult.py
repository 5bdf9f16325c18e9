from typing import ClassVar

import pyarrow.parquet as pq
import pytest

from recsys.data.prepare import prepare
from recsys.datasets.adult import Adult
from recsys.errors import DataError
from recsys.testing.dataset import DatasetConformance, positives, shared_pack

POOR = "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40, United-States, <=50K"  # noqa: E501
RICH = "52, ?, 209642, HS-grad, 9, Divorced, Exec-managerial, Husband, White, Female, 0, 0, 45, ?, >50K"  # noqa: E501


def write(folder, train, test, first="|1x3 Cross validator\n"):
    (folder / "adult.data").write_text("".join(f"{line}\n" for line in train) + "\n")
    (folder / "adult.test").write_text(first + "".join(f"{line}.\n" for line in test) + "\n")


class TestAdult(DatasetConformance):
    dataset = Adult
    counts: ClassVar = {"train": 4, "test": 3}

    def config(self, folder):
        write(folder, [POOR, RICH, POOR, POOR], [RICH, POOR, POOR])
        return Adult.Config(path=str(folder), valid=0.0)


@pytest.mark.parametrize("first", ["|1x3 Cross validator\n", "age, workclass, fnlwgt\n", ""])
def test_cells_by_hand(tmp_path, first):
    write(tmp_path, [POOR, RICH], [RICH, POOR], first)
    splits = Adult(Adult.Config(path=str(tmp_path), valid=0.0)).splits(tmp_path / "cache")
    assert splits.valid is None
    train, test = (pq.read_table(source.files[0]) for source in (splits.train, splits.test))
    assert train["income"].to_pylist() == [0, 1]
    assert test["income"].to_pylist() == [1, 0]
    assert train["workclass"].to_pylist() == ["State-gov", None]
    assert train["native_country"].to_pylist() == ["United-States", None]
    assert train["capital_gain"].to_pylist() == ["2174", "0"]


def test_validation_rows_are_drawn_from_the_training_file(tmp_path):
    write(tmp_path, [POOR, RICH] * 200, [POOR])
    config = Adult.Config(path=str(tmp_path), valid=0.25)
    data = Adult(config)
    prepared = prepare(data.schema(), data.splits(tmp_path), tmp_path / "prepared")
    rows = prepared.split_rows
    assert rows["train"] + rows["valid"] == 400 and rows["test"] == 1
    assert 70 <= rows["valid"] <= 130
    other = Adult(config.model_copy(update={"seed": 1})).splits(tmp_path)
    assert other != data.splits(tmp_path)


def test_fnlwgt_is_a_weight_or_nothing():
    assert Adult(Adult.Config()).schema().weight is None
    schema = Adult(Adult.Config(use_fnlwgt=True)).schema()
    assert schema.weight == "fnlwgt"
    assert all(feature.name != "fnlwgt" for feature in schema.features)


def test_another_label_is_named(tmp_path):
    write(tmp_path, [POOR, RICH.replace(">50K", "rich")], [POOR])
    with pytest.raises(
        DataError, match=r"(?s)expected <=50K or >50K, got 'rich'.*adult.data, row 2, column"
    ):
        Adult(Adult.Config(path=str(tmp_path))).splits(tmp_path / "cache")


def test_missing_files_and_no_network(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"expected `adult.data` in .*archive.ics.uci.edu"):
        Adult(Adult.Config(path=str(tmp_path))).splits(tmp_path)

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("pooch.retrieve", offline)
    with pytest.raises(DataError, match=r"adult.data could not be fetched: no route to host.*path"):
        Adult(Adult.Config()).splits(tmp_path)


@pytest.mark.network
def test_fetched(tmp_path):
    splits = Adult(Adult.Config(valid=0.0)).splits(tmp_path)
    assert pq.read_metadata(splits.train.files[0]).num_rows == 32_561


def test_the_real_pack(tmp_path):
    folder = shared_pack("adult", "adult")
    data = Adult(Adult.Config(path=str(folder)))
    prepared = prepare(data.schema(), data.splits(tmp_path), tmp_path / "prepared")
    rows, clicks = prepared.split_rows, positives(prepared)
    assert rows["train"] + rows["valid"] == 32_561
    assert rows["test"] == 16_281
    # Known shares of people above 50K: 7,841 and 3,846.
    assert clicks["train"] + clicks["valid"] == 7_841
    assert clicks["test"] == 3_846
