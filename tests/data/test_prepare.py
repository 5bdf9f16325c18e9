"""prepare() on files that can be checked by hand: features, splits, bad input, the cache."""

import json
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data import prepare as prepare_module
from recsys.data import readers, vocab_native
from recsys.data.encoder import FeatureEncoder
from recsys.data.prepare import PrepareConfig, prepare
from recsys.data.prepared import Prepared
from recsys.data.source import (
    GivenSplits,
    GroupSplits,
    RandomSplits,
    SequentialSplits,
    Source,
    TimeSplits,
)
from recsys.errors import ConfigError, DataError, SchemaError
from recsys.schema import (
    Bucketized,
    Categorical,
    Label,
    MultiValued,
    Numeric,
    Schema,
    Sequence,
    Vector,
)

LABEL = Label(name="click")


def rows(prepared: Prepared, split: str) -> dict[str, list]:
    return pq.read_table(prepared.path(split)).to_pydict()


# ------------------------------------------------------------------------------------ features


def test_every_kind_of_feature_by_hand(tmp_path, write):
    train = write(
        "click,user,item,age,price,tags,tw,seen\n"
        "1,ann,7,10,1,x|y,1|2,7 8 9\n"
        "0,bob,7,,2,x,3,\n"
        "1,ann,,30,3,,,9\n"
        "0,,8,20,100,y|x|z,1|1|5,8 8\n",
        name="train.csv",
    )
    valid = write(
        "click,user,item,age,price,tags,tw,seen\n1,new,,,4,new,1,8\n0,,9,40,-1,x,2,1 9 9\n",
        name="valid.csv",
    )
    schema = Schema(
        features=(
            Categorical(name="user"),
            Categorical(name="item", dtype="int"),
            Numeric(name="age", scale="standardize"),
            Bucketized(name="price", method="log_square"),
            Bucketized(name="price_bucket", column="price", method="quantile", num_buckets=2),
            MultiValued(name="tags", separator="|", pooling="mean", weights="tw", min_count=2),
            Sequence(
                name="seen", dtype="int", separator=" ", max_length=2, pooling="sum", table="item"
            ),
        ),
        labels=(LABEL,),
    )
    prepared = prepare(schema, GivenSplits(train=train, valid=valid), tmp_path / "cache")
    assert prepared.split_rows == {"train": 4, "valid": 2}
    # user: ann 2; null, bob 1 (null first). item and seen share a table, where seen counts its
    # latest two: item 7 7 null 8, seen 8 9 | 9 | 8 8: 8 four times, then 7 and 9, then null
    # price: 1 -> 1, 2 -> 2, 3 -> 1 (ln(3)^2 = 1.2), 100 -> 21: bucket 1 twice, then 2, 21
    # quantile: border at the 2nd of 1 2 3 100. tags: x three times, y twice, z too rare
    sd = np.std([10, 30, 20])
    got = rows(prepared, "train")
    assert got.pop("age") == pytest.approx([-10 / sd, 0, 10 / sd, 0], rel=1e-6)
    assert got == {
        "user": [2, 4, 2, 3],
        "item": [3, 3, 5, 2],
        "price": [2, 3, 2, 4],
        "price_bucket": [2, 3, 3, 3],
        "tags": [[2, 3], [2], [], [3, 2, 1]],
        "tags@weights": [[1, 2], [3], [], [1, 1, 5]],
        "seen": [[2, 4], [], [4], [2, 2]],
        "click": [1, 0, 1, 0],
    }
    got = rows(prepared, "valid")
    assert got.pop("age") == pytest.approx([0, 20 / sd], rel=1e-6)
    assert got == {
        "user": [1, 3],
        "item": [5, 4],
        "price": [2, 1],  # ln(4)^2 = 1.9; -1 was not seen
        "price_bucket": [3, 2],
        "tags": [[1], [2]],
        "tags@weights": [[1], [2]],
        "seen": [[2], [4, 4]],
        "click": [1, 0],
    }
    assert prepared.schema.num_embeddings() == {
        "user": 5, "item": 6, "price": 5, "price_bucket": 4, "tags": 4,
    }  # fmt: skip


