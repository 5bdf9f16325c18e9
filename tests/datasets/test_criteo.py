import gzip
from pathlib import Path
from typing import ClassVar

import pytest

from recsys.data.prepare import prepare
from recsys.datasets.criteo import COLUMNS, Criteo
from recsys.errors import DataError
from recsys.testing.dataset import DatasetConformance, positives, shared_pack


def line(label, number=3, id_="68fd1e64"):
    cells = [str(label), str(number), *["1"] * 12, id_, *["0a0b0c0d"] * 25]
    return "\t".join(cells) + "\n"


class TestCriteo(DatasetConformance):
    dataset = Criteo
    counts: ClassVar = {"train": 8, "valid": 1, "test": 1}

    def config(self, folder):
        rows = [line(int(j > 7), j, f"{j % 3:08x}") for j in range(10)]
        (folder / "train.txt").write_text("".join(rows))
        return Criteo.Config(path=str(folder), min_count=1)

    def test_the_order_is_time(self, tmp_path):
        data = self.made(tmp_path)
        prepared = prepare(data.schema(), data.splits(tmp_path), tmp_path / "prepared")
        assert positives(prepared) == {"train": 0, "valid": 1, "test": 1}
        # Buckets of I1 in rows 0..7: 0 1 2, then floor(ln(x) ** 2) = 1 1 2 3 3: {0, 1, 2, 3}.
        assert prepared.schema.num_embeddings()["I1"] - 2 == 4
        assert prepared.schema.num_embeddings()["C1"] - 2 == 3


def test_forty_columns():
    assert len(COLUMNS) == 40
    assert COLUMNS[0] == "label" and COLUMNS[13] == "I13" and COLUMNS[14] == "C1"


def test_days_are_in_the_order_of_their_number(tmp_path):
    for day in (0, 2, 10):
        with gzip.open(tmp_path / f"day_{day}.gz", "wt") as file:
            file.write(line(int(day == 10)) * 4)
    (tmp_path / "day_x.md5").write_text("")
    splits = Criteo(Criteo.Config(path=str(tmp_path))).splits(tmp_path)
    assert [name.rsplit("_")[-1] for name in splits.source.files] == ["0.gz", "2.gz", "10.gz"]
    data = Criteo(Criteo.Config(path=str(tmp_path), valid=0.3, test=0.2, numbers="log"))
    prepared = prepare(data.schema(), data.splits(tmp_path), tmp_path / "prepared")
    rates = positives(prepared)
    assert rates["train"] == 0 and rates["valid"] + rates["test"] == 4


def test_random_split_is_seeded(tmp_path):
    (tmp_path / "train.txt").write_text("".join(line(j % 2, j) for j in range(200)))
    config = Criteo.Config(path=str(tmp_path), split="random")
    data = Criteo(config)
    prepared = prepare(data.schema(), data.splits(tmp_path), tmp_path / "prepared")
    assert sum(prepared.split_rows.values()) == 200
    assert 8 <= prepared.split_rows["valid"] <= 35
    other = Criteo(config.model_copy(update={"seed": 1})).splits(tmp_path)
    assert other != data.splits(tmp_path)


def test_errors_say_where_to_get_the_files(tmp_path):
    with pytest.raises(DataError, match=r"Criteo cannot be fetched.*ailab.criteo.com"):
        Criteo(Criteo.Config()).splits(tmp_path)
    with pytest.raises(DataError, match=r"expected `train.txt` in .*it holds \[\].*Accept Criteo"):
        Criteo(Criteo.Config(path=str(tmp_path))).splits(tmp_path)
    with pytest.raises(DataError, match="that path does not exist"):
        Criteo(Criteo.Config(path=str(tmp_path / "no"))).splits(tmp_path)


def test_a_ragged_line_is_named(tmp_path):
    (tmp_path / "train.txt").write_text(line(1) * 3 + "1\t2\n" + line(0))
    data = Criteo(Criteo.Config(path=str(tmp_path)))
    with pytest.raises(DataError, match=r"(?s)expected 40 cells, got 2.*train.txt, row 4"):
        prepare(data.schema(), data.splits(tmp_path), tmp_path / "prepared")


def test_the_real_pack(tmp_path):
    folder = shared_pack("criteo_avazu_small", "criteo_avazu_wideresdnn") / "criteo"
    train, valid, test = (str(folder / f"{name}.csv") for name in ("train", "dev", "test"))
    config = Criteo.Config(path=train, valid_path=valid, test_path=test)
    data = Criteo(config)
    prepared = prepare(data.schema(), data.splits(tmp_path), tmp_path / "prepared")
    assert prepared.split_rows == {"train": 7_200, "valid": 409, "test": 391}
    expected = {
        split: sum(row.startswith("1\t") for row in Path(file).read_text().splitlines())
        for split, file in zip(("train", "valid", "test"), (train, valid, test))
    }
    assert positives(prepared) == expected
