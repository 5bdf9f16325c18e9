import json
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from recsys.data.planted import CARDINALITIES, PlantedConfig, PlantedTruth, _zipf, _zipf_shares
from recsys.datasets import synthetic
from recsys.datasets.synthetic import Synthetic
from recsys.testing.dataset import DatasetConformance

SMALL = {"num_rows": 30_000, "valid_rows": 10_000, "test_rows": 5_000}
SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    data = Synthetic(Synthetic.Config(**SMALL))
    splits = data.splits(folder)
    tables = {name: pq.read_table(getattr(splits, name).files[0]) for name in SPLITS}
    return data, folder, tables


class TestSynthetic(DatasetConformance):
    dataset = Synthetic
    counts: ClassVar = {"train": 3000, "valid": 400, "test": 300}

    def config(self, folder):
        return Synthetic.Config(num_rows=3000, valid_rows=400, test_rows=300, rows_per_id=50)


def test_columns_are_criteo_like(made):
    data, _, tables = made
    schema = data.schema()
    assert len(schema.numeric) == 13
    assert len(schema.keys) == 27
    assert {name: table.num_rows for name, table in tables.items()} == {
        "train": 30_000,
        "valid": 10_000,
        "test": 5_000,
    }
    text = tables["train"]["C1"].drop_null().to_pylist()
    assert all(len(cell) == 8 and int(cell, 16) >= 0 for cell in text[:50])
    assert len(set(tables["train"]["C9"].to_pylist())) == 3


def test_oracle_is_that_of_the_planted_probabilities(made):
    data, folder, tables = made
    for split, oracle in data.oracle(folder).items():
        label = tables[split]["label"].to_numpy()
        probability = tables[split]["true_probability"].to_numpy()
        assert oracle["auc"] == pytest.approx(roc_auc_score(label, probability), abs=2e-6)
        assert oracle["logloss"] == pytest.approx(log_loss(label, probability), abs=1e-9)
        assert oracle["base_rate"] == pytest.approx(label.mean())
        assert oracle["rows"] == len(label)
        # Labels are draws from the probabilities: their mean is within four standard errors.
        error = 4 * np.sqrt((probability * (1 - probability)).sum()) / len(label)
        assert abs(label.mean() - probability.mean()) < error
    assert 0.78 < data.oracle(folder)["valid"]["auc"] < 0.84


def test_rows_do_not_depend_on_block_size_or_process(made, tmp_path):
    _, _, tables = made
    truth = PlantedTruth(PlantedConfig(**SMALL))
    for split in SPLITS:
        synthetic._write(truth, split, tmp_path / "again.parquet", block_rows=777)
        assert pq.read_table(tmp_path / "again.parquet").equals(tables[split])


def test_same_files_are_reused_and_other_options_make_others(tmp_path):
    config = Synthetic.Config(num_rows=500, valid_rows=100, test_rows=100)
    first = Synthetic(config).splits(tmp_path)
    changed = config.model_copy(update={"min_count": 9})
    assert Synthetic(changed).splits(tmp_path) == first
    other = Synthetic(config.model_copy(update={"seed": 8})).splits(tmp_path)
    assert other != first
    assert not pq.read_table(other.train.files[0]).equals(pq.read_table(first.train.files[0]))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_ids_follow_the_bounded_zipf_law():
    uniform = np.random.default_rng(0).random(400_000)
    for alpha in (0.0, 0.75, 1.0, 1.3):
        shares = np.bincount(_zipf(uniform, 50, alpha), minlength=50) / len(uniform)
        expected = _zipf_shares(50, alpha)
        assert expected.sum() == pytest.approx(1)
        assert np.abs(shares - expected).max() < 4e-3
    # Flat for alpha 0; log-uniform for alpha 1: log(3 / 2) / log(51) for the second id.
    assert _zipf_shares(50, 0.0) == pytest.approx(np.full(50, 1 / 50))
    assert _zipf_shares(50, 1.0)[1] == pytest.approx(np.log(1.5) / np.log(51))