def test_parquet_with_lists_vectors_and_roles(tmp_path):
    table = pa.table(
        {
            "click": [True, False, True],
            "user": pa.array(["a", "b", "a"]).dictionary_encode(),
            "tags": pa.array([["x"], [], ["x", "y"]]),
            "v": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float64(), 2)),
            "w": [1, 2, 3],
            "t": pa.array([0, 1, 2], pa.timestamp("ms")),
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    source = Source(files=(str(tmp_path / "log.parquet"),), format="parquet")
    schema = Schema(
        features=(
            Categorical(name="user", encoding="hash", num_buckets=5, salt=3),
            MultiValued(name="tags", pooling="sum"),
            Vector(name="v", dim=2),
        ),
        labels=(LABEL,),
        weight="w",
        group="user",
        timestamp="t",
    )
    prepared = prepare(schema, GivenSplits(train=source), tmp_path / "cache")
    got = rows(prepared, "train")
    assert got["tags"] == [[2], [], [2, 3]]
    assert got["v"] == [[1, 2], [3, 4], [5, 6]]
    assert got["@weight"] == [1, 2, 3]
    assert got["@timestamp"] == [0, 1000, 2000]
    assert got["@group"][0] == got["@group"][2] != got["@group"][1]
    assert all(2 <= index < 7 for index in got["user"])
    assert got["user"][0] == got["user"][2]
    assert prepared.schema.num_embeddings() == {"user": 7, "tags": 4}


def test_libfm(tmp_path, write):
    text = "1 3:1 9:1\n-1 4:1 9:1\n1 3:1 8:1\n"
    source = write(text, format="libfm", columns=("click", "u", "i"))
    features = (Categorical(name="u"), Categorical(name="i"))
    schema = Schema(features=features, labels=(Label(name="click", threshold=0),))
    prepared = prepare(schema, GivenSplits(train=source), tmp_path / "cache")
    assert rows(prepared, "train") == {"u": [2, 3, 2], "i": [2, 2, 3], "click": [1, 0, 1]}


def test_without_the_compiled_map_the_results_are_the_same(tmp_path, write, monkeypatch):
    text = "click,user,item\n" + "".join(
        f"{i % 2},{f'u{i * i % 37}' if i % 5 else ''},{i % 11}\n" for i in range(500)
    )
    features = (Categorical(name="user", min_count=3), Categorical(name="item", dtype="int"))
    schema = Schema(features=features, labels=(LABEL,))
    splits = RandomSplits(source=write(text))
    compiled = prepare(schema, splits, tmp_path / "a")
    monkeypatch.setattr(vocab_native, "_library", None)
    plain = prepare(schema, splits, tmp_path / "b")
    assert plain.encoder.vocabularies["user"].backend == "arrow"
    for split in compiled.split_rows:
        assert rows(plain, split) == rows(compiled, split)
    assert plain.schema == compiled.schema


def test_fit_state_survives_saving(tmp_path, write):
    source = write("click,user,age\n" + "".join(f"{i % 2},u{i % 3},{i}\n" for i in range(20)))
    features = (
        Categorical(name="user"),
        Numeric(name="age", log=True, scale="minmax"),
        Bucketized(name="bucket", column="age", method="quantile", num_buckets=4),
    )
    schema = Schema(features=features, labels=(LABEL,))
    prepared = prepare(schema, GivenSplits(train=source), tmp_path / "cache")
    raw = pa.table({"click": [1, 0], "user": ["u2", "z"], "age": [3.0, None]})
    prepared.encoder.save(tmp_path / "encoder")
    loaded = FeatureEncoder.load(tmp_path / "encoder")
    assert loaded.encode(raw, labels=True).equals(prepared.encoder.encode(raw, labels=True))
    assert loaded.schema == prepared.schema
    assert not [path for path in (tmp_path / "encoder").iterdir() if path.suffix == ".pkl"]


# -------------------------------------------------------------------------------------- splits


def numbered(write, rows: int = 1000) -> Source:
    lines = (f"{i % 2},{i},g{i % 50},{1000 + i}\n" for i in range(rows))
    return write("click,n,g,t\n" + "".join(lines))


NUMBERED = Schema(features=(Numeric(name="n"),), labels=(LABEL,), timestamp="t")


def split_rows(prepared: Prepared) -> dict[str, list[int]]:
    return {split: [int(n) for n in rows(prepared, split)["n"]] for split in prepared.split_rows}


