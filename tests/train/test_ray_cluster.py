"""Ray nodes on this machine as hosts of a cluster: train across them, lose one, lose the driver."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recsys.config import Experiment
from recsys.train.run import RunOptions, run
from recsys.train.tracking import read_metrics
from tests.train.test_torchrun import CONFIG

ray_train = pytest.importorskip("recsys.train.ray_train", reason="needs ray")
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.ray


class Slowly:
    """Makes every step of a worker take a while, so that there is time to break something."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self) -> None:
        """Runs in every worker before the job."""
        from recsys.train.step import TrainStep

        inner, seconds = TrainStep.forward, self.seconds

        def step(self, *arguments):
            time.sleep(seconds)
            return inner(self, *arguments)

        TrainStep.forward = step


def slow_down(monkeypatch, seconds: float) -> None:
    """For the jobs of a test."""
    inner, slowly = ray_train._loop, Slowly(seconds)

    def loop(config):
        slowly()
        inner(config)

    monkeypatch.setattr(ray_train, "_loop", loop)


@pytest.fixture
def cluster():
    """A head without room for workers, and two hosts with room for one each."""
    import ray
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    hosts = [found.add_node(num_cpus=1) for _ in range(2)]
    found.wait_for_nodes()
    ray.init(address=found.address)
    yield found, hosts
    ray.shutdown()
    found.shutdown()


def evaluations(folder: Path) -> list[int]:
    """Steps of them."""
    return [line["step"] for line in read_metrics(folder) if line["kind"] == "valid"]


def test_two_hosts_one_is_lost_the_other_finishes(tmp_path, cluster, monkeypatch):
    nodes, hosts = cluster
    experiment = Experiment.parse(CONFIG)
    run(experiment, tmp_path / "expected", RunOptions(tmp_path / "cache", ranks=2, show="none"))
    slow_down(monkeypatch, 1.0)
    seen = []

    def lose_one():
        while not evaluations(tmp_path / "run"):  # after step 6 of 12
            time.sleep(0.2)
        time.sleep(2)
        seen.append(json.loads((tmp_path / "run/plan.json").read_text())["world_size"])
        nodes.remove_node(hosts[1], allow_graceful=False)

    threading.Thread(target=lose_one, daemon=True).start()
    options = RunOptions(
        tmp_path / "cache", show="none", storage=f"file://{tmp_path}/storage", timeout_s=60
    )
    seed = ray_train.run_on_ray(
        experiment, tmp_path / "run", options, ray_train.RayOptions(workers=(1, 2))
    )
    assert seen == [2] and seed.backend == "local"  # it ended on one rank
    # 6 steps of 2 x 256 rows; the 2,928 that are left are 12 batches of one rank, an epoch 24.
    assert seed.fit.steps == 6 + 12 + 24
    assert evaluations(tmp_path / "run") == [6, 9, 18, 30, 42]  # halves of 6 + 12, and of 24
    expected = json.loads((tmp_path / "expected/result.json").read_text())["metrics"]
    assert abs(seed.metrics["valid"]["auc"] - expected["valid"]["auc"]) < 0.03


DRIVER = """
from tests.train.test_ray_cluster import *
slow_down(type("Patch", (), {{"setattr": staticmethod(setattr)}}), {seconds})
options = RunOptions(Path({cache!r}), show="none", resume={resume})
ray_train.run_on_ray(Experiment.parse(CONFIG), {folder!r}, options)
"""


def drive(folder: Path, cache: Path, seconds: float, resume: bool) -> subprocess.Popen:
    """A driver with a cluster of its own."""
    code = DRIVER.format(folder=str(folder), cache=str(cache), seconds=seconds, resume=resume)
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def test_the_driver_is_killed_and_started_again(tmp_path):
    experiment, cache = Experiment.parse(CONFIG), tmp_path / "cache"
    run(experiment, tmp_path / "expected", RunOptions(cache, ranks=2, show="none"))
    first = drive(tmp_path / "run", cache, 1.0, False)
    while not evaluations(tmp_path / "run"):
        assert first.poll() is None, first.communicate()[1][-3000:]
        time.sleep(0.2)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(10)  # its workers notice, and let go of the folder
    assert not (tmp_path / "run/result.json").exists()
    second = drive(tmp_path / "run", cache, 0.0, True)
    errors = second.communicate(timeout=400)[1]
    assert second.returncode == 0, errors[-3000:]
    found, expected = (
        json.loads((tmp_path / name / "result.json").read_text())["metrics"]
        for name in ("run", "expected")
    )
    assert found == expected
