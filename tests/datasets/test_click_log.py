import json
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.prepare import prepare
from recsys.data.source import Source
from recsys.datasets.click_log import ClickLog, InferOptions, read_schema
from recsys.errors import ConfigError, DataError, SchemaError
from recsys.schema import Categorical, Label, MultiValued, Numeric, Schema, Vector
from recsys.testing.dataset import DatasetConformance, positives

CSV = "time,user,age,price,tags,clicked\n" + "".join(
    f"{1000 + j},u{j % 3},{20 + j},{j * 0.5},a|b,{int(j % 4 == 0)}\n" for j in range(20)
)


def write(folder, text=CSV):
    (folder / "log.csv").write_text(text)
    return Source(files=(str(folder / "log.csv"),), format="csv")


class TestClickLog(DatasetConformance):
    dataset = ClickLog
    counts: ClassVar = {"train": 16, "valid": 2, "test": 2}

    def config(self, folder):
        source = write(folder)
        options = InferOptions(timestamp="time", separators={"tags": "|"}, min_count=1)
        schema = ClickLog.infer(source, "clicked", options)
        (folder / "schema.json").write_text(schema.model_dump_json())
        return ClickLog.Config.model_validate(
            {
                "schema": str(folder / "schema.json"),
                "splits": {"kind": "time", "source": source.model_dump()},
            }
        )

    def test_by_time(self, tmp_path):
        data = self.made(tmp_path)
        prepared = prepare(data.schema(), data.splits(tmp_path), tmp_path / "prepared")
        # Clicks in rows 0 4 8 12 | 16 | none.
        assert positives(prepared) == {"train": 4, "valid": 1, "test": 0}


def test_schema_may_be_written_in_place(tmp_path):
    inline = {
        "features": [{"kind": "categorical", "name": "user"}],
        "labels": [{"name": "clicked"}],
    }
    splits = {"kind": "random", "source": write(tmp_path).model_dump()}
    config = ClickLog.Config.model_validate({"schema": inline, "splits": splits})
    assert ClickLog(config).schema() == Schema.model_validate(inline)
    # As the experiment file writes it: under the name the user knows.
    assert set(json.loads(config.model_dump_json(by_alias=True))) == {"schema", "splits"}


def test_a_schema_file_that_is_missing_or_wrong_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"expected a JSON file, .*no.json does not exist"):
        read_schema(tmp_path / "no.json")
    (tmp_path / "bad.json").write_text('{"features": [{"kind": "nominal", "name": "x"}]}')
    with pytest.raises(ConfigError, match=r"bad.json is not a schema: features.0: .*labels: Field"):
        read_schema(str(tmp_path / "bad.json"))
    (tmp_path / "text.json").write_text("features:")
    with pytest.raises(ConfigError, match=r"text.json is not a schema: schema: Invalid JSON"):
        read_schema(tmp_path / "text.json")


def test_missing_files_are_named_before_work_starts(tmp_path):
    schema = Schema(features=(Categorical(name="user"),), labels=(Label(name="y"),))
    for splits in (
        {"kind": "sequential", "source": {"files": ["no/*.csv"], "format": "csv"}},
        {
            "kind": "given",
            "train": write(tmp_path).model_dump(),
            "valid": {"files": ["no/*.csv"], "format": "csv"},
        },
    ):
        config = ClickLog.Config.model_validate({"schema": schema, "splits": splits})
        with pytest.raises(DataError, match=r"no file matches 'no/\*.csv'"):
            ClickLog(config).splits(tmp_path)