def test_random_splits_do_not_depend_on_blocks(tmp_path, write, monkeypatch):
    splits = RandomSplits(source=numbered(write), valid=0.2, test=0.1, seed=1)
    first = split_rows(prepare(NUMBERED, splits, tmp_path / "a"))
    monkeypatch.setattr(readers, "BLOCK_BYTES", 200)
    assert split_rows(prepare(NUMBERED, splits, tmp_path / "b")) == first
    assert sorted(first["train"] + first["valid"] + first["test"]) == list(range(1000))
    # binomial sd of 1000 rows at 0.2 is 12.6
    assert abs(len(first["valid"]) - 200) < 50 and abs(len(first["test"]) - 100) < 40
    other = split_rows(prepare(NUMBERED, splits.model_copy(update={"seed": 2}), tmp_path / "a"))
    assert other["valid"] != first["valid"]


def test_sequential_splits(tmp_path, write):
    splits = SequentialSplits(source=numbered(write), valid=0.2, test=0.1)
    got = split_rows(prepare(NUMBERED, splits, tmp_path / "cache"))
    assert got == {
        "train": list(range(700)),
        "valid": list(range(700, 900)),
        "test": list(range(900, 1000)),
    }


def test_group_splits_keep_groups_together(tmp_path, write):
    splits = GroupSplits(source=numbered(write), column="g", valid=0.3, test=0.2)
    got = split_rows(prepare(NUMBERED, splits, tmp_path / "cache"))
    groups = {split: {n % 50 for n in numbers} for split, numbers in got.items()}
    assert sum(len(numbers) for numbers in got.values()) == 1000
    assert set.union(*groups.values()) == set(range(50))
    assert sum(len(group) for group in groups.values()) == 50
    assert 5 <= len(groups["valid"]) <= 25


@pytest.mark.parametrize(
    ("borders", "expected"),
    [
        ({}, (700, 900)),
        ({"valid_from": 1100, "test_from": 1300.5}, (100, 301)),
        ({"test_from": "1950"}, (700, 950)),
        ({"valid": 0.0}, (900, 900)),
    ],
)
def test_time_splits(tmp_path, write, borders, expected):
    shares = {"valid": 0.2, "test": 0.1}
    splits = TimeSplits(source=numbered(write), **(shares | borders))
    got = split_rows(prepare(NUMBERED, splits, tmp_path / "cache"))
    valid, test = expected
    assert got["train"] == list(range(valid))
    assert got.get("valid", []) == list(range(valid, test))
    assert got["test"] == list(range(test, 1000))


def test_time_splits_by_iso_times(tmp_path, write):
    lines = "".join(f"1,{day},2024-01-{day:02d}T12:00:00\n" for day in range(1, 11))
    source = write("click,n,t\n" + lines)
    splits = TimeSplits(source=source, valid_from="2024-01-08", test_from="2024-01-10")
    assert split_rows(prepare(NUMBERED, splits, tmp_path / "cache")) == {
        "train": [1, 2, 3, 4, 5, 6, 7],
        "valid": [8, 9],
        "test": [10],
    }
    wrong = TimeSplits(source=source, valid_from=8, test_from="2024-01-10")
    with pytest.raises(ConfigError, match="is a number but column `t` holds times"):
        prepare(NUMBERED, wrong, tmp_path / "cache")


def test_time_borders_that_do_not_fit(tmp_path, write):
    source = numbered(write, 20)
    splits = TimeSplits(source=source, valid_from=1010, test_from=1005)
    with pytest.raises(ConfigError, match=r"valid_from \(1010\) is after test_from \(1005\)"):
        prepare(NUMBERED, splits, tmp_path / "cache")
    splits = TimeSplits(source=source, valid_from="2024-01-01")
    with pytest.raises(ConfigError, match="is an ISO time but column `t` holds numbers"):
        prepare(NUMBERED, splits, tmp_path / "cache")
    schema = NUMBERED.model_copy(update={"timestamp": None})
    with pytest.raises(SchemaError, match="need `timestamp` in the schema"):
        prepare(schema, splits, tmp_path / "cache")


def test_a_vocabulary_sees_training_rows_only(tmp_path, write):
    source = write("click,u\n" + "".join(f"1,u{i}\n" for i in range(10)))
    schema = Schema(features=(Categorical(name="u"),), labels=(LABEL,))
    prepared = prepare(schema, SequentialSplits(source=source, valid=0.3, test=0), tmp_path)
    assert rows(prepared, "train")["u"] == list(range(2, 9))
    assert rows(prepared, "valid")["u"] == [1, 1, 1]


