"""Run folders on storage that is no disk of this machine."""

import json

import pytest
from upath import UPath

from recsys.config import Experiment
from recsys.errors import CheckpointError, ConfigError
from recsys.train.run import RunOptions, run
from recsys.train.storage import Mirror, is_local, place_of, read_range, remove, upload, write_text
from recsys.train.trainer import Trainer
from tests.train.test_torchrun import CONFIG


def test_places(tmp_path):
    assert is_local(place_of("runs/x")) and is_local(place_of(tmp_path))
    assert not is_local(place_of("memory://a/b"))
    with pytest.raises(ConfigError, match=r"storage nowhere://x: .*Expected a path or a URL"):
        place_of("nowhere://x")


@pytest.mark.parametrize("kind", ["disk", "memory", "file"])
def test_files(tmp_path, kind):
    roots = {"disk": str(tmp_path / "there"), "memory": "memory://test_files",
             "file": f"file://{tmp_path}/far"}  # fmt: skip
    root = place_of(roots[kind])
    (tmp_path / "mine").write_bytes(bytes(range(100)))
    upload(tmp_path / "mine", root / "a/b/mine")
    assert read_range(root / "a/b/mine", 10, 5) == bytes(range(10, 15))
    write_text(root / "a/note", "one")
    write_text(root / "a/note", "two")
    assert (root / "a/note").read_text() == "two"
    assert sorted(path.name for path in (root / "a").iterdir()) == ["b", "note"]
    remove(root / "a/note")
    remove(root / "a/note")  # gone already
    remove(root / "a")
    assert not (root / "a/b/mine").exists()


def test_a_copy_goes_there_and_back_and_has_one_owner(tmp_path):
    storage = UPath("memory://test_mirror/run")
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one / "model", one / "checkpoints", two):
        folder.mkdir(parents=True)
    (one / "config.json").write_text("{}")
    (one / "metrics.jsonl").write_text("1\n")
    (one / "model" / "weights").write_bytes(b"w")
    (one / "checkpoints" / "large").write_bytes(b"x")
    (two / "metrics.jsonl").write_text("from an earlier try")
    first = Mirror(one, storage)
    first.pull()
    first.push()
    (one / "metrics.jsonl").write_text("1\n2\n")
    first.push()
    assert not (storage / "checkpoints").exists()
    second = Mirror(two, storage)
    second.pull()
    found = {path.relative_to(two).as_posix() for path in two.rglob("*") if path.is_file()}
    assert found == {"config.json", "metrics.jsonl", "model/weights"}
    assert (two / "metrics.jsonl").read_text() == "1\n2\n"
    with pytest.raises(CheckpointError, match="another job has taken this run over"):
        first.push()
    second.push()


def test_storage_that_cannot_be_reached_is_said(tmp_path, monkeypatch):
    def refuse(*_):
        raise ConnectionResetError("no route to host")

    storage = UPath("memory://test_reach/run")
    mirror = Mirror(tmp_path, storage)
    mirror.pull()
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("recsys.train.storage.upload", refuse)
    with pytest.raises(CheckpointError, match=r"memory://.* cannot be used: ConnectionResetError"):
        mirror.push()
    monkeypatch.setattr("recsys.train.storage.write_text", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be used: .*no route to host. Check that"):
        Mirror(tmp_path, storage).pull()


def metrics(folder) -> dict:
    return json.loads((folder / "result.json").read_text())["metrics"]


def test_a_run_goes_on_on_another_host(tmp_path, monkeypatch):
    experiment = Experiment.parse(CONFIG)
    cache = tmp_path / "cache"
    run(experiment, tmp_path / "expected", RunOptions(cache, show="none"))
    storage = "memory://test_storage/run"
    options = RunOptions(cache, show="none", storage=storage)
    inner = Trainer._evaluate

    def die(trainer):
        inner(trainer)
        if trainer.progress.evaluations == 3:
            raise MemoryError("the host is gone")

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Trainer, "_evaluate", die)
        run(experiment, tmp_path / "host0", options)
    assert not (tmp_path / "host0/checkpoints").exists()
    with pytest.raises(ConfigError, match=r"memory://.* holds a run already"):
        run(experiment, tmp_path / "host1", options)
    resumed = RunOptions(cache, show="none", storage=storage, resume=True)
    run(experiment, tmp_path / "host1", resumed)
    assert metrics(tmp_path / "host1") == metrics(tmp_path / "expected")
    lines = (tmp_path / "host1/metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines if json.loads(line)["kind"] == "valid"]
    assert steps == [12, 24, 36, 48]
    far = place_of(storage)
    assert json.loads((far / "result.json").read_text())["metrics"] == metrics(tmp_path / "host1")
    with pytest.raises(ConfigError, match="no run to resume"):
        run(experiment, tmp_path / "host2", RunOptions(cache, resume=True, storage=storage + "2"))


@pytest.mark.slow
@pytest.mark.distributed
def test_ranks_without_a_common_disk(tmp_path):
    """Two ranks on one host, then three on another; only the storage is common."""
    experiment = Experiment.parse({**CONFIG, "train": {**CONFIG["train"], "num_epochs": 1}})
    storage = f"file://{tmp_path}/storage"
    options = RunOptions(tmp_path / "cache", ranks=2, show="none", storage=storage)
    first = run(experiment, tmp_path / "host0", options)
    more = Experiment.parse({**CONFIG, "train": {**CONFIG["train"], "num_epochs": 2}})
    again = RunOptions(tmp_path / "cache", ranks=3, show="none", storage=storage, resume=True)
    second = run(more, tmp_path / "host1", again)
    assert first.seeds[0].fit.steps == 12 and second.seeds[0].fit.steps == 12 + 8
    assert not list(tmp_path.glob("host*/checkpoints"))
    parts = list((tmp_path / "storage/checkpoints").glob("step-00000020/parts/model/*/*"))
    assert len(parts) >= 3
    assert (tmp_path / "storage/model/model.safetensors").exists()
