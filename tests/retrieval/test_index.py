import dataclasses
import threading

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recsys.retrieval.planner as module
from recsys.errors import DataError
from recsys.retrieval.index import Index
from recsys.retrieval.scalar_codes import ScalarCodes
from recsys.retrieval.sign_codes import SignCodes
from recsys.serving.vectors import Vectors


def brute(vectors, ids, query, k, allowed=None, exclude=()):
    """Ids and scores by a full sort; equal scores in the order of the items."""
    scores = np.asarray(vectors, np.float64) @ np.asarray(query, np.float64)
    order = np.argsort(-scores, kind="stable")
    kept = [i for i in order if (allowed is None or allowed[i]) and ids[i] not in exclude]
    return [ids[i] for i in kept[:k]], scores[kept[:k]]


def clustered(num_items, dim, seed=0, clusters=50):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(clusters, dim))
    made = centres[random.integers(0, clusters, num_items)] + random.normal(size=(num_items, dim))
    return (made * random.lognormal(0, 0.3, (num_items, 1))).astype(np.float32)


def same(hits, ids, scores):
    assert hits.ids.tolist() == ids
    np.testing.assert_allclose(hits.scores, scores, rtol=1e-6, atol=1e-6)


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_equals_a_full_sort_ties_included(data):
    size, dim = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 4))
    small = st.integers(-2, 2)
    row = st.lists(small, min_size=dim, max_size=dim)
    vectors = data.draw(st.lists(row, min_size=size, max_size=size))
    queries = data.draw(st.lists(row.filter(any), min_size=1, max_size=4))
    ids = data.draw(st.permutations(range(100, 100 + size)))
    k = data.draw(st.integers(1, size + 3))
    exclude = [data.draw(st.lists(st.sampled_from([*ids, 7]))) for _ in queries]
    masks = [
        data.draw(st.none() | st.lists(st.booleans(), min_size=size, max_size=size))
        for _ in queries
    ]
    index = Index(vectors, ids)
    few = module._SMALL_FLOATS
    for floats in (few, 0):  # every filter a subset; then masked where it leaves much
        module._SMALL_FLOATS = floats
        try:
            wanted = [None if m is None else np.array(m, bool) for m in masks]
            found = index.search(queries, k, where=wanted, exclude=exclude)
        finally:
            module._SMALL_FLOATS = few
        for hits, query, mask, gone in zip(found, queries, masks, exclude):
            same(hits, *brute(vectors, ids, query, k, mask, gone))


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("plan", ["subset", "masked"])
def test_filters_are_exact_at_every_selectivity(share, plan, monkeypatch):
    monkeypatch.setattr(module, "_SMALL_FLOATS", 1 << 22 if plan == "subset" else 0)
    monkeypatch.setattr(module, "_SUBSET_SHARE", 10**6)
    monkeypatch.setattr(module, "_BLOCK_FLOATS", 16_000)
    vectors, ids = clustered(6000, 16), [f"i{n}" for n in range(6000)]
    kept = np.random.default_rng(1).random(6000) < share
    index = Index(vectors, ids, meta=pa.table({"kept": kept}))
    queries = clustered(5, 16, seed=2)
    found = index.search(queries, 20, where=pc.field("kept"), exclude=ids[:3000:7])
    assert set(found.plans) == {plan}
    for hits, query in zip(found, queries):
        same(hits, *brute(vectors, ids, query, 20, kept, set(ids[:3000:7])))


@pytest.mark.parametrize("share", [0.5, 0.01])
def test_a_filter_against_the_query_is_exact(share):
    vectors, ids = clustered(6000, 16), list(range(6000))
    query = clustered(1, 16, seed=3)[0]
    scores = vectors @ query
    kept = scores < np.quantile(scores, share)
    hits = Index(vectors, ids).search(query, 10, where=kept)[0]
    same(hits, *brute(vectors, ids, query, 10, kept))


