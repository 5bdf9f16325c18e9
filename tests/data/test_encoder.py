import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from recsys.data.encoder import FeatureEncoder, FitState, hashed_indices
from recsys.data.fitting import fit_table
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepare import prepare
from recsys.data.source import GivenSplits
from recsys.errors import DataError, SchemaError
from recsys.hashing import hash_ints, hash_strings, to_buckets
from recsys.schema import (
    Bucketized,
    Categorical,
    Label,
    MultiValued,
    Numeric,
    Schema,
    Sequence,
)

SCHEMA = Schema(
    features=(
        Categorical(name="user"),
        Categorical(name="item", dtype="int", encoding="hash", num_buckets=6, salt=2),
        Numeric(name="age", log=True, scale="standardize"),
        Bucketized(name="age_bucket", column="age", method="quantile", num_buckets=3),
        MultiValued(name="tags", separator="|", pooling="mean", weights="tw"),
        Sequence(name="seen", separator="|", column="tags", max_length=2, pooling="sum"),
    ),
    labels=(Label(name="click"),),
)


def csv_text() -> str:
    lines = ["click,user,item,age,tags,tw"]
    for i in range(200):
        tags = "|".join(f"t{k}" for k in range(i % 4))
        weights = "|".join(str(k + 1) for k in range(i % 4))
        age = "" if i % 7 == 0 else str(i)
        lines.append(f"{i % 2},{f'u{i % 9}' if i % 11 else ''},{i % 13},{age},{tags},{weights}")
    return "\n".join(lines) + "\n"


def test_serving_equals_prepare_and_loader(tmp_path, write):
    source = write(csv_text())
    prepared = prepare(SCHEMA, GivenSplits(train=source), tmp_path / "cache")
    [trained] = BatchLoader(prepared, "train", LoaderConfig(batch_size=200))
    frame = pd.read_csv(source.files[0], dtype={"user": str, "tags": str, "tw": str})
    text = pd.read_csv(source.files[0], dtype=str, keep_default_na=False)
    encoder = FeatureEncoder.load(prepared.directory / "encoder")
    for table in (
        pa.Table.from_pandas(frame),
        pa.Table.from_pandas(text),  # "" is missing, as it was in the training file
        pa.concat_tables([pa.Table.from_pandas(frame[:90]), pa.Table.from_pandas(frame[90:])]),
    ):
        served = encoder.batch(table)
        assert served.labels.shape == (200, 0)
        assert served.keys == trained.keys
        assert served.value_counts == trained.value_counts
        for name in ("dense", "values", "lengths", "value_weights"):
            assert torch.equal(getattr(served, name), getattr(trained, name)), name


@pytest.fixture(scope="module")
def encoder() -> FeatureEncoder:
    raw = {
        "user": ["a", "b", "a"],
        "item": [1, 2, 3],
        "age": [1.0, 2.0, 3.0],
        "tags": ["x", "", "x|y"],
        "tw": ["1", "", "1|2"],
    }
    return fit_table(SCHEMA, pa.table(raw))


def one_row(**changes: object) -> pa.Table:
    row = {"user": "a", "item": 1, "age": 2.0, "tags": "x", "tw": "1", **changes}
    return pa.Table.from_pylist([row, row])


def test_unknown_and_missing_ids_are_oov(encoder):
    batch = encoder.batch(one_row(user="new", tags="z|x", tw="1|1"))
    assert batch.key_values("user").tolist() == [1, 1]
    assert batch.key_values("tags").tolist() == [1, 2, 1, 2]
    assert encoder.batch(one_row(user=None)).key_values("user").tolist() == [1, 1]
    assert encoder.batch(one_row(item=None)).key_values("item").tolist() == [1, 1]
    assert encoder.batch(one_row(age=None)).key_values("age_bucket").tolist() == [1, 1]


def test_missing_columns_are_all_named(encoder):
    table = one_row().drop_columns(["age", "tags"])
    with pytest.raises(DataError, match=r"columns are missing: `age`, `tags`"):
        encoder.batch(table)


