"""``recsys evaluate``: what training measured, and files of raw rows."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import cli


def test_evaluate_repeats_what_training_measured(trained: tuple[Path, str]) -> None:
    run_dir, _ = trained
    cache = run_dir.parent / "cache"
    stored = json.loads((run_dir / "evaluation.json").read_text())
    expected = {part["split"]: part["metrics"] for part in stored}
    for split in ("valid", "test"):
        text = cli("evaluate", run_dir, "--split", split, "--cache-dir", cache, "--json").output
        found = json.loads(text)
        assert found["rows"] == 600
        assert found["metrics"]["auc"] == pytest.approx(expected[split]["auc"], abs=1e-9)
    table = cli("evaluate", run_dir, "--cache-dir", cache).output
    assert table.startswith("test: 600 rows\n")
    assert f"{expected['test']['auc']:.5f}" in table


def test_evaluate_raw_files(trained: tuple[Path, str], tmp_path: Path) -> None:
    run_dir, _ = trained
    (path,) = (run_dir.parent / "cache").glob("synthetic-*/test.parquet")
    found = json.loads(cli("evaluate", run_dir, "--data", path, "--json").output)
    stored = json.loads((run_dir / "evaluation.json").read_text())
    (expected,) = (part["metrics"] for part in stored if part["split"] == "test")
    assert found["metrics"]["logloss"] == pytest.approx(expected["logloss"], abs=1e-7)
    error = cli("evaluate", run_dir, "--data", path, "--split", "test", code=2)
    assert "--split and --data exclude each other" in error.stderr