def test_a_score_does_not_depend_on_plan_batch_or_filter():
    vectors, queries = clustered(3000, 33), clustered(40, 33, seed=4)
    index = Index(vectors, range(3000))
    every = index.search(queries, 5)
    for number, hits in enumerate(every):
        alone = index.search(queries[number], 5)[0]
        among = index.search(queries[number], 5, where=np.arange(3000) < 2999)[0]
        only = index.search(queries[number], 5, where=hits.ids)[0]
        for other in (alone, among, only):
            if set(other.ids) == set(hits.ids):
                assert other.scores.tobytes() == hits.scores.tobytes()


def test_filters_of_every_form_say_the_same():
    meta = pa.table({"price": [1.0, 2.0, 3.0, None], "kind": ["x", "y", "x", "x"]})
    index = Index(np.diag([1.0, 2, 3, 4]), list("abcd"), meta=meta)
    forms = [
        pc.field("price") < 3,
        np.array([True, True, False, False]),
        torch.tensor([True, True, False, False]),
        [True, True, False, False],
        ["b", "a"],
        {"a", "b"},
        pa.array(["a", "b"]),
    ]
    for form in forms:
        assert index.search([1.0, 1, 1, 1], 9, where=form)[0].ids.tolist() == ["b", "a"]
    found = index.search(np.ones((3, 4)), 2, where=[None, pc.field("kind") == "x", []])
    assert [hits.ids.tolist() for hits in found] == [["d", "c"], ["d", "c"], []]
    assert found.plans == ("exact", "subset", "empty") and found.offsets.tolist() == [0, 2, 4, 4]
    masks = np.array([[1, 0, 0, 0], [0, 0, 0, 1]], bool)
    assert index.search(np.ones((2, 4)), 2, where=masks).ids.tolist() == ["a", "d"]


def test_short_and_empty_lists_are_not_filled_up():
    index = Index(np.eye(3), [5, 6, 7])
    assert index.search(np.ones(3), 100)[0].ids.tolist() == [5, 6, 7]
    nothing = index.search(np.ones(3), 2, where=np.zeros(3, bool))
    assert (len(nothing.ids), nothing.plans, nothing.offsets.tolist()) == (0, ("empty",), [0, 0])
    assert len(index.search(np.ones(3), 2, exclude=[5, 6, 7])[0].ids) == 0
    assert index.search(np.ones(3), 2, exclude=[99]).ids.tolist() == [5, 6]
    assert len(index.search(np.zeros((0, 3)), 2)) == 0


def test_a_query_of_zeros_is_ranked_by_the_prior_under_the_same_filters():
    index = Index(np.eye(4), list("abcd"), prior=[1, 9, 9, 3])
    found = index.search([[0, 0, 0, 0], [1, 0, 0, 0]], 2, exclude=[["b"], []])
    assert found.plans == ("prior", "exact") and found.fallback.tolist() == [True, False]
    assert found[0].ids.tolist() == ["c", "d"] and found[0].scores.tolist() == [9, 3]
    assert index.search(np.zeros(4), 9, where=["d", "a"])[0].ids.tolist() == ["d", "a"]
    with pytest.raises(DataError, match="query 2 of 2 is all zeros"):
        Index(np.eye(2), [1, 2]).search([[1, 0], [0, 0]], 1)


class Model:
    """The same items as plain dictionaries."""

    def __init__(self):
        self.items = {}

    def put(self, vectors, ids, prices):
        for name, vector, price in zip(ids, vectors, prices):
            self.items.pop(name, None)
            self.items[name] = (vector, price)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_updates_equal_an_index_built_anew(data):
    value = st.integers(-3, 3)
    vector = st.lists(value, min_size=2, max_size=2)
    model, index = Model(), Index([[1, 1]], [0], meta=pa.table({"price": [0]}))
    model.put([[1, 1]], [0], [0])
    for _ in range(data.draw(st.integers(1, 8))):
        known = list(model.items)
        action = data.draw(st.sampled_from(["add", "upsert", "delete"]))
        names = data.draw(st.lists(st.integers(0, 12), unique=True, max_size=6))
        if action == "delete":
            names = [n for n in names if n in known]
            index.delete(names)
            for name in names:
                del model.items[name]
            continue
        if action == "add":
            names = [n for n in names if n not in known]
        vectors = [data.draw(vector) for _ in names]
        prices = [data.draw(value) for _ in names]
        meta = pa.table({"price": pa.array(prices, pa.int64())})
        shaped = np.array(vectors, np.float32).reshape(-1, 2)
        getattr(index, action)(shaped, names, meta=meta)
        model.put(vectors, names, prices)
    names = list(model.items)
    assert index.ids.tolist() == names and len(index) == len(names)
    vectors = np.array([v for v, _ in model.items.values()]).reshape(-1, 2)
    np.testing.assert_array_equal(index.vectors(), vectors)
    prices = np.array([p for _, p in model.items.values()])
    assert index.meta["price"].to_pylist() == prices.tolist()
    query = [2, -1]
    same(index.search(query, 5, exclude=[3])[0], *brute(vectors, names, query, 5, None, {3}))
    same(
        index.search(query, 5, where=pc.field("price") > 0)[0],
        *brute(vectors, names, query, 5, prices > 0),
    )
    mask = np.arange(len(names)) % 2 == 0
    same(index.search(query, 5, where=mask)[0], *brute(vectors, names, query, 5, mask))


