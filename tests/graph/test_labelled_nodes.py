import dataclasses

import numpy as np
import pytest
from scipy.sparse import csr_array

from recsys.errors import DataError
from recsys.graph.interactions import Names
from recsys.graph.labelled_nodes import LabelledNodes


def made(**changes):
    parts = {
        "target": "a", "counts": {"a": 3, "b": 2}, "labels": np.array([0, 1, -1]),
        "classes": ("x", "y"), "splits": {"train": np.array([0]), "test": np.array([1])},
        "edges": {("a", "to", "b"): np.array([[0, 2], [1, 0]]),
                  ("a", "like", "a"): np.array([[0, 1, 2, 2], [1, 0, 2, 0]])},
        "features": {"b": csr_array(np.eye(2, dtype=np.float32))}, **changes,
    }  # fmt: skip
    return LabelledNodes(**parts)


def test_undirected_edges_are_those_among_the_target_once_in_both_directions():
    nodes = made()
    assert [ends.tolist() for ends in nodes.undirected()] == [[0, 0, 1, 2], [1, 2, 0, 0]]
    assert nodes.num_edges == 6 and not nodes.homogeneous
    none = made(edges={})
    assert [ends.tolist() for ends in none.undirected()] == [[], []] and none.num_edges == 0
    assert nodes.names("b").tolist() == [0, 1]
    assert made(ids={"b": Names(["u", "v"])}).names("b").tolist() == ["u", "v"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"target": "c"}, r"the target `c` among them"),
        ({"counts": {"a": 3, "b": 0}}, r"expected one or more of every type"),
        ({"labels": np.array([0, 1])}, r"expected one of each of 3 nodes, got \(2,\)"),
        ({"labels": np.array([0, 2, 1])}, r"from -1 \(not known\) to 1, got 0 to 2"),
        ({"classes": ("x",)}, r"expected two classes or more"),
        ({"splits": {"test": np.array([0])}}, r"expected a train split with nodes"),
        ({"splits": {"train": np.array([0]), "dev": np.array([1])}}, r"expected a train split"),
        ({"splits": {"train": np.array([3])}}, r"split train: expected nodes from 0 to 2"),
        ({"splits": {"train": np.array([0, 2])}}, r"split train: node 2 has no class"),
        ({"splits": {"train": np.array([0, 1]), "test": np.array([1])}}, r"node 1 is there twice"),
        ({"features": {"b": np.zeros((3, 1))}}, r"a row for each of 2 nodes, got \(3, 1\)"),
        ({"features": {"c": np.zeros((3, 1))}}, r"features of `c`"),
        ({"features": {"b": np.array([[np.nan], [0]])}}, r"finite numbers, got NaN"),
        ({"features": {"b": csr_array(np.array([[np.inf], [0]]))}}, r"finite numbers, got NaN"),
        ({"edges": {("a", "to", "b"): np.zeros((3, 2))}}, r"expected ends \(2, E\), got \(3, 2\)"),
        ({"edges": {("a", "to", "c"): np.zeros((2, 1))}}, r"there are no nodes of type `c`"),
        ({"edges": {("a", "to", "b"): np.array([[0], [2]])}}, r"`b` from 0 to 1, got 2 to 2"),
        ({"ids": {"b": Names(["u"])}}, r"expected ids of 2 nodes of type `b`, got 1"),
    ],
)
def test_parts_that_do_not_fit(changes, problem):
    with pytest.raises(DataError, match=problem):
        made(**changes)


def test_the_fingerprint_changes_with_every_part():
    first = made()
    assert made().fingerprint() == first.fingerprint()
    changes = [
        {"labels": np.array([1, 1, -1])},
        {"classes": ("x", "z")},
        {"splits": {"train": np.array([1]), "test": np.array([0])}},
        {"edges": {("a", "to", "b"): first.edges["a", "to", "b"],
                   ("a", "hate", "a"): first.edges["a", "like", "a"]}},
        {"edges": {**first.edges, ("a", "to", "b"): np.array([[0, 2], [1, 1]])}},
        {"features": {"b": np.eye(2, dtype=np.float32)}},
        {"features": {"b": csr_array(2 * np.eye(2, dtype=np.float32))}},
    ]  # fmt: skip
    prints = {dataclasses.replace(first, **change).fingerprint() for change in changes}
    assert len(prints | {first.fingerprint()}) == len(changes) + 1
