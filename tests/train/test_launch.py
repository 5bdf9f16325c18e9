import operator
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from torch import distributed

from recsys.config import Experiment
from recsys.errors import TrainingError
from recsys.train.launch import _died, launch
from recsys.train.run import RunOptions, run
from recsys.train.seed_result import SeedResult
from recsys.train.tracking import read_metrics
from tests.train.test_torchrun import CONFIG


def long_job(**train) -> Experiment:
    """Takes long enough to be stopped on its way."""
    dataset = {**CONFIG["dataset"], "num_rows": 20000}
    train = {**CONFIG["train"], "batch_size": 64, **train}
    return Experiment.parse({**CONFIG, "dataset": dataset, "train": train})


def test_how_a_rank_died_is_said():
    assert _died(3, -9) == "rank 3 was killed by SIGKILL. Most likely memory ran out."
    assert _died(1, 7) == "rank 1 ended with exit code 7 and without a word."


@pytest.mark.distributed
def test_returns_what_rank_0_returned():
    assert launch(distributed.get_world_size, (), ranks=2) == 2


@pytest.mark.distributed
def test_an_unexpected_error_comes_with_its_rank_and_trace():
    with pytest.raises(TrainingError, match=r"(?s)rank [01] of 2 failed.*ZeroDivisionError"):
        launch(operator.truediv, (1, 0), ranks=2)


@pytest.mark.distributed
def test_a_rank_that_dies_does_not_hang_the_job():
    start = time.monotonic()
    with pytest.raises(TrainingError, match=r"rank [01] ended with exit code 3"):
        launch(os._exit, (3,), ranks=2)
    assert time.monotonic() - start < 60


@pytest.mark.distributed
@pytest.mark.slow
def test_stopped_on_two_ranks_and_resumed_equals_uninterrupted(tmp_path):
    experiment = long_job(background_checkpoints=True)
    options = RunOptions(cache_dir=tmp_path, ranks=2, show="none")
    whole = run(experiment, tmp_path / "whole", options)

    def stop():
        while not any(line["kind"] == "valid" for line in read_metrics(tmp_path / "cut")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    assert run(experiment, tmp_path / "cut", options).interrupted
    again = RunOptions(cache_dir=tmp_path, ranks=2, show="none", resume=True)
    rest = run(experiment, tmp_path / "cut", again)
    assert rest.seeds[0].metrics == whole.seeds[0].metrics


@pytest.mark.slow
@pytest.mark.distributed
def test_a_job_that_is_killed_takes_its_ranks_with_it_and_goes_on(tmp_path):
    """SIGKILL of the process that started the ranks; then the same command with --resume."""
    experiment = long_job(evaluations_per_epoch=4)
    experiment.save(tmp_path / "config.yaml")
    run(experiment, tmp_path / "whole", RunOptions(tmp_path / "cache", ranks=2, show="none"))
    command = [sys.executable, "-m", "recsys", "train", "--config", str(tmp_path / "config.yaml")]
    command += ["--cache-dir", str(tmp_path / "cache"), "--run-dir", str(tmp_path / "cut")]
    job = subprocess.Popen([*command, "--ranks", "2"], stderr=subprocess.DEVNULL)
    while not (tmp_path / "cut/checkpoints/last.json").exists():
        assert job.poll() is None
        time.sleep(0.02)
    ranks = psutil.Process(job.pid).children(recursive=True)
    assert len(ranks) >= 2
    job.kill()
    job.wait()
    gone, alive = psutil.wait_procs(ranks, timeout=20)
    assert not alive and len(gone) == len(ranks)
    assert not (tmp_path / "cut/result.json").exists()
    rest = run(
        experiment, tmp_path / "cut", RunOptions(tmp_path / "cache", True, ranks=2, show="none")
    )
    assert rest.seeds[0].metrics == SeedResult.load(tmp_path / "whole").metrics
