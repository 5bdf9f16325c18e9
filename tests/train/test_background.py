import threading

import pytest
import torch

from recsys.embeddings.parts import TensorPart
from recsys.errors import CheckpointError
from recsys.train import checkpoint
from recsys.train.background import BackgroundWriter
from recsys.train.checkpoint import CheckpointStore
from recsys.train.ranks import Ranks


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints")


def test_what_changes_after_the_call_is_not_saved(store, monkeypatch):
    go_on, inner = threading.Event(), checkpoint.write_tensors

    def slow(path, tensors):
        assert go_on.wait(10)
        inner(path, tensors)

    monkeypatch.setattr(checkpoint, "write_tensors", slow)
    writer = BackgroundWriter(store, Ranks())
    weights, table = torch.ones(3), torch.ones(4, 2)
    parts = {"model": [TensorPart("t", (0, 0), (4, 2), table)]}
    writer.save(1, {"model": {"w": weights}}, {"at": 1}, best=False, parts=parts)
    weights.zero_()  # training goes on
    table.zero_()
    assert not store.exists()
    go_on.set()
    writer.wait()
    found = store.load("last")
    assert found.tensors["model"]["w"].tolist() == [1.0] * 3
    assert torch.equal(found.tensors["model"]["t"][:], torch.ones(4, 2))


def test_a_failure_is_an_error_of_the_next_call(store, monkeypatch):
    writer = BackgroundWriter(store, Ranks())
    writer.save(1, {"model": {}}, {}, best=False, parts={})
    writer.wait()

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    writer.save(2, {"model": {}}, {}, best=False, parts={})
    with pytest.raises(CheckpointError, match=r"step-00000002.* no space left .*is kept"):
        writer.save(3, {"model": {}}, {}, best=False, parts={})
    monkeypatch.undo()
    writer.save(4, {"model": {}}, {"at": 4}, best=False, parts={})
    writer.wait()
    assert store.load("last").state == {"at": 4}