def test_an_empty_split(tmp_path, write):
    source = write("click,n,t\n1,1,1\n0,2,2\n")
    with pytest.raises(DataError, match="split `valid` has no rows"):
        prepare(NUMBERED, SequentialSplits(source=source, valid=0.01, test=0), tmp_path)
    splits = TimeSplits(source=source, valid_from=0, test=0)
    with pytest.raises(DataError, match="split `train` has no rows"):
        prepare(NUMBERED, splits, tmp_path)
    assert list(tmp_path.glob("*/")) == []


# ----------------------------------------------------------------------------------- bad input

SIMPLE = Schema(
    features=(Categorical(name="user", dtype="int"), Numeric(name="age")), labels=(LABEL,)
)

BAD_ROWS = [
    ("1,7,x\n", "age", "`age` is not a number: "),
    ("1,7,inf\n", "age", "`age` is infinite or outside float32"),
    ("1,7,nan\n", "age", "`age` is NaN"),
    ("1,abc,5\n", "user", "`user` is not an integer: "),
    ("1,99999999999999999999,5\n", "user", "`user` is outside int64: "),
    ("2,7,5\n", "click", "`click` is a label outside {0, 1}"),
    (",7,5\n", "click", "`click` is missing: 'None'"),
    (b"1,\xff,5\n", "user", "`user` is not valid UTF-8"),
    ("1,7\n", None, "expected 3 cells, got 2"),
]


def bad_file(write, line: str | bytes) -> Source:
    line = line if isinstance(line, bytes) else line.encode()
    return write(b"click,user,age\n0,1,1\n1,2,2\n" + line + b"0,3,3\n")


@pytest.mark.parametrize(("line", "column", "message"), BAD_ROWS)
def test_a_bad_row_raises_with_its_place(tmp_path, write, line, column, message):
    with pytest.raises(DataError) as caught:
        prepare(SIMPLE, GivenSplits(train=bad_file(write, line)), tmp_path / "cache")
    error = caught.value
    assert error.message.startswith(message)
    assert "on_bad_rows=quarantine" in error.message
    assert (error.row, error.column) == (3, column)
    assert error.file.endswith("log.csv")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(("line", "column", "message"), BAD_ROWS)
def test_a_bad_row_is_set_aside(tmp_path, write, line, column, message):
    config = PrepareConfig(on_bad_rows="quarantine")
    prepared = prepare(SIMPLE, GivenSplits(train=bad_file(write, line)), tmp_path / "c", config)
    assert rows(prepared, "train") == {"user": [2, 3, 4], "age": [1, 2, 3], "click": [0, 1, 0]}
    assert prepared.counts == {"bad_rows": 1, "ignored_rows": 0}
    [aside] = pq.read_table(prepared.quarantine).to_pylist()
    assert (aside["row"], aside["column"]) == (3, column)
    assert aside["file"].endswith("log.csv")
    reason = message if column is None else message.split("` ", 1)[1]
    assert aside["reason"].startswith(reason.removesuffix(": ").removesuffix(": 'None'"))
    if column is None:
        assert aside["content"] == "1,7"
    else:
        assert set(json.loads(aside["content"])) == {"user", "age", "click"}


def test_bad_rows_of_all_splits_are_counted_once(tmp_path, write, caplog):
    lines = "".join(f"1,{i},{'x' if i % 10 == 0 else i}\n" for i in range(200))
    source = write("click,user,age\n" + lines + "1,2\n")
    config = PrepareConfig(on_bad_rows="quarantine")
    splits = SequentialSplits(source=source, valid=0.25, test=0.25)
    prepared = prepare(SIMPLE, splits, tmp_path / "cache", config)
    assert prepared.counts["bad_rows"] == 21
    assert caplog.messages == [
        f"21 bad rows were set aside, with their reasons, in {prepared.quarantine}"
    ]
    assert sum(prepared.split_rows.values()) == 180
    aside = pq.read_table(prepared.quarantine).to_pydict()
    assert aside["row"] == [*range(1, 201, 10), 201]


def test_no_quarantine_file_without_bad_rows(tmp_path, write):
    config = PrepareConfig(on_bad_rows="quarantine")
    source = bad_file(write, "1,4,4\n")
    assert prepare(SIMPLE, GivenSplits(train=source), tmp_path / "c", config).quarantine is None


