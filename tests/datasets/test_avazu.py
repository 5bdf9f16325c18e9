import datetime
import gzip
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq
import pytest

from recsys.data.prepare import prepare
from recsys.datasets.avazu import COLUMNS, Avazu
from recsys.errors import DataError
from recsys.testing.dataset import DatasetConformance, positives, shared_pack

HEADER = ",".join(COLUMNS) + "\n"


def line(click=0, hour="14102100", site="1fbe01fe"):
    return f"1000{click},{click},{hour},1005,0,{site}," + ",".join(["x"] * 18) + "\n"


class TestAvazu(DatasetConformance):
    dataset = Avazu
    counts: ClassVar = {"train": 8, "valid": 1, "test": 1}

    def config(self, folder):
        rows = [line(int(j > 7), f"141021{j:02d}") for j in range(10)]
        with gzip.open(folder / "train.gz", "wt") as file:
            file.write(HEADER + "".join(rows))
        return Avazu.Config(path=str(folder), min_count=1)

    def test_the_order_is_time(self, tmp_path):
        data = self.made(tmp_path)
        prepared = prepare(data.schema(), data.splits(tmp_path), tmp_path / "prepared")
        assert positives(prepared) == {"train": 0, "valid": 1, "test": 1}
        assert prepared.schema.num_embeddings()["hour"] - 2 == 8


def converted(tmp_path, text, name="train.csv"):
    (tmp_path / name).write_text(text)
    splits = Avazu(Avazu.Config(path=str(tmp_path / name))).splits(tmp_path / "cache")
    return pq.read_table(splits.source.files[0])


def test_parts_of_the_hour_by_hand(tmp_path):
    # 21 October 2014 was a Tuesday, 25 and 26 the weekend.
    table = converted(
        tmp_path, HEADER + "".join(line(0, hour) for hour in ("14102100", "14102523", "14102607"))
    )
    assert table["hour"].to_pylist() == [0, 23, 7]
    assert table["weekday"].to_pylist() == [2, 6, 0]
    assert table["weekend"].to_pylist() == [0, 1, 1]
    moment = datetime.datetime(2014, 10, 25, 23, tzinfo=datetime.UTC)
    assert table["time"].to_pylist()[1] == moment.timestamp()
    assert "id" not in table.column_names


def test_without_a_header(tmp_path):
    assert converted(tmp_path, line(1) + line(0))["click"].to_pylist() == ["1", "0"]


def test_a_changed_file_is_converted_again(tmp_path):
    assert converted(tmp_path, HEADER + line()).num_rows == 1
    assert converted(tmp_path, HEADER + line() * 3).num_rows == 3


@pytest.mark.parametrize("hour", ["14133100", "141021", "14102124", "x4102100", "", "14023000"])
def test_a_bad_hour_is_named(tmp_path, hour):
    with pytest.raises(
        DataError, match=r"(?s)expected a time as YYMMDDHH.*train.csv, row 2, column `hour`"
    ):
        converted(tmp_path, HEADER + line() + line(0, hour) + line())
    assert not list((tmp_path / "cache").glob("*avazu*"))


def test_a_ragged_line_is_named(tmp_path):
    with pytest.raises(DataError, match=r"(?s)expected 24 cells, got 2.*row 2"):
        converted(tmp_path, HEADER + line() + "1,2\n")


def test_invalid_utf8_is_named(tmp_path):
    (tmp_path / "train.csv").write_bytes(
        (HEADER + line(site="@@")).encode().replace(b"@@", b"\xff")
    )
    data = Avazu(Avazu.Config(path=str(tmp_path)))
    with pytest.raises(DataError, match=r"(?s)expected UTF-8, got.*row 1, column `site_id`"):
        data.splits(tmp_path / "cache")


def test_errors_say_where_to_get_the_file(tmp_path):
    with pytest.raises(DataError, match=r"Avazu cannot be fetched.*kaggle.com/c/avazu"):
        Avazu(Avazu.Config()).splits(tmp_path)
    with pytest.raises(DataError, match=r"expected `train.gz` or `train.csv` or `train` in"):
        Avazu(Avazu.Config(path=str(tmp_path))).splits(tmp_path)


def test_the_real_pack(tmp_path):
    folder = shared_pack("criteo_avazu_small", "criteo_avazu_wideresdnn") / "avazu"
    train, valid, test = (str(folder / f"{name}.csv") for name in ("train", "dev", "test"))
    data = Avazu(Avazu.Config(path=train, valid_path=valid, test_path=test))
    prepared = prepare(data.schema(), data.splits(tmp_path), tmp_path / "prepared")
    assert prepared.split_rows == {"train": 8_087, "valid": 480, "test": 432}
    expected = {
        split: sum(row.split(",")[1] == "1" for row in Path(file).read_text().splitlines())
        for split, file in zip(("train", "valid", "test"), (train, valid, test))
    }
    assert positives(prepared) == expected
