"""Rows in any form give the probabilities one computes on paper; bad ones give house errors."""

import csv
import gzip
import math
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys.data.encoder import FeatureEncoder, FitState
from recsys.data.source import Source
from recsys.data.vocabulary import Vocabulary
from recsys.errors import ConfigError, DataError
from recsys.models.ctr.lr import LR
from recsys.schema import Label, MultiValued, Schema
from recsys.serving.predictor import Predictor, source_of


@pytest.fixture
def predictor(artefact: Path) -> Predictor:
    return Predictor.load(artefact)


def columns_of(rows: list[dict]) -> dict[str, list]:
    return {name: [row[name] for row in rows] for name in rows[0]}


# ------------------------------------------------------------------------------------- forms


def test_probabilities_by_hand(predictor: Predictor, rows: list[dict], expected) -> None:
    found = predictor.predict(rows)
    assert found.dtype == np.float32 and found.shape == (3,)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # bob, hour missing, no tags, mean age: logit .05 - 1 - .5
    assert found[1] == pytest.approx(1 / (1 + math.exp(1.45)), abs=1e-6)
    assert predictor.columns == ("user_id", "hour", "tags", "age")
    assert predictor.tasks == ("click",) and predictor.metadata == {"seed": 1}


@pytest.mark.parametrize(
    "form",
    [
        lambda rows: columns_of(rows),
        lambda rows: {k: np.array(v, object) for k, v in columns_of(rows).items()},
        lambda rows: {k: pd.Series(v, dtype=object) for k, v in columns_of(rows).items()},
        lambda rows: {k: pa.array(v) for k, v in columns_of(rows).items()},
        lambda rows: pd.DataFrame(rows),
        lambda rows: pd.DataFrame(rows, index=[7, 7, 7]),
        lambda rows: pd.DataFrame(rows).astype({"user_id": "category"}),
        lambda rows: pd.DataFrame(rows, dtype=object),
        lambda rows: pa.Table.from_pylist(rows),
        lambda rows: pa.RecordBatch.from_pylist(rows),
        lambda rows: pa.concat_tables([pa.Table.from_pylist([row]) for row in rows[:1]]
                                      + [pa.Table.from_pylist(
                                          rows[1:], pa.Table.from_pylist(rows[:1]).schema)]),
        lambda rows: [{**row, "unread": object()} for row in rows],
        lambda rows: [dict(reversed(row.items())) for row in rows],
        lambda rows: [{**row, "hour": None if row["hour"] is None else str(row["hour"])}
                      for row in rows],
        lambda rows: [{**row, "tags": [t for t in row["tags"].split("|") if t]} for row in rows],
        lambda rows: [{**rows[0], "age": "40"}, {**rows[1], "age": "NA"}, rows[2]],
        lambda rows: tuple(rows),
    ],
)  # fmt: skip
def test_all_forms_of_the_same_rows_agree(predictor, rows, expected, form) -> None:
    np.testing.assert_allclose(predictor.predict(form(rows)), expected, rtol=1e-6)


def test_one_row_as_a_dict(predictor, rows, expected) -> None:
    for row, probability in zip(rows, expected):
        found = predictor.predict(row)
        assert found.shape == (1,) and found[0] == pytest.approx(probability, abs=1e-6)
    row = {**rows[0], "tags": ["x", "y", "x"]}  # a list in a bag does not make it columns
    assert predictor.predict(row)[0] == pytest.approx(expected[0], abs=1e-6)