def test_splits_are_in_time_order(made):
    _, _, tables = made
    times = [tables[split]["time"].to_numpy() for split in SPLITS]
    assert all((np.diff(time) >= 0).all() for time in times)
    assert times[0][-1] <= times[1][0] and times[1][-1] <= times[2][0]


def test_ids_and_base_rate_drift():
    sizes = {"num_rows": 60_000, "valid_rows": 100, "test_rows": 100}
    still, drifting = (PlantedTruth(PlantedConfig(**sizes, drift=drift)) for drift in (0.0, 1.0))
    for truth, moves in ((still, False), (drifting, True)):
        early, late = truth.rows(0, 20_000), truth.rows(40_000, 60_000)
        known = np.isin(late.ids[2], early.ids[2]).mean()
        popular = [np.bincount(rows.ids[4], minlength=306) / 20_000 for rows in (early, late)]
        moved = np.abs(popular[0] - popular[1]).sum() / 2
        rate = [truth.labels(rows, truth.logit(rows)).mean() for rows in (early, late)]
        if moves:
            assert known < 0.75 and moved > 0.2 and rate[1] - rate[0] > 0.05
        else:
            assert known > 0.95 and moved < 0.06 and abs(rate[1] - rate[0]) < 0.02


def test_missing_values_have_the_stated_shares(made):
    _, _, tables = made
    train = tables["train"]
    share = {name: train[name].null_count / train.num_rows for name in train.column_names}
    assert share["I1"] == pytest.approx(0.45, abs=0.015)
    assert share["I2"] == 0
    assert share["C3"] == pytest.approx(0.03, abs=0.005)
    assert share["C9"] == 0
    assert min(v for v in train["I2"].to_pylist()) == -2
    lengths = pa.compute.list_value_length(train["tags"]).to_numpy()
    assert np.bincount(lengths) / 30_000 == pytest.approx(np.full(5, 0.2), abs=0.015)


def test_interactions_and_strength_switch_off():
    sizes = {"num_rows": 20_000, "valid_rows": 10, "test_rows": 10}
    auc = {}
    for name, options in {
        "all": {},
        "linear": {"interactions": 0.0},
        "none": {"strength": 0.0, "drift": 0.0},
        "noisy": {"noise": 2.0},
    }.items():
        truth = PlantedTruth(PlantedConfig(**sizes, **options))
        rows = truth.rows(0, 20_000)
        logit = truth.logit(rows)
        if name == "none":
            assert np.ptp(logit) == 0
            continue
        auc[name] = roc_auc_score(truth.labels(rows, logit), logit)
    assert auc["linear"] < auc["all"] - 0.05
    assert auc["noisy"] > auc["all"] + 0.05  # the oracle sees the noise


def test_ceiling_falls_from_the_oracle_to_what_numbers_and_small_fields_give(made):
    data, folder, _ = made
    oracle = data.oracle(folder)["valid"]["auc"]
    ceilings = [data.ceiling(k)["auc"] for k in (0, 1, 20, 1000)]
    assert ceilings[0] == pytest.approx(oracle, abs=1e-9)
    assert all(low < high for low, high in zip(ceilings[1:], ceilings))
    assert ceilings[-1] > 0.6


def test_field_sizes():
    def sizes(**options):
        fields = PlantedTruth(PlantedConfig(num_rows=10_000, **options)).fields
        return [field.size for field in fields]

    assert sizes(rows_per_id=0) == list(CARDINALITIES)
    assert max(sizes(rows_per_id=100)) == 100
    assert sizes(rows_per_id=0, cardinality=0.5)[0] == 730


def test_hexadecimal_ids_are_distinct_and_missing_is_null():
    ids = np.arange(70_000)
    for field in (0, 25):
        text = synthetic._hex(ids, field)
        text.validate(full=True)
        assert text.null_count == 1 and not text[0].is_valid
        assert len(set(text.to_pylist())) == 70_000
    assert synthetic._hex(ids, 0)[5] != synthetic._hex(ids, 1)[5]


def test_meta_names_the_config(made):
    data, folder, _ = made
    (meta,) = folder.glob("synthetic-*/meta.json")
    config = json.loads(meta.read_text())["config"]
    assert Synthetic.Config(**config) == data.config
