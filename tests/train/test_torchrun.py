"""The job on ranks that torchrun starts, and starts again."""

import json
import subprocess
import sys

import pytest

from recsys.config import Experiment
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
from recsys.cli import main
from recsys.train.step import TrainStep

inner, seen = TrainStep.__call__, [0]

def step(self, *arguments):
    seen[0] += 1
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first and os.environ["RANK"] == "1" and seen[0] == {kill_at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(self, *arguments)

TrainStep.__call__ = step
main()
"""
pytestmark = [pytest.mark.distributed]


def torchrun(folder, *arguments: str, kill_at: int = -1) -> subprocess.CompletedProcess:
    """Two ranks on this host."""
    script = folder / "script.py"
    script.write_text(SCRIPT.format(kill_at=kill_at))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--max-restarts", "1", "--monitor-interval", "0.5"]
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


def test_ranks_inside_of_ranks_are_refused(home, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setattr(torchrun_module.distributed, "is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=r"torchrun has started 2 ranks, and ranks=2"):
        run(Experiment.parse(CONFIG), home / "no", RunOptions(home / "cache", ranks=2))
