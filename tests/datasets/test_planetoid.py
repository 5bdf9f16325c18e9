import io
import os
import pickle
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from recsys.datasets.planetoid import Planetoid
from recsys.errors import DataError
from recsys.testing.node_dataset import NodeDatasetConformance

CORA = Path(__file__).parents[2] / ".data" / "planetoid"
ONE_HOT = np.eye(7, dtype=np.int32)
LABELS = np.array([0, 1, 2, 3, 4, 5, 6, 0, 1, 2])


def write_npz(folder, **changes):
    features = csr_matrix(np.tri(10, 6, dtype=np.float32))
    arrays = {
        "indptr": features.indptr, "indices": features.indices, "data": features.data,
        "shape": np.array([10, 6]), "labels": LABELS, "edges": np.array([[0, 1], [1, 0], [1, 9]]),
        "train": np.arange(2), "val": np.arange(2, 5), "test": np.arange(7, 10), **changes,
    }  # fmt: skip
    np.savez(folder / "cora.npz", **arrays)


def write_raw(folder, protocol=2, name="cora"):
    """Ten nodes; the test nodes 9, 7 are listed in that order, and 8 has nothing but its number."""
    rows = np.tri(10, 6, dtype=np.float32)
    parts = {
        "allx": csr_matrix(rows[:7]), "tx": csr_matrix(rows[[9, 7]]), "y": ONE_HOT[LABELS[:2]],
        "ally": ONE_HOT[LABELS[:7]], "ty": ONE_HOT[LABELS[[9, 7]]],
        "x": csr_matrix(rows[:2]), "graph": {0: [1, 1], 1: [0, 9], 9: [1], 7: [7]},
    }  # fmt: skip
    for part, value in parts.items():
        with (folder / f"ind.{name}.{part}").open("wb") as file:
            pickle.dump(value, file, protocol=protocol)
    (folder / f"ind.{name}.test.index").write_text("9\n7\n")


class TestArrays(NodeDatasetConformance):
    dataset = Planetoid
    splits: ClassVar = {"train": 2, "valid": 3, "test": 3}

    def config(self, folder):
        write_npz(folder)
        return Planetoid.Config(path=str(folder))


class TestRaw(NodeDatasetConformance):
    dataset = Planetoid
    splits: ClassVar = {"train": 2, "valid": 3, "test": 2}

    def config(self, folder):
        write_raw(folder)
        return Planetoid.Config(path=str(folder), num_valid=3)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_raw_parts_are_put_in_order(tmp_path, protocol):
    write_raw(tmp_path, protocol)
    config = Planetoid.Config(path=str(tmp_path), normalize_features=False, num_valid=3)
    nodes = Planetoid(config).nodes(tmp_path)
    expected = np.tri(10, 6, dtype=np.float32)
    expected[8] = 0
    np.testing.assert_array_equal(nodes.features["paper"].toarray(), expected)
    assert nodes.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, -1, 2]
    assert nodes.report == {"nodes_without_a_class": 1, "nodes_without_features": 1}
    assert nodes.splits["test"].tolist() == [7, 9]
    assert [ends.tolist() for ends in nodes.undirected()] == [[0, 1, 1, 9], [1, 0, 9, 1]]


def test_rows_are_divided_by_their_sum(tmp_path):
    write_npz(tmp_path)
    features = Planetoid(Planetoid.Config(path=str(tmp_path))).nodes(tmp_path).features["paper"]
    np.testing.assert_allclose(features.toarray()[2], [1 / 3, 1 / 3, 1 / 3, 0, 0, 0])


class Evil:
    def __reduce__(self):
        return os.mkdir, (str(Evil.target),)


@pytest.mark.parametrize("part", ["graph", "y", "tx"])
def test_a_pickle_that_names_a_function_is_not_run(tmp_path, part):
    write_raw(tmp_path)
    Evil.target = tmp_path / "made"
    stream = io.BytesIO()
    pickle.dump(Evil(), stream, protocol=2)
    (tmp_path / f"ind.cora.{part}").write_bytes(stream.getvalue())
    with pytest.raises(DataError, match=rf"\.mkdir, which is not allowed(.|\n)*ind.cora.{part}"):
        Planetoid(Planetoid.Config(path=str(tmp_path))).nodes(tmp_path)
    assert not Evil.target.exists()


@pytest.mark.parametrize(
    ("part", "value", "problem"),
    [
        ("y", np.array(["a"], object), "an array of 'O8', expected one of numbers"),
        ("y", [1, 2], "expected a whole array of numbers, got a list"),
        ("tx", np.zeros(3), "expected a whole array of numbers, got a Array"),
        ("graph", {0: ["a"]}, "expected lists of neighbours by node"),
        ("ty", ONE_HOT, "do not fit: 7 and 7 rows of allx and ally, 2, 7 and 2"),
    ],
)
def test_other_content_is_named(tmp_path, part, value, problem):
    write_raw(tmp_path)
    with (tmp_path / f"ind.cora.{part}").open("wb") as file:
        pickle.dump(value, file, protocol=2)
    with pytest.raises(DataError, match=problem):
        Planetoid(Planetoid.Config(path=str(tmp_path))).nodes(tmp_path)


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"A Planetoid graph cannot be fetched by a program"):
        Planetoid(Planetoid.Config()).nodes(tmp_path)
    with pytest.raises(DataError, match=r"expected `cora.npz` or `ind.cora.graph`"):
        Planetoid(Planetoid.Config(path=str(tmp_path))).nodes(tmp_path)
    write_raw(tmp_path)
    whole = (tmp_path / "ind.cora.allx").read_bytes()
    (tmp_path / "ind.cora.allx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"expected a pickle of Planetoid"):
        Planetoid(Planetoid.Config(path=str(tmp_path))).nodes(tmp_path)
    write_npz(tmp_path, indices=np.array([9] * 45))
    with pytest.raises(DataError, match=r"expected arrays of a graph(.|\n)*cora.npz"):
        Planetoid(Planetoid.Config(path=str(tmp_path))).nodes(tmp_path)
    write_npz(tmp_path, labels=np.array([{}], object))
    with pytest.raises(DataError, match=r"expected arrays of a graph.*allow_pickle=False"):
        Planetoid(Planetoid.Config(path=str(tmp_path))).nodes(tmp_path)
    write_npz(tmp_path, labels=LABELS + 1)
    with pytest.raises(DataError, match=r"expected 7 classes, got 8"):
        Planetoid(Planetoid.Config(path=str(tmp_path))).nodes(tmp_path)


@pytest.mark.skipif(not (CORA / "cora.npz").is_file(), reason="needs .data/planetoid")
def test_cora():
    nodes = Planetoid(Planetoid.Config(path=str(CORA))).nodes(CORA)
    assert nodes.counts == {"paper": 2708} and len(nodes.undirected()[0]) == 2 * 5278
    assert {name: len(part) for name, part in nodes.splits.items()} == {
        "train": 140, "valid": 500, "test": 1000,
    }  # fmt: skip
    assert np.bincount(nodes.labels).tolist() == [351, 217, 418, 818, 426, 298, 180]
    np.testing.assert_allclose(nodes.features["paper"].sum(1), 1, rtol=1e-5)
