import importlib.util
import json

from recsys.train.tracking import Tracker, read_metrics


def test_a_resumed_run_drops_what_it_writes_again(tmp_path):
    with Tracker(tmp_path) as tracker:
        for step in (5, 10, 15):
            tracker.log("train", step, {"loss": 1 / step})
    with Tracker(tmp_path, keep_until=10) as tracker:
        tracker.log("train", 15, {"loss": 0.5})
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [5, 10, 15]
    assert lines[-1]["loss"] == 0.5


def test_a_new_run_starts_a_new_file(tmp_path):
    for _ in range(2):
        with Tracker(tmp_path) as tracker:
            tracker.log("train", 1, {})
    assert len(read_metrics(tmp_path)) == 1


def test_a_torn_last_line_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n{"kind": "tr')
    assert read_metrics(tmp_path) == [{"kind": "train", "step": 1}]


def test_lines_are_there_at_once_and_hold_no_nan(tmp_path):
    with Tracker(tmp_path) as tracker:
        tracker.log("valid", 3, {"auc": float("nan"), "loss": float("inf")})
        text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text) == {"kind": "valid", "step": 3, "auc": None, "loss": None}


def test_other_ranks_write_nothing(tmp_path):
    with Tracker(None) as tracker:
        tracker.log("train", 1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_only_when_installed(tmp_path, monkeypatch):
    found = importlib.util.find_spec("tensorboard") is not None
    with Tracker(tmp_path / "with") as tracker:
        tracker.log("train", 1, {"loss": 1.0})
    assert (tmp_path / "with" / "tensorboard").exists() == found
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with Tracker(tmp_path / "without") as tracker:
        tracker.log("train", 1, {"loss": 1.0})
    assert [path.name for path in (tmp_path / "without").iterdir()] == ["metrics.jsonl"]
