import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

import recsys.graph.meta_relations as module
from recsys.errors import ConfigError, DataError
from recsys.graph.meta_relations import MetaRelation, base_relations, decompose, join, unions


def relation(head, tail, matrix, name="to"):
    return MetaRelation(head, tail, (name,), csr_array(np.array(matrix, np.float32)))


def naive_join(first, second, top, own):
    """Entry by entry."""
    rows, middle, cols = first.shape[0], first.shape[1], second.shape[1]
    found = np.zeros((rows, cols))
    for i in range(rows):
        for j in range(cols):
            for m in range(middle):
                degree = (first[:, m] > 0).sum() + (second[m] > 0).sum()
                if degree and not (own and i == j):
                    found[i, j] += first[i, m] * second[m, j] / degree
        order = sorted(range(cols), key=lambda j: (-np.float32(found[i, j]), j))
        found[i, order[top:]] = 0
    return found / max(found.max(), 1e-30)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 5), st.booleans())
def test_join_is_the_naive_sum(seed, top, own):
    random = np.random.default_rng(seed)
    first = (random.random((6, 5)) < 0.4).astype(np.float32)
    second = (random.random((5, 6)) < 0.4).astype(np.float32)
    found = join(relation("a", "b", first), relation("b", "a" if own else "c", second, "back"), top)
    assert (found.head, found.tail, found.name) == ("a", "a" if own else "c", "to > back")
    wanted = naive_join(first, second, 6, own)
    matrix = found.matrix.toarray()
    assert ((matrix > 0).sum(1) == np.minimum((wanted > 0).sum(1), top)).all()
    np.testing.assert_allclose(matrix[matrix > 0], wanted[matrix > 0], rtol=1e-5)
    for row, kept in zip(wanted, matrix > 0):  # nothing larger was left out
        assert not kept.any() or (row[~kept] <= row[kept].min() + 1e-6).all()


def test_join_by_hand():
    # papers 0, 1, 2 of authors 0, 1: author 0 wrote 0 and 1, author 1 wrote 1 and 2
    by = relation("author", "paper", [[1, 1, 0], [0, 1, 1]])
    back = relation("paper", "author", [[1, 0], [1, 1], [0, 1]])
    found = join(by, back, 5)  # paper 1 leads from one to the other: 1 / (2 + 2), the only pair
    assert found.matrix.toarray().tolist() == [[0, 1], [1, 0]]
    at = relation("paper", "venue", [[1, 0], [1, 0], [0, 1]])
    found = join(by, at, 5)  # author 0: venue 0 by papers 0 (1 / 2) and 1 (1 / 3)
    np.testing.assert_allclose(found.matrix.toarray(), [[1, 0], [0.4, 0.6]], rtol=1e-6)
    assert join(by, at, 1).matrix.toarray()[1].tolist() == [0, pytest.approx(0.6)]


def test_blocks_of_rows_change_nothing(monkeypatch):
    random = np.random.default_rng(3)
    first = relation("a", "b", random.random((40, 20)) < 0.3)
    second = relation("b", "a", random.random((20, 40)) < 0.3)
    whole = join(first, second, 4).matrix
    monkeypatch.setattr(module, "_BLOCK_ENTRIES", 7)
    parts = join(first, second, 4).matrix
    np.testing.assert_array_equal(whole.toarray(), parts.toarray())


def test_base_relations_are_there_in_both_directions():
    edges = {
        ("a", "to", "b"): np.array([[0, 1, 1], [0, 0, 0]]),
        ("a", "like", "a"): np.array([[0, 1], [1, 0]]),
        ("a", "cite", "a"): np.array([[0, 0], [1, 0]]),
        ("b", "none", "b"): np.zeros((2, 0), int),
    }
    found = {(r.head, r.name, r.tail): r.matrix.toarray() for r in
             base_relations({"a": 2, "b": 1}, edges)}  # fmt: skip
    assert list(found) == [
        ("a", "to", "b"), ("b", "rev to", "a"), ("a", "like", "a"), ("a", "cite", "a"),
        ("a", "rev cite", "a"),
    ]  # fmt: skip
    assert found["b", "rev to", "a"].tolist() == [[1, 1]]  # the repeated edge counts once
    assert found["a", "rev cite", "a"].tolist() == [[1, 0], [1, 0]]
    with pytest.raises(DataError, match="no edge"):
        base_relations({"a": 1}, {})


def test_layers_have_paths_of_their_length_between_types_that_meet():
    counts = {"user": 3, "item": 2, "brand": 1}
    edges = {
        ("user", "buys", "item"): np.array([[0, 1, 2], [0, 0, 1]]),
        ("item", "of", "brand"): np.array([[0, 1], [0, 0]]),
        ("item", "by", "brand"): np.array([[0], [0]]),
    }
    base = base_relations(counts, edges)
    layers = decompose(base, 3, ("user", "item"), 5)
    names = [[f"{r.head} {r.name} {r.tail}" for r in layer] for layer in layers]
    assert names[0] == [
        "user buys item", "item rev buys user", "item of brand", "brand rev of item",
        "item by brand", "brand rev by item",
    ]  # fmt: skip
    up, down = "of or by", "rev of or rev by"  # one relation in joins
    assert names[1] == [  # the one brand has no other, and no two items have a user in common
        "user buys > rev buys user", f"user buys > {up} brand", f"item {up} > {down} item",
        f"brand {down} > rev buys user",
    ]  # fmt: skip
    assert names[2] == [
        "user buys > rev buys > buys item", f"user buys > {up} > {down} item",
        f"item {up} > {down} > rev buys user", f"item {up} > {down} > {up} brand",
    ]  # fmt: skip
    for layer in layers:
        assert all(relation.matrix.nnz for relation in layer)
    with pytest.raises(ConfigError, match=r"type \['shop'\] have no edge"):
        decompose(base, 1, ("shop",), 5)
    with pytest.raises(ConfigError, match="relations that meet"):
        join(base[0], base[0], 5)


def test_unions_of_many_relations_have_a_short_name():
    many = [relation("a", "b", np.eye(3), f"r{n}") for n in range(9)]
    (found,) = unions(many)
    assert found.name == "r0 or r1 or 7 more"
    assert found.matrix.toarray().tolist() == np.eye(3).tolist()
