"""The job on Ray workers: the same model as on local ranks, also when a worker is killed."""

import json
import os
import signal
from pathlib import Path

import pytest

from recsys.config import Experiment
from recsys.errors import ConfigError, TrainingError
from recsys.train.run import RunOptions, run
from tests.train.test_ranking_job import experiment as filter_experiment
from tests.train.test_torchrun import CONFIG

ray_train = pytest.importorskip("recsys.train.ray_train", reason="needs ray")


def test_what_ray_is_not_asked_for(tmp_path):
    several = Experiment.parse({**CONFIG, "seeds": [1, 2]})
    with pytest.raises(ConfigError, match=r"trains one seed, got \[1, 2\]"):
        ray_train.run_on_ray(several, tmp_path)
    one = Experiment.parse(CONFIG)
    with pytest.raises(ConfigError, match="every worker is a rank, got ranks=2"):
        ray_train.run_on_ray(one, tmp_path, RunOptions(ranks=2))
    with pytest.raises(ConfigError, match=r"at least 1, .* got 0"):
        ray_train.run_on_ray(one, tmp_path, None, ray_train.RayOptions(workers=0))
    with pytest.raises(ConfigError, match=r"no more than the most, got \(3, 2\)"):
        ray_train.run_on_ray(one, tmp_path, None, ray_train.RayOptions(workers=(3, 2)))
    assert ray_train.parse_workers("4") == 4 and ray_train.parse_workers("2:8") == (2, 8)
    for text in ("", "2:", "1:2:3", "-1", "two"):
        with pytest.raises(ConfigError, match="expected a number, or the least and the most"):
            ray_train.parse_workers(text)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The result of two undisturbed local ranks."""
    folder = tmp_path_factory.mktemp("ray")
    experiment = Experiment.parse(CONFIG)
    run(experiment, folder / "expected", RunOptions(folder / "cache", ranks=2, show="none"))
    return folder


@pytest.fixture(scope="module")
def cluster():
    """Two workers' worth of a local cluster."""
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False)
    yield ray
    ray.shutdown()


def metrics(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())["metrics"]


class KillOnce:
    """Kills rank 1 in the middle of the first epoch, the first time it gets there."""

    def __init__(self, marker: Path, at: int) -> None:
        self.marker, self.at = marker, at

    def __call__(self) -> None:
        """Runs in every worker before the job."""
        from torch import distributed

        from recsys.train.step import TrainStep

        inner, seen = TrainStep.forward, [0]
        marker, at = self.marker, self.at

        def step(self, *arguments):
            seen[0] += 1
            if seen[0] == at and distributed.get_rank() == 1 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(self, *arguments)

        TrainStep.forward = step


@pytest.mark.ray
def test_the_same_as_local_ranks(home, cluster):
    experiment = Experiment.parse(CONFIG)
    options = RunOptions(home / "cache", show="none")
    seed = ray_train.run_on_ray(experiment, home / "plain", options)
    assert metrics(home / "plain") == metrics(home / "expected") == seed.metrics
    assert seed.backend == "torchrec" and "rank 1:" in seed.plan
    pointers = list((home / "plain" / "ray").glob("*/checkpoint_*/pointer.json"))
    last = max((json.loads(path.read_text()) for path in pointers), key=lambda p: p["step"])
    assert last["step"] == 24 and last["run_dir"] == str(home / "plain")


@pytest.mark.ray
def test_a_killed_worker_costs_time_and_nothing_else(home, cluster, monkeypatch):
    marker, inner = home / "killed-once", ray_train._loop
    kill = KillOnce(marker, at=9)

    def loop(config):
        kill()
        inner(config)

    monkeypatch.setattr(ray_train, "_loop", loop)
    options = RunOptions(home / "cache", show="none")
    ray_train.run_on_ray(Experiment.parse(CONFIG), home / "killed", options)
    assert marker.exists()
    assert metrics(home / "killed") == metrics(home / "expected")


@pytest.mark.ray
def test_an_error_of_recsys_is_said_once_and_not_tried_again(home, cluster):
    bad = {**CONFIG, "train": {**CONFIG["train"], "optimizer": "sgd", "learning_rate": 1e38}}
    with pytest.raises(TrainingError, match=r"on rank [01] of 2: TrainingError: .*finite"):
        options = RunOptions(home / "cache", show="none")
        ray_train.run_on_ray(Experiment.parse(bad), home / "bad", options)


@pytest.mark.ray
def test_a_collaborative_filter_goes_the_same_way(tmp_path, cluster, monkeypatch):
    """On Ray with a killed worker: what two local ranks find undisturbed."""
    experiment = filter_experiment("train.num_epochs=3", "train.batch_size=25")
    run(experiment, tmp_path / "expected", RunOptions(tmp_path / "cache", ranks=2, show="none"))
    marker, inner = tmp_path / "killed-once", ray_train._loop
    kill = KillOnce(marker, at=8)

    def loop(config):
        kill()
        inner(config)

    monkeypatch.setattr(ray_train, "_loop", loop)
    ray_train.run_on_ray(experiment, tmp_path / "ray", RunOptions(tmp_path / "cache", show="none"))
    assert marker.exists()
    assert metrics(tmp_path / "ray") == metrics(tmp_path / "expected")