def test_dicts_of_a_schema_of_bags_only() -> None:
    schema = Schema(
        features=(MultiValued(name="tags", pooling="sum", num_embeddings=4),),
        labels=(Label(name="y"),),
    )
    tags = Vocabulary(pa.array(["x", "y"]), np.array([2, 1]))
    model = LR(LR.Config(), schema)
    weights = {"embeddings.linear.tags.weight": torch.tensor([[0.0], [0.5], [1.0], [2.0]])}
    model.load_state_dict({**weights, "bias": torch.zeros(1)})
    predictor = Predictor(model, FeatureEncoder(schema, FitState(), {"tags": tags}))

    def logits(rows: object) -> list[float]:
        p = predictor.predict(rows).astype(float)  # pyright: ignore
        return np.log(p / (1 - p)).round(4).tolist()

    assert logits({"tags": ["x", "y"]}) == [3.0]
    assert logits({"tags": [["x", "y"], [], ["y"]]}) == [3.0, 0.0, 2.0]
    assert logits([{"tags": ["q"]}, {"tags": None}]) == [0.5, 0.0]
    assert logits({"tags": []}) == []


def test_no_rows_give_no_predictions(predictor, two_tasks: Path) -> None:
    assert predictor.predict([]).shape == (0,)
    empty = {name: [] for name in predictor.columns}
    assert predictor.predict(empty).shape == (0,)
    assert predictor.predict(pd.DataFrame(empty)).shape == (0,)
    assert predictor.predict(pa.table(empty)).shape == (0,)
    assert Predictor.load(two_tasks).predict([]).shape == (0, 2)


def test_several_tasks_give_several_columns(two_tasks: Path, rows, expected) -> None:
    found = Predictor.load(two_tasks).predict(rows)
    assert found.shape == (3, 2) and found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)
    odds = expected / (1 - expected)  # the second task's logits are twice the first's
    np.testing.assert_allclose(found[:, 1], odds**2 / (1 + odds**2), rtol=1e-5)


def test_integer_ids_with_gaps_from_pandas(predictor, rows, expected) -> None:
    frame = pd.DataFrame(rows)
    assert frame["hour"].dtype == float  # 12.0, NaN, 3.0
    np.testing.assert_allclose(predictor.predict(frame), expected, rtol=1e-6)
    # The same in a text column: 5.0 is the id "5", unknown here.
    frame["user_id"] = [5.0, float("nan"), 5.0]
    assert predictor.predict(frame)[0] == predictor.predict({**rows[0], "user_id": "5"})[0]


def test_result_does_not_depend_on_the_batch_size(artefact, rows) -> None:
    many = (rows * 7)[:20]
    whole = Predictor.load(artefact).predict(many)
    for form in (many, pd.DataFrame(many), pa.Table.from_pylist(many), columns_of(many)):
        parts = Predictor.load(artefact, batch_size=3).predict(form)
        np.testing.assert_array_equal(parts, whole)


def test_rows_are_computed_in_bounded_parts(artefact, rows, monkeypatch) -> None:
    predictor = Predictor.load(artefact, batch_size=4)
    sizes = []
    encode = FeatureEncoder.batch
    monkeypatch.setattr(
        FeatureEncoder, "batch", lambda self, t: (sizes.append(t.num_rows), encode(self, t))[1]
    )
    predictor.predict((rows * 4)[:10])
    assert sizes == [4, 4, 2]


def test_negative_down_sampling_is_undone(artefact, rows, expected) -> None:
    found = Predictor.load(artefact, negative_rate=0.1).predict(rows)
    np.testing.assert_allclose(found, expected / (expected + (1 - expected) / 0.1), rtol=1e-5)
    same = Predictor.load(artefact, negative_rate=1.0).predict(rows)
    np.testing.assert_allclose(same, expected, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.0, -1, 1.5, float("nan")])
def test_bad_options(artefact: Path, rate: float) -> None:
    with pytest.raises(ConfigError, match="`negative_rate` must be above 0 and at most 1, got"):
        Predictor.load(artefact, negative_rate=rate)
    with pytest.raises(ConfigError, match="`batch_size` must be at least 1, got 0"):
        Predictor.load(artefact, batch_size=0)


def test_threads_agree(predictor, rows, expected) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: predictor.predict(rows[i % 3]), range(120)))
    np.testing.assert_allclose(np.concatenate(results), np.tile(expected, 40), rtol=1e-6)


