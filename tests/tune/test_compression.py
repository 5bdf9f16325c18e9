"""Comparing schemes under budgets: cells, resume, report."""

from __future__ import annotations

import json

import pytest

from recsys.config import Experiment
from recsys.embeddings.compression.hash import Hash
from recsys.errors import ConfigError
from recsys.tune.compression import (
    CompareOptions,
    all_schemes,
    compare,
    label_of,
    parse_dtypes,
    parse_schemes,
)
from recsys.tune.compression_cell import CellResult
from recsys.tune.compression_report import Point, pareto, recommend, report_text, write_report


def make_experiment(**train):
    return Experiment.parse(
        {
            "dataset": {"class": "recsys.datasets.synthetic.Synthetic",
                        "num_rows": 4000, "valid_rows": 500, "test_rows": 500},
            "model": {"class": "recsys.models.ctr.dlrm.DLRM", "embedding_dim": 8,
                      "bottom_mlp": {"hidden_units": [8]}, "top_mlp": {"hidden_units": [8]}},
            "train": {"batch_size": 256, "num_epochs": 1, "evaluations_per_epoch": 1,
                      "bootstrap_samples": 0, **train},
            "seeds": [1, 2],
        }
    )  # fmt: skip


def cell(label, budget, size, auc, speed=100.0):
    metrics = {"fp32": {"test": {"auc": [auc, auc + 0.002], "logloss": [0.5, 0.5]}}}
    return CellResult(
        label, budget, 1000, size // 4, {"fp32": size}, size, metrics, {}, speed, 1.0, {"fp32": 9.0}
    )


def points(*cells):
    return [
        Point(c, "fp32", c.infer_bytes["fp32"], *c.spread("fp32", "test", "auc")) for c in cells
    ]


def test_schemes_from_text():
    found = parse_schemes("hash, {kind: hash, multiplex: true, salt: 3}")
    assert list(found) == ["hash", "hash(multiplex=True, salt=3)"]
    assert found["hash"] == Hash()
    with pytest.raises(ConfigError, match=r"unknown scheme 'hsh'.*Did you mean `hash`"):
        parse_schemes("hsh")
    with pytest.raises(ConfigError, match=r"scheme `hash`: .*salz"):
        parse_schemes("{kind: hash, salz: 3}")
    with pytest.raises(ConfigError, match="unknown dtype `int7`"):
        parse_dtypes("fp32,int7")


def test_all_schemes_leave_out_what_cannot_be_trained():
    found = all_schemes()
    assert {"hash", "hash(multiplex=True)"} <= set(found)
    assert "full" not in found
    assert not any(scheme.served_only for scheme in found.values())
    assert all(label_of(scheme) == label for label, scheme in found.items())


def test_pareto_by_hand():
    a, b, c, d = points(
        cell("a", 0.1, 100, 0.7), cell("b", 0.2, 200, 0.69), cell("c", 0.2, 200, 0.75),
        cell("d", 1.0, 1000, 0.75),
    )  # fmt: skip
    assert pareto([d, c, b, a]) == [a, c]


def test_recommendation_by_hand():
    found = points(
        cell("full", None, 1000, 0.80), cell("slow", 0.1, 100, 0.79, speed=10),
        cell("fast", 0.1, 90, 0.7899, speed=100), cell("half", 0.5, 500, 0.7995),
    )  # fmt: skip
    lines = recommend(found, (0.5, 0.1, 0.01), ())
    assert lines[0].startswith("At 0.5 of the bytes take half (AUC 0.8005, -0.0005 against")
    assert "take slow (AUC 0.7910" in lines[1]
    assert "Not distinguishable from it: fast" in lines[1]
    assert "fast trains 10.0 times as fast" in lines[1]
    assert lines[2] == "At 0.01 of the bytes nothing fits."
    assert "within 0.001 of the full tables is half" in lines[3]


@pytest.mark.slow
def test_compares_reports_and_goes_on(tmp_path, capsys):
    schemes = parse_schemes("hash, {kind: hash, multiplex: true}")
    options = CompareOptions((0.5, 0.00001), ("fp32",), cache_dir=tmp_path / "cache")
    comparison = compare(make_experiment(), schemes, tmp_path / "out", options)
    assert comparison.failed == {}
    assert [(c.label, c.budget) for c in comparison.cells] == [
        ("full", None), ("hash", 0.5), ("hash(multiplex=True)", 0.5)
    ]  # fmt: skip
    full, hashed, shared = comparison.cells
    assert full.ratio() == 1.0
    for found in (hashed, shared):
        assert 0.49 < found.ratio() <= 0.5
        assert len(found.metrics["fp32"]["test"]["auc"]) == 2
    assert {i.label for i in comparison.infeasible} == set(schemes)
    assert all(i.min_bytes > 0.00001 * comparison.full_bytes for i in comparison.infeasible)

    files = {path.name: path for path in write_report(comparison, options.budgets)}
    text = files["report.md"].read_text()
    assert "| hash | 0.5 |" in text
    assert "Out of reach" in text
    assert json.loads(files["results.json"].read_text())["cells"][0]["label"] == "full"
    assert files["compression.png"].stat().st_size > 5000
    assert "hash" in report_text(comparison, options.budgets)

    capsys.readouterr()
    path = tmp_path / "out" / "experiment.json"
    older = json.loads(path.read_text())
    del older["embedding"]["sharding"]  # as a version wrote it that did not know this setting
    path.write_text(json.dumps(older))
    again = compare(make_experiment(), schemes, tmp_path / "out", options)
    assert again.cells == comparison.cells
    assert "3 cells are done already" in capsys.readouterr().out

    assert not list((tmp_path / "out").rglob("checkpoints"))  # cells do not fill the disk
    trained = {path: path.read_text() for path in (tmp_path / "out").rglob("result.json")}
    wider = CompareOptions((0.5,), ("fp32", "int8"), cache_dir=tmp_path / "cache")
    more = compare(make_experiment(), schemes, tmp_path / "out", wider)
    assert [cell.metrics["fp32"] for cell in more.cells] == [c.metrics["fp32"] for c in again.cells]
    assert all("int8" in cell.metrics for cell in more.cells)
    assert {path: path.read_text() for path in trained} == trained  # nothing was trained again


def test_another_experiment_in_the_folder_is_refused(tmp_path):
    (tmp_path / "experiment.json").write_text("{}")
    with pytest.raises(ConfigError, match="another experiment"):
        compare(make_experiment(), parse_schemes("hash"), tmp_path)


def test_a_senseless_budget_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"above 0 and at most 1, got 1\.5"):
        compare(make_experiment(), parse_schemes("hash"), tmp_path, CompareOptions((1.5,)))
