"""A search that takes seconds: FM on some thousand synthetic rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recsys.tune.sweep import Sweep

CONFIG = {
    "dataset": {"class": "recsys.datasets.synthetic.Synthetic",
                "num_rows": 3000, "valid_rows": 500, "test_rows": 500, "seed": 3},
    "model": {"class": "recsys.models.ctr.fm.FM", "embedding_dim": 8},
    "train": {"batch_size": 256, "num_epochs": 2, "evaluations_per_epoch": 2},
}  # fmt: skip
SPACE = {
    "model.tables.*.embedding_dim": {"power_of_two": [1, 8]},
    "train.learning_rate": {"float": [1e-3, 1e-2], "log": True},
}


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """Data is made once."""
    return tmp_path_factory.mktemp("tune-cache")


@pytest.fixture
def sweep_of(tmp_path):
    """Makes a sweep around `CONFIG`."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))

    def make(**fields) -> Sweep:
        base = {"config": path, "space": SPACE, "objectives": ["auc", "bytes"], "trials": 4}
        return Sweep.model_validate({**base, **fields})

    return make
