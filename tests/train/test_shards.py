"""Checkpoints of sharded tables: two ranks write, three read and write, one reads."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.parts import TensorPart
from recsys.errors import CheckpointError
from recsys.train import shards
from recsys.train.checkpoint import CheckpointStore
from recsys.train.shards import stored_tensors, write_parts
from recsys.train.storage import place_of
from tests.embeddings import ranks as toy

CASES = [
    "rowwise_adagrad,sparse,auto,row_wise",
    "adagrad,sparse,column_wise,auto",
    "sgd,sparse,mixed,data_parallel",
    "rowwise_adagrad,sparse,data_parallel,table_wise",
    "adam,dense,row_wise,auto",
]


def launch(world: int, folder: Path) -> list[dict]:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.train.parts_ranks"]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(folder)], cwd=root, stderr=subprocess.PIPE
        )
        for rank in range(world)
    ]
    errors = [process.communicate(timeout=240)[1].decode() for process in processes]
    assert all(process.returncode == 0 for process in processes), errors[0][-3000:]
    names = [folder / f"world{world}-rank{rank}.pt" for rank in range(world)]
    return [torch.load(name, weights_only=True) for name in names]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What two ranks trained and saved, and three loaded and saved."""
    folder = tmp_path_factory.mktemp("shards")
    (folder / "cases").write_text(" ".join(CASES))
    return folder, launch(2, folder)[0], launch(3, folder)


@pytest.mark.distributed
@pytest.mark.parametrize("case", CASES)
def test_from_two_ranks_to_three_to_one(results, case):
    folder, expected, three = results
    for found in three:
        for group in ("weights", "states"):
            assert found[case][group].keys() == expected[case][group].keys()
            for name, value in expected[case][group].items():
                assert torch.equal(found[case][group][name], value), name
    kind, mode, *_ = case.split(",")
    for world in ("step-00000002", "step-00000003"):
        local = toy.make_collection()
        optimizer = local.attach_optimizer(EmbeddingOptimizerConfig(kind=kind, mode=mode))
        loaded = CheckpointStore(folder / case).load(world)
        local.load_state_dict(loaded.tensors["model"])
        optimizer.load_state_dict(loaded.tensors["tables"])
        for name, value in {**local.state_dict(), **optimizer.state_dict()}.items():
            before = {**expected[case]["weights"], **expected[case]["states"]}[name]
            assert torch.equal(value, before), name


@pytest.mark.distributed
def test_each_rank_writes_its_part_and_names_are_those_of_whole_tables(results):
    folder = results[0] / CASES[0] / "step-00000003"
    files = sorted(folder.glob("parts/model/0/*.safetensors"))
    assert [path.name[:11] for path in files] == ["shard-00001", "shard-00002", "shard-00003"]
    rows = 0
    for path in files:
        with safe_open(str(path), framework="pt") as file:
            shape = file.get_slice("embedding.person.weight").get_shape()
            assert shape[0] < 65 and shape[1] == 8
            rows += shape[0]
    assert rows == 65  # row-wise, nothing twice


@pytest.mark.distributed
def test_a_torn_part_is_found_and_the_checkpoint_before_it_is_used(results):
    store = CheckpointStore(results[0] / CASES[0])
    part = next((store.directory / "step-00000003/parts/tables/0").glob("shard-00002*"))
    whole = part.read_bytes()
    try:
        part.write_bytes(whole[: len(whole) // 2])
        found = store.load("last")
        assert found.path.name == "step-00000002"
        assert part.name in found.notes[0] and "damaged" in found.notes[0]
        part.unlink()
        assert store.load("last").path.name == "step-00000002"
    finally:
        part.write_bytes(whole)


# ------------------------------------------------------------------------------- one process


def halves(name: str, whole: torch.Tensor) -> list[TensorPart]:
    """Four blocks of a matrix."""
    found = []
    for row in (0, 3):
        for column in (0, 2):
            values = whole[row : row + 3, column : column + 2]
            found.append(TensorPart(name, (row, column), tuple(whole.shape), values))
    return found


def test_any_block_can_be_read(tmp_path):
    whole = torch.arange(24.0).view(6, 4)
    files = write_parts(halves("t", whole), tmp_path)
    assert len(files) == 4  # a file holds one part of a tensor
    found = stored_tensors(tmp_path)["t"]
    assert found.shape == (6, 4) and found.dtype == torch.float32 and found.ndim == 2
    for block in (
        slice(None),
        slice(2, 5),
        (slice(1, 6), slice(1, 3)),
        (slice(4, 4), slice(None)),
    ):
        assert torch.equal(found[block], whole[block])


@pytest.mark.parametrize("storage", [False, True])
def test_large_parts_are_cut_into_files_that_memory_bears(tmp_path, monkeypatch, storage):
    monkeypatch.setattr(shards, "_FILE_BYTES", 40)
    monkeypatch.setattr(shards, "_READ_BYTES", 20)
    whole, sums = torch.arange(24.0).view(6, 4), torch.arange(6.0)
    mine = [*halves("t", whole), TensorPart("sum", (0,), (6,), sums)]
    if storage:
        store = CheckpointStore(place_of("memory://test_shards/run"))
        store.save(1, {"model": {}}, {}, parts={"model": mine})
        found = store.load("last").tensors["model"]
    else:
        files = write_parts(mine, tmp_path)
        assert all(path.stat().st_size < 400 for path in files)  # 40 bytes and a header
        found = stored_tensors(tmp_path)
    assert torch.equal(found["sum"][1:5], sums[1:5])
    for block in (slice(None), slice(2, 5), (slice(1, 6), slice(1, 3))):
        assert torch.equal(found["t"][block], whole[block])


def test_a_missing_block_is_an_error_not_garbage(tmp_path):
    whole = torch.arange(24.0).view(6, 4)
    write_parts([part for part in halves("t", whole) if part.offsets != (0, 2)], tmp_path)
    found = stored_tensors(tmp_path)["t"]
    assert torch.equal(found[3:], whole[3:])
    with pytest.raises(CheckpointError, match=r"`t`: 6 of 24 values are in none of the files"):
        found[:]


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path / "checkpoints")
    whole = torch.ones(6, 4)
    store.save(1, {"model": {}}, {}, parts={"model": halves("t", whole)[:1]})

    class Full(shards.HuggingFaceStorageWriter):
        def write_data(self, plan, planner):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards, "HuggingFaceStorageWriter", Full)
    with pytest.raises(CheckpointError, match=r"rank 0: OSError: .*No space left .*is kept"):
        store.save(2, {"model": {}}, {}, parts={"model": halves("t", whole)[:1]})
    monkeypatch.undo()
    assert store.load("last").path.name == "step-00000001"
    store.save(3, {"model": {}}, {}, parts={"model": halves("t", whole)[:1]})
    assert not list(store.directory.glob("*.partial"))
