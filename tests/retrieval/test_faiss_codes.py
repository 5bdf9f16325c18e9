"""faiss finds, the index decides: lists under filters, updates and saving against brute force."""

import importlib.util

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import recsys.retrieval.faiss_codes as faiss_codes
from recsys.errors import ConfigError, DataError
from recsys.retrieval.faiss_codes import FaissCodes
from recsys.retrieval.index import Index

needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None,
    reason="faiss-cpu is not installed: pip install 'recsys[ann]'",
)
RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(3000, 8)).astype(np.float32)
QUERIES = RANDOM.normal(size=(25, 8)).astype(np.float32)
PRICE = RANDOM.integers(0, 10, 3000)


def best(allowed, query, k, vectors=VECTORS):
    order = np.argsort(-(vectors @ query), kind="stable")
    return [i for i in order.tolist() if i in allowed][:k]


def shared(found, wanted):
    """Share of the true lists that is found, all hits counted."""
    right = sum(len(set(one.ids.tolist()) & set(two)) for one, two in zip(found, wanted))
    return right / max(1, sum(map(len, wanted)))


def test_without_faiss_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(faiss_codes, "available", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install 'recsys\[ann\]'"):
        FaissCodes("HNSW32")


@needs_faiss
@pytest.mark.parametrize(
    ("codes", "least"),
    [
        (FaissCodes("Flat"), 1.0),
        (FaissCodes("HNSW16", "efSearch=128"), 0.97),
        (FaissCodes("IVF32,Flat", "nprobe=16"), 0.97),
        (FaissCodes("SQ8"), 1.0),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_lists_and_scores(codes, least):
    index = Index(VECTORS, range(3000), codes=codes)
    found = index.search(QUERIES, 10)
    wanted = [best(range(3000), query, 10) for query in QUERIES]
    assert set(found.plans) == {"codes"} and shared(found, wanted) >= least
    for hits, query in zip(found, QUERIES):
        np.testing.assert_allclose(hits.scores, VECTORS[hits.ids] @ query, rtol=1e-5, atol=1e-5)
        assert (np.diff(hits.scores) <= 0).all() and len(hits.ids) == 10
    assert 20 < index.row_bytes < 400 or codes.factory == "SQ8"


@needs_faiss
@pytest.mark.parametrize("codes", [FaissCodes("Flat"), FaissCodes("HNSW16", "efSearch=200")])
def test_filters_exclusions_and_updates(codes, monkeypatch):
    monkeypatch.setattr("recsys.retrieval.planner._SMALL_FLOATS", 0)
    monkeypatch.setattr("recsys.retrieval.planner._SUBSET_SHARE", 10**6)
    index = Index(VECTORS[:2500], range(2500), pa.table({"price": PRICE[:2500]}), codes=codes)
    index.delete(range(0, 2500, 5))
    index.add(VECTORS[2500:], range(2500, 3000), pa.table({"price": PRICE[2500:]}))
    there = set(range(3000)) - set(range(0, 2500, 5))
    banned = [best(there, query, 40)[::2] for query in QUERIES]
    for where, allowed in (
        (None, there),
        (pc.field("price") < 5, {i for i in there if PRICE[i] < 5}),
    ):
        found = index.search(QUERIES, 10, where=where, exclude=banned)
        wanted = [best(allowed - set(b), q, 10) for b, q in zip(banned, QUERIES)]
        assert set(found.plans) == {"codes masked"}
        for hits, closed in zip(found, banned):
            assert set(hits.ids.tolist()) <= allowed - set(closed) and len(hits.ids) == 10
        assert shared(found, wanted) > 0.97
    index.delete(range(1, 2500, 5))  # more dead than alive would compact, this only piles up
    index.delete([i for i in range(2, 2500) if i % 5 in (2, 3)])
    left = set(index.ids.tolist())
    found = index.search(QUERIES, 10)
    assert shared(found, [best(left, q, 10) for q in QUERIES]) > 0.95
    assert set(found.ids.tolist()) <= left


@needs_faiss
def test_a_short_list_is_searched_exactly(monkeypatch):
    """One cell looked through holds few of the rows a filter against the query leaves."""
    monkeypatch.setattr("recsys.retrieval.planner._SMALL_FLOATS", 0)
    index = Index(VECTORS, range(3000), codes=FaissCodes("IVF64,Flat", "nprobe=1"))
    scores = QUERIES[0] @ VECTORS.T
    against = scores < np.quantile(scores, 0.5)
    found = index.search(QUERIES[0], 20, where=against)
    assert found.plans == ("codes masked",)
    assert found.ids.tolist() == best(set(np.flatnonzero(against).tolist()), QUERIES[0], 20)
    assert found.ids.min() >= 0
    all_of_them = index.search(QUERIES[:2], 3000)
    assert [len(hits.ids) for hits in all_of_them] == [3000, 3000]


@needs_faiss
def test_saved_and_loaded(tmp_path):
    index = Index(VECTORS, range(3000), codes=FaissCodes("HNSW16", "efSearch=64"), prior=PRICE)
    index.delete(range(100))
    index.add(VECTORS[:3] * 5, [9000, 9001, 9002])
    before = index.search(QUERIES, 10)
    again = Index.load(index.save(tmp_path / "index"))
    found = again.search(QUERIES, 10)
    assert found.ids.tolist() == before.ids.tolist() and again.codes.name == index.codes.name
    assert found.scores.tobytes() == before.scores.tobytes()


@needs_faiss
def test_bad_descriptions_are_named():
    with pytest.raises(ConfigError, match="`factory` 'HNWS32'"):
        Index(VECTORS, range(3000), codes=FaissCodes("HNWS32"))
    with pytest.raises(ConfigError, match="`search` 'nporbe=3'"):
        Index(VECTORS, range(3000), codes=FaissCodes("IVF8,Flat", "nporbe=3"))
    with pytest.raises(DataError, match="from 3 vectors"):
        Index(VECTORS[:3], range(3), codes=FaissCodes("IVF64,Flat"))
    with pytest.raises(ConfigError, match="must describe"):
        FaissCodes("")
