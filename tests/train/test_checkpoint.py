import json

import pytest
import torch

from recsys.errors import CheckpointError
from recsys.train.checkpoint import CheckpointStore, read_tensors
from recsys.train.storage import place_of


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


def save(store, step, **kwargs):
    return store.save(step, {"model": {"w": torch.full((3,), float(step))}}, {"at": step}, **kwargs)


def names(store):
    return sorted(path.name for path in store.directory.iterdir())


def test_keeps_the_latest_and_the_best(store):
    for step in (1, 2, 3, 4, 5):
        save(store, step, best=step == 2)
    assert [n for n in names(store) if n.startswith("step")] == [
        "step-00000002", "step-00000004", "step-00000005",
    ]  # fmt: skip
    assert store.load("best").state == {"at": 2}
    assert store.load("last").tensors["model"]["w"].tolist() == [5.0] * 3
    assert store.best() == store.directory / "step-00000002"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "model.safetensors").write_bytes(b"x" * 10),
        lambda path: (path / "model.safetensors").unlink(),
        lambda path: (path / "state.json").write_text("{}"),
        lambda path: (path / "manifest.json").write_text('{"format": 1, "fi'),
        lambda path: (path / "manifest.json").unlink(),
        lambda path: flip(path / "model.safetensors"),
    ],
)
def test_a_damaged_last_gives_way_to_the_one_before_and_says_so(store, damage):
    save(store, 1)
    damage(save(store, 2))
    found = store.load("last")
    assert found.state == {"at": 1}
    assert len(found.notes) == 1 and "step-00000002" in found.notes[0]


def flip(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_one_changed_bit_is_noticed(store):
    flip(save(store, 1, best=True) / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model.safetensors: .* damaged: expected .* sha256"):
        store.load("best")
    with pytest.raises(CheckpointError, match="all 1 checkpoints are damaged"):
        store.load("last")


def test_a_crash_while_writing_leaves_the_one_before(store, monkeypatch):
    save(store, 1)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("recsys.train.checkpoint.write_tensors", full)
    with pytest.raises(CheckpointError, match=r"could not be saved: no space left .*is kept"):
        save(store, 2)
    monkeypatch.undo()
    assert names(store) == ["last.json", "step-00000001", "step-00000002"]
    found = store.load("last")
    assert found.state == {"at": 1}
    assert "step-00000002" in found.notes[0] and "cut off while being written" in found.notes[0]
    save(store, 3)
    assert names(store) == ["last.json", "step-00000001", "step-00000003"]


def test_a_damaged_pointer_falls_back_to_the_newest(store):
    save(store, 1)
    save(store, 2)
    (store.directory / "last.json").write_text("{")
    assert store.load("last").state == {"at": 2}


def test_same_step_twice_is_replaced(store):
    save(store, 4)
    store.save(4, {"model": {"w": torch.zeros(1)}}, {"at": "again"})
    assert store.load("last").state == {"at": "again"}
    assert names(store) == ["last.json", "step-00000004"]


def test_views_of_one_memory_are_saved_apart(store):
    flat = torch.arange(6.0)
    tensors = {"a": flat[:4], "b": flat[4:], "all": flat, "t": flat.view(2, 3).t(), "tied": flat}
    store.save(1, {"model": tensors}, {})
    found = store.load("last").tensors["model"]
    for name, value in tensors.items():
        assert torch.equal(found[name], value), name


def test_later_format(store):
    manifest = save(store, 1) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 9}))
    with pytest.raises(CheckpointError, match="expected checkpoint format 1, got 9"):
        store.load("step-00000001")


def test_nothing_there(store):
    assert not store.exists() and store.best() is None
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        store.load("last")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        store.load("best")


def test_not_safetensors(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_tensors(tmp_path / "x.safetensors")


def test_manifest_that_is_no_object(store):
    (save(store, 1) / "manifest.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected a JSON object"):
        store.load("step-00000001")


def test_on_storage_that_is_no_disk(monkeypatch):
    store = CheckpointStore(place_of("memory://test_checkpoint/run"), keep=2)
    for step in (1, 2, 3, 4):
        save(store, step, best=step == 1)
    assert [n for n in names(store) if n.startswith("step")] == [
        "step-00000001", "step-00000003", "step-00000004",
    ]  # fmt: skip
    assert store.load("best").tensors["model"]["w"].tolist() == [1.0] * 3
    weights = store.load("last").path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-2])
    found = store.load("last")
    assert found.state == {"at": 3} and "damaged" in found.notes[0]
    save(store, 5)

    def refuse(*_):
        raise PermissionError("access denied")

    monkeypatch.setattr("recsys.train.checkpoint.upload", refuse)
    with pytest.raises(CheckpointError, match="could not be saved: PermissionError: access denied"):
        save(store, 6)
    monkeypatch.undo()
    found = store.load("last")
    assert found.state == {"at": 5} and "cut off while being written" in found.notes[0]