def test_a_refused_update_changes_nothing():
    index = Index(np.eye(2), ["a", "b"], prior=[1, 2])
    for call in (
        lambda: index.add(np.eye(2), ["c", "a"]),
        lambda: index.add(np.eye(2), ["c", "c"]),
        lambda: index.add([[np.nan, 1]], ["c"]),
        lambda: index.add([[1, 2, 3]], ["c"]),
        lambda: index.add([[1, 2]], [3]),
        lambda: index.upsert([[1, 2]], ["c"], meta=pa.table({"x": [1]})),
        lambda: index.delete(["a", "zz"]),
        lambda: index.delete(["a", "a"]),
    ):
        with pytest.raises(DataError):
            call()
        assert index.ids.tolist() == ["a", "b"] and "c" not in index and "a" in index


def test_the_prior_follows_its_items():
    index = Index(np.eye(2), ["a", "b"], prior=[1, 2])
    index.add([[1, 1]], ["c"])
    index.upsert([[2, 2], [3, 3]], ["b", "d"])
    assert index.search([0, 0], 9)[0].ids.tolist() == ["b", "a", "c", "d"]
    index.upsert([[2, 2]], ["a"], prior=[7])
    assert index.search([0, 0], 2)[0].scores.tolist() == [7, 2]


def test_an_index_can_be_emptied_and_filled_again():
    index = Index(np.eye(2), [1, 2])
    index.delete([1, 2])
    assert len(index) == 0 and len(index.search([1, 1], 3)[0].ids) == 0
    index.add([[1, 0]], [1])
    assert index.search([1, 1], 3)[0].ids.tolist() == [1]


@pytest.mark.parametrize("codes", [None, ScalarCodes(8), SignCodes(1)])
def test_an_emptied_index_with_a_prior_takes_items_without_one(codes, tmp_path):
    """What was deleted has no prior left to keep, so all new items have 0."""
    meta = pa.table({"price": [1, 2]})
    index = Index(np.eye(2), ["a", "b"], meta, prior=[5, 6], codes=codes)
    index.delete(["a", "b"])
    again = Index.load(index.save(tmp_path / "empty"))
    for one, put in ((index, index.add), (again, again.upsert)):
        put([[1, 0], [2, 0]], ["b", "c"], meta=meta)
        found = one.search([[0, 0], [1, 0]], 3)
        assert found[0].ids.tolist() == ["b", "c"] and found[0].scores.tolist() == [0, 0]
        assert found[1].ids.tolist() == ["c", "b"]
        one.upsert([[3, 0]], ["b"], meta=meta.slice(0, 1), prior=[4])
        one.upsert([[3, 0], [1, 1]], ["b", "d"], meta=meta)  # keeps the 4, gives a 0
        found = one.search([0, 0], 3)[0]
        assert found.ids.tolist() == ["b", "c", "d"] and found.scores.tolist() == [4, 0, 0]


