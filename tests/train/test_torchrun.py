"""The job on ranks that torchrun starts, and starts again."""

import json
import subprocess
import sys

import pytest

from recsys.config import Experiment, load
from recsys.errors import ConfigError
from recsys.train import torchrun as torchrun_module
from recsys.train.run import RunOptions, run

CONFIG = {
    "dataset": {"class": "recsys.datasets.synthetic.Synthetic",
                "num_rows": 6000, "valid_rows": 1000, "test_rows": 500},
    "model": {"class": "recsys.models.ctr.deep_fm.DeepFM", "embedding_dim": 4,
              "mlp": {"hidden_units": [8], "dropout": 0.2}},
    "train": {"batch_size": 256, "num_epochs": 2, "evaluations_per_epoch": 2,
              "bootstrap_samples": 0, "background_checkpoints": False},
}  # fmt: skip
SCRIPT = """
import os, signal
from recsys.cli.main import main
from recsys.train.step import TrainStep

inner, seen = TrainStep.forward, [0]

def step(self, *arguments):
    seen[0] += 1
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first and os.environ["RANK"] == "1" and seen[0] == {kill_at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(self, *arguments)

TrainStep.forward = step
main()
"""
pytestmark = [pytest.mark.distributed]


def torchrun(
    folder, *arguments: str, kill_at: int = -1, restarts: int = 1
) -> subprocess.CompletedProcess:
    """Two ranks on this host."""
    script = folder / "script.py"
    script.write_text(SCRIPT.format(kill_at=kill_at))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [
        "--nproc-per-node",
        "2",
        "--max-restarts",
        f"{restarts}",
        "--monitor-interval",
        "0.5",
    ]
    return subprocess.run(
        [*command, str(script), *arguments], capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a configuration and the result of two undisturbed ranks."""
    folder = tmp_path_factory.mktemp("torchrun")
    experiment = Experiment.parse(CONFIG)
    experiment.save(folder / "config.yaml")
    run(experiment, folder / "expected", RunOptions(folder / "cache", ranks=2, show="none"))
    return folder


def metrics(folder) -> dict:
    return json.loads((folder / "result.json").read_text())["metrics"]


@pytest.mark.slow
def test_a_killed_rank_costs_time_and_nothing_else(home):
    """12 batches an epoch, the first checkpoint after 6: killed in between, all start again."""
    arguments = ["train", "--config", str(home / "config.yaml"), "--cache-dir", str(home / "cache")]
    done = torchrun(home, *arguments, "--run-dir", str(home / "killed"), kill_at=9)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resumed from step 6" in done.stderr
    assert metrics(home / "killed") == metrics(home / "expected")
    assert done.stdout.count("saved in") == 1  # one rank speaks
    plan = json.loads((home / "killed/plan.json").read_text())
    assert plan["world_size"] == 2 and len(plan["rank_bytes"]) == 2


@pytest.mark.slow
def test_a_pipeline_changes_nothing(home):
    experiment = load(home / "config.yaml", ["train.pipeline=sparse_dist"])
    run(experiment, home / "ahead", RunOptions(home / "cache", ranks=2, show="none"))
    assert metrics(home / "ahead") == metrics(home / "expected")


@pytest.mark.slow
def test_other_numbers_of_ranks_go_on_within_the_epoch(home):
    """Two ranks until step 6 of 12, where 3,072 of 6,000 rows are done; then three; then one."""
    arguments = ["train", "--config", str(home / "config.yaml"), "--cache-dir", str(home / "cache")]
    arguments += ["--run-dir", str(home / "changed")]
    assert torchrun(home, *arguments, kill_at=9, restarts=0).returncode != 0
    options = RunOptions(home / "cache", resume=True, ranks=3, show="none")
    run(load(home / "config.yaml"), home / "changed", options)
    result = json.loads((home / "changed/result.json").read_text())
    # 2,928 rows are left, 976 a rank: 4 batches. Then an epoch of 2,000 rows a rank: 8 batches.
    assert result["fit"]["steps"] == 6 + 4 + 8
    assert result["fit"]["rows"] == 6 * 512 + (4 + 8) * 768
    rows = [json.loads(line) for line in (home / "changed/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "valid"] == [6, 10, 14, 18]
    expected = metrics(home / "expected")["valid"]["auc"]
    assert abs(result["metrics"]["valid"]["auc"] - expected) < 0.03
    more = load(home / "config.yaml", ["train.num_epochs=3"])
    run(more, home / "changed", RunOptions(home / "cache", resume=True, show="none"))
    result = json.loads((home / "changed/result.json").read_text())
    assert (result["fit"]["steps"], result["backend"]) == (18 + 24, "local")


@pytest.mark.slow
def test_ranks_inside_of_ranks_are_refused(home, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setattr(torchrun_module.distributed, "is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=r"torchrun has started 2 ranks, and ranks=2"):
        run(Experiment.parse(CONFIG), home / "no", RunOptions(home / "cache", ranks=2))