def test_a_bad_number_names_its_row(encoder):
    table = pa.table({**one_row().to_pydict(), "age": ["1", "old"]})
    with pytest.raises(DataError, match=r"`age` is not a number: 'old'.*\n.*row 2, column `age`"):
        encoder.batch(table)


def test_more_columns_and_no_rows_do_no_harm(encoder):
    table = one_row().append_column("more", pa.array([1, 2]))
    assert encoder.batch(table).batch_size == 2
    empty = encoder.batch(table.slice(0, 0))
    assert (empty.batch_size, len(empty.values), empty.dense.shape) == (0, 0, (0, 1))


def test_encoding_with_labels_leaves_out_ignored_rows():
    schema = Schema(
        features=(Categorical(name="user"),),
        labels=(Label(name="y", threshold=4, ignore=(3,)),),
    )
    table = pa.table({"user": ["a", "b", "a"], "y": [5, 3, 1]})
    encoded = fit_table(schema, table).encode(table, labels=True)
    assert encoded.to_pydict() == {"user": [2, 2], "y": [1, 0]}


def test_shared_tables_share_indices():
    schema = Schema(
        features=(
            Categorical(name="item", dtype="int"),
            Sequence(name="seen", dtype="int", max_length=3, pooling="sum", table="item"),
        ),
        labels=(Label(name="y"),),
    )
    table = pa.table({"item": [5, 6], "seen": [[6, 6, 7], []]})
    encoder = fit_table(schema, table)
    batch = encoder.batch(table)
    # 6 three times, then 5 and 7
    assert batch.key_values("item").tolist() == [3, 2]
    assert batch.key_values("seen").tolist() == [2, 2, 4]
    assert encoder.schema.num_embeddings() == {"item": 5}


@pytest.mark.parametrize(
    ("ids", "hashes"),
    [
        (pa.array(["a", None, "b"]), hash_strings(["a", "b"], 9)),
        (pa.array([4, None, -1]), hash_ints(np.array([4, -1]), 9)),
    ],
)
def test_hashed_indices(ids, hashes):
    first, second = to_buckets(hashes, 10) + 2
    assert hashed_indices(ids, 10, 9).tolist() == [first, 1, second]
    assert hashed_indices(ids.slice(1), 10, 9).tolist() == [1, second]


def test_hashed_indices_spread_evenly():
    indices = hashed_indices(pa.array([f"id{i}" for i in range(20_000)]), 10, 0)
    counts = np.bincount(indices, minlength=12)[2:]
    # chi-square with 9 degrees of freedom: 27.9 is its 99.9 % quantile
    assert counts.sum() == 20_000 and ((counts - 2_000) ** 2 / 2_000).sum() < 27.9


def test_an_encoder_without_its_state(encoder):
    with pytest.raises(DataError, match=r"no vocabulary for \['seen', 'tags', 'user'\]"):
        FeatureEncoder(encoder.schema, encoder.state, {})
    with pytest.raises(DataError, match=r"no statistics for \['age'\]"):
        FeatureEncoder(encoder.schema, FitState(), encoder.vocabularies)


def test_files_that_are_not_an_encoder(tmp_path, encoder):
    with pytest.raises(DataError, match=r"not a readable encoder.*\n.*encoder.json"):
        FeatureEncoder.load(tmp_path)
    encoder.save(tmp_path)
    path = tmp_path / "encoder.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "version": 99}))
    with pytest.raises(DataError, match="expected encoder version 1, got 99"):
        FeatureEncoder.load(tmp_path)


def test_a_table_too_large_for_int32():
    feature = Categorical(name="u", encoding="hash", num_buckets=2**31)
    schema = Schema(features=(feature,), labels=(Label(name="y"),))
    with pytest.raises(SchemaError, match=r"table `u` has 2,147,483,650 rows; indices are int32"):
        fit_table(schema, pa.table({"u": ["a"]}))
