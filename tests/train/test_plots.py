import importlib.util

import numpy as np
import pytest

from recsys.evaluate.evaluation import Evaluation
from recsys.evaluate.predictions import Predictions
from recsys.train import plots


def evaluation(name, labels):
    labels = np.asarray(labels, np.float32).reshape(len(labels), -1)
    random = np.random.default_rng(0)
    logits = (labels + random.normal(size=labels.shape)).astype(np.float32)
    tasks = ("click", "buy")[: labels.shape[1]]
    found = Predictions(tasks, labels, logits, None, None, {})
    return Evaluation(name, found.reports(), {}, {}, found, 0.1)


LINES = [
    {"kind": "train", "step": 5, "loss": 0.6},
    {"kind": "valid", "step": 5, "auc": None, "logloss": 0.5},
    {"kind": "valid", "step": 9, "auc": 0.7, "logloss": 0.4},
]
needs_matplotlib = pytest.mark.skipif(not plots.available(), reason="matplotlib is not installed")


@needs_matplotlib
@pytest.mark.parametrize(
    "evaluations",
    [
        [],
        [evaluation("valid", [0, 1] * 3000)],
        [evaluation("valid", [0] * 10), evaluation("test", [[0, 1], [1, 0], [1, 1], [0, 0]])],
    ],
    ids=["none", "large", "one class and two tasks"],
)
def test_draws_every_picture_from_whatever_there_is(tmp_path, evaluations):
    paths = plots.draw_all(tmp_path / "plots", LINES if evaluations else [], evaluations)
    assert len(paths) == (5 if evaluations else 0)
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 3000


def test_only_what_has_two_classes_is_drawn():
    given = [evaluation("valid", [0] * 4), evaluation("test", [[0, 1], [1, 1], [0, 1]])]
    assert [title for title, _, _ in plots._both_classes(given)] == ["test click"]


def test_curves_keep_their_ends():
    x, y = plots._thin(np.arange(10_000.0), np.arange(10_000.0) ** 2)
    assert len(x) == len(y) <= 2000 and (x[0], x[-1]) == (0, 9999)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not plots.available()