def test_vectors_that_know_their_model_are_compared():
    index = Index(np.eye(2), ["a", "b"], version="v1")
    users = Vectors(np.array(["u"]), np.array([[1, 2]], np.float32), version="v1")
    assert index.search(users, 1).ids.tolist() == ["b"]
    assert index.search(dataclasses.replace(users, version=None), 1).ids.tolist() == ["b"]
    other = dataclasses.replace(users, version="v2")
    with pytest.raises(DataError, match="queries are of model version 'v2', the index of 'v1'"):
        index.search(other, 1)
    with pytest.raises(DataError, match="'v2', the index of 'v1'"):
        index.search(other, 1, version="v1")
    with pytest.raises(DataError, match="'v1', the index of None"):
        Index(np.eye(2), ["a", "b"]).search(users, 1)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda i: i.search([1.0], 2), "must have 2 values each"),
        (lambda i: i.search([np.inf, 1], 2), "must be finite"),
        (lambda i: i.search([1e30, 1], 2), "shorter than 1e"),
        (lambda i: i.search([[1, 2], [1]], 2), "must be a matrix"),
        (lambda i: i.search(3.0, 2), "must be a matrix"),
        (lambda i: i.search(np.array(3.0), 2), "must be a matrix"),
        (lambda i: i.search([1, 1], 0), "`k` must be"),
        (lambda i: i.search([1, 1], 2.5), "`k` must be"),
        (lambda i: i.search([1, 1], 2, where=pc.field("prize") < 3), "Did you mean `price`"),
        (lambda i: i.search([1, 1], 2, where=pc.field("price") < "x"), "does not fit `meta`"),
        (lambda i: i.search([1, 1], 2, where="price < 3"), "the text 'price < 3'"),
        (lambda i: i.search([1, 1], 2, where=[True]), "each of the 2 items"),
        (lambda i: i.search([1, 1], 2, where=["a", "z"]), "the first is 'z'"),
        (lambda i: i.search([1, 1], 2, where=[1]), "must be strings"),
        (lambda i: i.search([1, 1], 2, exclude=[1]), "must be strings"),
        (lambda i: i.search([1, 1], 2, exclude="a"), "must be a list of ids"),
        (lambda i: i.search([1, 1], 2, exclude=[["a"], ["b"]]), "for each of 2 queries"),
        (lambda i: i.search([1, 1], 2, version="v2"), "model version 'v2'.*'v1'"),
        (lambda i: i.vectors(["q"]), "not in the index"),
        (lambda i: Index(np.eye(2), ["a", "a"]), "'a' comes again in row 2"),
        (lambda i: Index(np.eye(2), ["a"]), "1 ids and 2 vectors"),
        (lambda i: Index(np.eye(2), ["a", 1]), "all integers or all strings"),
        (lambda i: Index(np.eye(2), [1.5, 2.5]), "all integers or all strings"),
        (lambda i: Index([[1, np.nan]], ["a"]), "first row 1"),
        (lambda i: Index([1, 2], ["a", "b"]), "must be a matrix"),
        (lambda i: Index(np.eye(2), ["a", "b"], prior=[1]), "`prior` must be"),
        (lambda i: Index(np.eye(2), ["a", "b"], meta=pa.table({"x": [1]})), "`meta` must have"),
        (lambda i: Index(np.eye(2), [1, 2]).search([1, 1], 1, where=pc.field("x")), "no `meta`"),
    ],
)
def test_bad_input_is_named(call, text):
    index = Index(np.eye(2), ["a", "b"], meta=pa.table({"price": [1, 2]}), version="v1")
    assert index.search([1, 1], 1, version="v1", where=["a", "z"], unknown="ignore").ids == ["a"]
    with pytest.raises(DataError, match=text):
        call(index)


def test_a_search_beside_updates_sees_one_state_of_the_index():
    """Every item has a vector of its version; a list must never mix two, nor show a banned id."""
    ids = list(range(64))
    index = Index(np.full((64, 2), 1.0), ids)
    stop, wrong = threading.Event(), []

    def search():
        while not stop.is_set():
            hits = index.search([1.0, 0.0], 64, exclude=[5])[0]
            if len(set(hits.scores.tolist())) > 1 or 5 in hits.ids or len(hits.ids) != 63:
                wrong.append(hits)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for version in range(2, 60):
        index.upsert(np.full((64, 2), float(version)), ids)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong and index.search([1, 0], 1).scores.tolist() == [59.0]
