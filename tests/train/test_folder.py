import json
import subprocess
import sys

import pytest

from recsys.config import Experiment
from recsys.errors import ConfigError
from recsys.train.folder import locked, open_run


def experiment(**train):
    return Experiment.parse(
        {
            "dataset": {"class": "recsys.datasets.synthetic.Synthetic"},
            "model": {"class": "recsys.models.ctr.lr.LR"},
            "train": train,
        }
    )


def test_the_lock_holds_across_processes_and_ends_with_its_process(tmp_path):
    code = (
        "import sys, pathlib\nfrom recsys.train.folder import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n    print('in', flush=True)\n    sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"in\n"
        with pytest.raises(ConfigError, match=f"process {other.pid} on"), locked(tmp_path):
            pass
        other.kill()
    with locked(tmp_path):
        pass


def test_resume_allows_more_of_the_same_only(tmp_path):
    open_run(tmp_path, experiment(num_epochs=1), resume=False)
    open_run(tmp_path, experiment(num_epochs=5, log_every=3), resume=True)
    assert json.loads((tmp_path / "config.json").read_text())["train"]["num_epochs"] == 5
    with pytest.raises(ConfigError, match=r"train\.batch_size was 4096, is 8\. Take the changes"):
        open_run(tmp_path, experiment(num_epochs=5, batch_size=8), resume=True)
