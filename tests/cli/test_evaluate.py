"""``recsys evaluate``: what training measured, and files of raw rows."""

import json
from pathlib import Path

import numpy as np
import pytest

from recsys.evaluate.user_results import UserResults
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


def test_lists_are_judged_as_in_training(recommending: tuple[Path, str], tmp_path: Path) -> None:
    run_dir, said = recommending
    stored = json.loads((run_dir / "evaluation.json").read_text())
    for split in ("valid", "test"):
        found = json.loads(cli("evaluate", run_dir, "--split", split, "--json").output)
        assert {k: v for k, v in found.items() if k != "seconds"} == {
            k: v for k, v in stored[split].items() if k != "seconds"
        }
    users = tmp_path / "users.parquet"
    text = cli("evaluate", run_dir, "--per-user", users).output
    lines = [[line.split() for line in part.splitlines() if line.startswith("test ")]
             for part in (text, said)]  # fmt: skip
    assert lines[0] == lines[1] and len(lines[0]) == 1
    assert "training items of the user" in text and str(users) in text
    mine, kept = (UserResults.read(path) for path in (users, run_dir / "users-test.parquet"))
    np.testing.assert_array_equal(mine.users, kept.users)
    assert all((mine.values[name] == kept.values[name]).all() for name in kept.values)


def test_two_runs_are_compared_user_by_user(
    recommending: tuple[Path, str], cf_config: Path, tmp_path: Path
) -> None:
    run_dir, _ = recommending
    other = tmp_path / "better"
    cli("train", "--config", cf_config, "--run-dir", other, "--set", "train.num_epochs=4")
    text = cli("evaluate", other, "--compare", run_dir).output
    assert text.startswith(f"test: base {run_dir}, other {other}; difference = other - base\n")
    rows = json.loads(cli("evaluate", other, "--compare", run_dir, "--json").output)
    (row,) = [row for row in rows if row["metric"] == "recall@5"]
    means = [json.loads((folder / "result.json").read_text())["metrics"]["test"]["recall@5"]
             for folder in (run_dir, other)]  # fmt: skip
    assert (row["base"], row["other"]) == pytest.approx(means)
    assert row["difference"] == pytest.approx(means[1] - means[0])
    elsewhere = tmp_path / "elsewhere"
    cli("train", "--config", cf_config, "--run-dir", elsewhere, "--set",
        "dataset.split={kind: by_user, seed: 9}")  # fmt: skip
    error = cli("evaluate", elsewhere, "--compare", run_dir, code=2).stderr
    assert "have different pairs that are left out on test" in error


def test_options_of_the_other_kind_are_refused(
    recommending: tuple[Path, str], trained: tuple[Path, str]
) -> None:
    error = cli("evaluate", recommending[0], "--data", "rows.csv", code=2).stderr
    assert "--data and --columns are for models that predict clicks" in error
    error = cli("evaluate", recommending[0], "--split", "train", code=2).stderr
    assert "split: expected valid or test, got 'train'" in error
    error = cli("evaluate", trained[0], "--compare", recommending[0], code=2).stderr
    assert "--per-user and --compare are for collaborative filters" in error


def test_lists_are_asked_of_towers_alone(
    recommending: tuple[Path, str], trained: tuple[Path, str], tmp_path: Path
) -> None:
    for arguments, message in (
        ((recommending[0], "--lists"), "holds a collaborative filter: it is judged by lists"),
        ((trained[0], "--lists", "--data", "x.csv"), "--lists and --data exclude each other"),
        ((trained[0], "--lists"), "expected a model with vectors"),
    ):
        assert message in cli("evaluate", *arguments, code=2).stderr