def test_num_threads_is_set(artefact: Path) -> None:
    before = torch.get_num_threads()
    try:
        Predictor.load(artefact, num_threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "form",
    [dict, lambda r: [r], lambda r: pd.DataFrame([r]), lambda r: pa.Table.from_pylist([r]),
     lambda r: {k: [v] for k, v in r.items()}],
)  # fmt: skip
def test_all_missing_columns_are_named(predictor, rows, form) -> None:
    row = {"user_idd": 1, "hour": 12, "x": 1}
    message = r"columns are missing: `user_id`, `tags`, `age`\. Did you mean `user_idd`\?"
    with pytest.raises(DataError, match=message):
        predictor.predict(form(row))


def test_a_row_without_a_key_is_named(predictor, rows) -> None:
    del rows[2]["age"]
    with pytest.raises(DataError, match=r"(?s)columns are missing: `age`.*row 3, column `age`"):
        predictor.predict(rows)


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("form", [list, pd.DataFrame, pa.Table.from_pylist, columns_of])
def test_a_bad_value_is_named_with_its_row(artefact, rows, size, form) -> None:
    predictor = Predictor.load(artefact, batch_size=size)
    for row in rows:
        row["age"] = "7"
    rows[1]["age"] = "old"
    with pytest.raises(DataError, match=r"(?s)`age` is not a number: 'old'.*row 2, column `age`"):
        predictor.predict(form(rows))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("hour", "noon", r"(?s)`hour` is not an integer: 'noon'.*row 2"),
        ("hour", 2**70, r"(?s)`hour` is outside int64.*row 2"),
        ("age", float("inf"), r"(?s)`age` is infinite.*row 2"),
        ("age", float("nan"), r"(?s)`age` is NaN.*row 2"),
        ("age", {"a": 1}, r"(?s)expected a number, text, a list or None, got dict.*row 2, col"),
        ("user_id", object(), r"(?s)expected a number, text, a list or None, got object.*row 2"),
        ("tags", ["x", ["y"]], r"(?s)`?tags|got Arrow type|some rows"),
    ],
)
def test_bad_values(predictor, rows, column, value, message) -> None:
    rows[1][column] = value
    with pytest.raises(DataError, match=message):
        predictor.predict(rows)


def test_lists_and_text_do_not_mix(predictor, rows) -> None:
    rows[0]["tags"], rows[2]["tags"] = ["x"], ["y"]
    with pytest.raises(DataError, match=r"(?s)some rows hold a list and this one text.*row 2, col"):
        predictor.predict(rows)


def test_dict_that_is_neither_row_nor_columns(predictor, rows) -> None:
    with pytest.raises(DataError, match="`user_id` is one value and `hour` a list"):
        predictor.predict({**rows[0], "hour": [1, 2]})
    with pytest.raises(DataError, match=r"columns must be equally long, got \{'user_id': 1, 'hou"):
        predictor.predict({"user_id": ["ann"], "hour": [1, 2], "tags": ["x"], "age": [1]})


@pytest.mark.parametrize("rows", ["ann", 7, None, b"x", {1, 2}])
def test_other_types(predictor, rows) -> None:
    with pytest.raises(DataError, match="expected a dict, a list of dicts, a pandas DataFrame or"):
        predictor.predict(rows)
    with pytest.raises(DataError, match=r"(?s)expected a dict with one row, got .*row 1"):
        predictor.predict([rows])


def test_a_column_that_is_there_twice(predictor, rows) -> None:
    table = pa.Table.from_pylist(rows)
    with pytest.raises(DataError, match=r"(?s)the column is there twice.*column `age`"):
        predictor.predict(table.append_column("age", table["age"]))


# -------------------------------------------------------------------------------------- files


def write_csv(path: Path, rows: list[dict]) -> Path:
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        delimiter = "\t" if ".tsv" in path.name else ","
        writer = csv.DictWriter(file, ["id", *rows[0]], delimiter=delimiter)
        writer.writeheader()
        for number, row in enumerate(rows):
            writer.writerow({"id": f"r{number}", **row})
    return path