def test_infer_from_csv_by_hand(tmp_path):
    lines = "".join(
        f"u{j % 3},{j % 7},{900000 + j * 7},{90000 + j * 7},{j * 0.5},"
        f"{10 ** (j % 9)}.5,x;y,1,{j % 2}\n"
        for j in range(1500)
    )
    head = "name,few,item_id,many,price,income,tags,constant,y\n"
    schema = ClickLog.infer(
        write(tmp_path, head + lines), "y", InferOptions(separators={"tags": ";"}, min_count=3)
    )
    assert schema == Schema(
        features=(
            Categorical(name="name", min_count=3),
            Categorical(name="few", dtype="int", min_count=3),
            Categorical(name="item_id", dtype="int", min_count=3),
            Numeric(name="many", scale="standardize"),
            Numeric(name="price", scale="standardize"),
            Numeric(name="income", scale="standardize", log=True),
            MultiValued(name="tags", separator=";", pooling="mean", min_count=3),
            Categorical(name="constant", dtype="int", min_count=3),
        ),
        labels=(Label(name="y"),),
    )


def test_infer_from_parquet_by_hand(tmp_path):
    table = pa.table(
        {
            "genres": pa.array([["a", "b"], []]),
            "visited": pa.array([[1, 2], [3]]),
            "vector": pa.array([[0.1, 0.2], [0.3, 0.4]]),
            "ragged": pa.array([[0.1], [0.3, 0.4]]),
            "mobile": [True, False],
            "cheap": [float("nan"), 2.0],
            "shown": pa.array([0, 1], pa.timestamp("s")),
            "country": pa.array(["de", "fr"]).dictionary_encode(),
            "w": [1.0, 2.0],
            "y": [-1, 1],
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    source = Source(files=(str(tmp_path),), format="parquet")
    options = InferOptions(timestamp="shown", weight="w", group="country", min_count=1)
    schema = ClickLog.infer(source, "y", options)
    assert schema.features == (
        MultiValued(name="genres", pooling="mean"),
        MultiValued(name="visited", dtype="int", pooling="mean"),
        Vector(name="vector", dim=2),
        Categorical(name="mobile"),
        Numeric(name="cheap", scale="standardize", nan="missing"),
        Categorical(name="country"),
    )
    assert (schema.weight, schema.group, schema.timestamp) == ("w", "country", "shown")
    assert schema.labels == (Label(name="y", threshold=0.5),)


def test_infer_refuses_what_it_cannot_know(tmp_path):
    source = write(tmp_path)
    with pytest.raises(DataError, match=r"columns are missing: `click`. Did you mean `clicked`"):
        ClickLog.infer(source, "click")
    with pytest.raises(DataError, match="columns are missing: `when`"):
        ClickLog.infer(source, "clicked", InferOptions(timestamp="when"))
    with pytest.raises(SchemaError, match=r"label `age` .*expected 0 and 1, got 20, 21.*threshold"):
        ClickLog.infer(source, "age")
    with pytest.raises(SchemaError, match="no column is left for features"):
        ignore = ("time", "user", "age", "price", "tags")
        ClickLog.infer(source, "clicked", InferOptions(ignore=ignore))
    libfm = Source(files=source.files, format="libfm", columns=("y", "a"))
    with pytest.raises(SchemaError, match="libfm files have no column types"):
        ClickLog.infer(libfm, "y")
    with pytest.raises(DataError, match="no file matches"):
        ClickLog.infer(Source(files=("no.csv",), format="csv"), "y")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"(?s)not readable as parquet.*broken.parquet"):
        ClickLog.infer(Source(files=(str(tmp_path / "broken.parquet"),), format="parquet"), "y")


def test_the_inferred_schema_prepares(tmp_path):
    table = pa.table(
        {"user_id": [1, 2, 3, 1], "mobile": [True, False, True, True], "y": [0, 1, 0, 1]}
    )
    pq.write_table(table, tmp_path / "log.parquet")
    source = Source(files=(str(tmp_path / "log.parquet"),), format="parquet")
    schema = ClickLog.infer(source, "y", InferOptions(min_count=1))
    splits = {"kind": "sequential", "source": source.model_dump(), "valid": 0.25, "test": 0}
    config = ClickLog.Config.model_validate({"schema": schema, "splits": splits})
    prepared = prepare(schema, ClickLog(config).splits(tmp_path), tmp_path / "prepared")
    assert prepared.split_rows == {"train": 3, "valid": 1}
    assert prepared.schema.num_embeddings() == {"user_id": 5, "mobile": 4}