def test_ignored_rows_are_counted_and_left_out(tmp_path, write):
    source = write("stars,u\n5,a\n3,b\n1,c\n3,a\n4,a\n")
    label = Label(name="liked", column="stars", threshold=4, ignore=(3,))
    schema = Schema(features=(Categorical(name="u"),), labels=(label,))
    prepared = prepare(schema, GivenSplits(train=source), tmp_path / "cache")
    assert rows(prepared, "train") == {"u": [2, 3, 2], "liked": [1, 0, 1]}
    assert prepared.counts == {"bad_rows": 0, "ignored_rows": 2}


def test_faults_of_a_file_raise_in_quarantine_mode_too(tmp_path, write):
    config = PrepareConfig(on_bad_rows="quarantine")
    for text, message in (("click,user\n1,2\n", "missing: `age`"), ("", "the file is empty")):
        with pytest.raises(DataError, match=message):
            prepare(SIMPLE, GivenSplits(train=write(text)), tmp_path / "c", config)


# --------------------------------------------------------------------------------------- cache


def test_the_cache_is_used_until_anything_changes(tmp_path, write):
    text = "click,user,age\n0,1,1\n1,2,2\n"
    splits = GivenSplits(train=write(text))
    first = prepare(SIMPLE, splits, tmp_path / "cache")
    changed = first.directory.stat().st_mtime_ns
    again = prepare(SIMPLE, splits, tmp_path / "cache")
    assert again.directory == first.directory
    assert again.directory.stat().st_mtime_ns == changed
    assert again.fingerprint == first.fingerprint

    others = {first.directory}
    config = PrepareConfig(row_group_rows=7)
    others.add(prepare(SIMPLE, splits, tmp_path / "cache", config).directory)
    schema = Schema(features=SIMPLE.features[:1], labels=SIMPLE.labels)
    others.add(prepare(schema, splits, tmp_path / "cache").directory)
    write(text.replace("1,2,2", "1,2,3"))  # same size
    newer = prepare(SIMPLE, splits, tmp_path / "cache")
    others.add(newer.directory)
    assert len(others) == 4
    assert newer.fingerprint != first.fingerprint
    assert rows(newer, "train")["age"] == [1, 3]


def test_the_fingerprint_is_of_the_data_not_of_its_place(tmp_path, write):
    text = "click,user,age\n0,1,1\n1,2,2\n"
    here = prepare(SIMPLE, GivenSplits(train=write(text)), tmp_path / "cache")
    there = prepare(SIMPLE, GivenSplits(train=write(text, name="copy.csv")), tmp_path / "cache")
    assert here.fingerprint == there.fingerprint
    assert here.directory != there.directory


def test_several_at_once_do_not_disturb_each_other(tmp_path, write, monkeypatch):
    source = numbered(write)
    barrier, run = threading.Barrier(4), prepare_module._Preparation.run

    def run_together(self: prepare_module._Preparation, fingerprint: str) -> None:
        barrier.wait()
        run(self, fingerprint)

    monkeypatch.setattr(prepare_module._Preparation, "run", run_together)
    results: list[Prepared] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(
                prepare(NUMBERED, RandomSplits(source=source), tmp_path / "cache")
            )
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len({result.directory for result in results}) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [results[0].directory.name]


def test_folders_that_are_not_prepared_data(tmp_path):
    with pytest.raises(DataError, match="not a prepared folder"):
        Prepared.load(tmp_path)
    (tmp_path / "prepared.json").write_text(json.dumps({"version": 0}))
    with pytest.raises(DataError, match="expected version 1 of prepared data, got 0"):
        Prepared.load(tmp_path)


def test_a_split_that_is_not_there(tmp_path, write):
    prepared = prepare(SIMPLE, GivenSplits(train=bad_file(write, "")), tmp_path / "cache")
    with pytest.raises(DataError, match=r"no split `test`; there are \['train'\]"):
        prepared.path("test")


def test_row_groups_have_the_size_asked_for(tmp_path, write):
    config = PrepareConfig(row_group_rows=300)
    prepared = prepare(NUMBERED, GivenSplits(train=numbered(write)), tmp_path / "cache", config)
    metadata = pq.ParquetFile(prepared.path("train")).metadata
    assert [metadata.row_group(i).num_rows for i in range(4)] == [300, 300, 300, 100]