@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz", "in.tsv", "in.parquet"])
def test_files_in_parquet_out(artefact, rows, expected, tmp_path: Path, name: str) -> None:
    predictor = Predictor.load(artefact, batch_size=2)
    path, out = tmp_path / name, tmp_path / "made" / "out.parquet"
    if name.endswith("parquet"):
        named = [{"id": f"r{n}", **row} for n, row in enumerate(rows)]
        pq.write_table(pa.Table.from_pylist(named), path)
    else:
        write_csv(path, rows)
    assert predictor.predict_file(path, out, keep=["id", "age"]) == 3
    table = pq.read_table(out)
    assert table.column_names == ["id", "age", "prediction"]
    assert table["id"].to_pylist() == ["r0", "r1", "r2"]
    np.testing.assert_allclose(table["prediction"].to_numpy(), expected, rtol=1e-6)
    assert table["prediction"].type == pa.float32()
    assert [p.name for p in out.parent.iterdir()] == ["out.parquet"]


def test_file_of_two_tasks_and_without_header(two_tasks: Path, rows, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("ann;12;x|y|x;40\nbob;NA;;NA\n")
    source = Source(
        files=(str(tmp_path / "in.txt"),), format="csv", separator=";",
        columns=("user_id", "hour", "tags", "age"), null_values=("NA", ""),
    )  # fmt: skip
    predictor = Predictor.load(two_tasks)
    predictor.predict_file(source, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["prediction.click", "prediction.buy"]
    found = np.stack([column.to_numpy() for column in table.columns], 1)
    np.testing.assert_allclose(found, predictor.predict(rows[:2]), rtol=1e-6)


def test_a_bad_file_leaves_no_output(artefact, rows, tmp_path: Path) -> None:
    predictor = Predictor.load(artefact, batch_size=2)
    rows[2]["age"] = "old"
    path, out = write_csv(tmp_path / "in.csv", rows), tmp_path / "out.parquet"
    with pytest.raises(DataError, match=r"(?s)`age` is not a number: 'old'.*in\.csv, row 3, col"):
        predictor.predict_file(path, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.csv", "run"]
    with pytest.raises(DataError, match=r"columns are missing: `nr`"):
        predictor.predict_file(path, out, keep=["nr"])
    with pytest.raises(ConfigError, match=r"cannot tell the format of .*rows\.xlsx"):
        predictor.predict_file(tmp_path / "rows.xlsx", out)


def test_formats_by_ending() -> None:
    kinds = {"a.CSV": "csv", "a.tsv.gz": "tsv", "a.parquet": "parquet"}
    assert {name: source_of(name).format for name in kinds} == kinds
    assert source_of("a.libfm", columns=("y", "u")).format == "libfm"


# ---------------------------------------------------------------------------------- measuring


def test_bench_measures_each_size(predictor, rows) -> None:
    small, large = predictor.bench(rows, [1, 64], calls=10)
    assert (small.batch_size, large.batch_size) == (1, 64)
    for latency in (small, large):
        assert 0 < latency.p50_ms <= latency.p99_ms
        assert latency.rows_per_s == pytest.approx(latency.batch_size / latency.p50_ms * 1e3)
    with pytest.raises(ConfigError, match="bench needs rows and calls, got 0 and 200"):
        predictor.bench([], [1])


def test_loading_for_serving_loads_nothing_heavy(artefact: Path) -> None:
    code = (
        "import sys; from recsys.serving.predictor import Predictor\n"
        f"p = Predictor.load({str(artefact)!r})\n"
        "print(p.predict({'user_id': 'ann', 'hour': 12, 'tags': '', 'age': 30})[0])\n"
        "heavy = ['torchrec', 'fbgemm_gpu', 'ray', 'optuna', 'matplotlib', 'sklearn',"
        " 'tensorboard', 'recsys.train']\n"
        "assert not [m for m in heavy if m in sys.modules], sys.modules.keys() & set(heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(1 / (1 + math.exp(-1.55)), abs=1e-6)
    assert re.search("Warning", done.stderr) is None
