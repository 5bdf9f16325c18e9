"""``recsys train``: a run goes all the way, on, and ends as it should."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cli.conftest import cli

ROOT = Path(__file__).parents[2]


def test_train_saves_and_says_so(trained: tuple[Path, str]) -> None:
    run_dir, said = trained
    resolved = json.loads((run_dir / "config.json").read_text())
    assert resolved["train"]["learning_rate"] == 0.01
    assert resolved["dataset"]["num_rows"] == 3000
    assert (run_dir / "MODEL_CARD.md").is_file() and (run_dir / "model/model.json").is_file()
    assert re.search(r"^valid +0\.\d+", said, re.M) and re.search(r"^test +0\.\d+", said, re.M)
    assert f"saved in {run_dir}" in said


def test_resume_and_a_second_run_in_the_same_folder(trained, config: Path, tmp_path: Path) -> None:
    run_dir, _ = trained
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    again = ["train", "--config", config, "--run-dir", copy, "--cache-dir",
             config.parent / "cache", "--set", "train.learning_rate=1e-2"]  # fmt: skip
    error = cli(*again, code=2)
    assert error.stderr.startswith("ConfigError: ") and "--resume" in error.stderr
    cli(*again, "--resume", "--set", "train.num_epochs=2")
    before = json.loads((run_dir / "result.json").read_text())
    after = json.loads((copy / "result.json").read_text())
    assert before != after


def test_several_seeds_are_summed_up(config: Path, tmp_path: Path) -> None:
    said = cli("train", "--config", config, "--seeds", "1,2", "--run-dir", tmp_path / "two",
                  "--cache-dir", config.parent / "cache").output  # fmt: skip
    lines = {line[:8].strip(): line.split() for line in said.splitlines()}
    assert float(lines["test sd"][2]) > 0
    error = cli("evaluate", tmp_path / "two", code=2).stderr
    assert "Give one:" in error or "config.json" in error


def test_interrupted_runs_end_with_130(config: Path, tmp_path: Path, monkeypatch) -> None:
    class Stopped:
        interrupted = True

    monkeypatch.setattr("recsys.train.run.run", lambda *arguments: Stopped())
    assert cli("train", "--config", config, "--run-dir", tmp_path, code=130).output == ""


def test_only_the_first_rank_speaks(config: Path, tmp_path: Path, monkeypatch) -> None:
    done = SimpleNamespace(interrupted=False)
    monkeypatch.setattr("recsys.train.run.run", lambda *arguments: done)
    monkeypatch.setenv("RANK", "1")
    assert cli("train", "--config", config, "--run-dir", tmp_path).output == ""
    done.interrupted = True
    assert cli("train", "--config", config, "--run-dir", tmp_path, code=130).output == ""


def test_train_on_ray_hands_over_what_was_asked(tmp_path: Path, monkeypatch) -> None:
    ray_train = pytest.importorskip("recsys.train.ray_train", reason="needs ray")
    seen = {}

    def run_on_ray(experiment, run_dir, options, cluster):
        seen.update(seeds=experiment.seeds, run_dir=run_dir, options=options, cluster=cluster)
        return SimpleNamespace(metrics={"valid": {"auc": 0.75}})

    monkeypatch.setattr(ray_train, "run_on_ray", run_on_ray)
    found = cli(
        "train", "--config", ROOT / "configs/ctr/lr.yaml", "--run-dir", tmp_path, "--ray",
        "--workers", "3:5", "--storage", "memory://x", "--timeout", 60, "--address", "auto",
        "--resume", "--cache-dir", tmp_path / "cache",
    )  # fmt: skip
    assert "0.75" in found.output and f"saved in {tmp_path}" in found.output
    assert (seen["options"].storage, seen["options"].timeout_s) == ("memory://x", 60)
    assert seen["cluster"].workers == (3, 5) and seen["cluster"].address == "auto"
    assert seen["options"].resume and seen["options"].cache_dir == tmp_path / "cache"
    assert seen["run_dir"] == tmp_path and seen["seeds"] == (1,)
