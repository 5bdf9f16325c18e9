"""An index of sets against the likeness of all pairs."""

import threading

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from recsys.errors import CheckpointError, DataError
from recsys.retrieval.adapter import CosineAdapter
from recsys.retrieval.fixed_encodings import FixedEncodings
from recsys.retrieval.set_index import SetIndex
from recsys.retrieval.vector_sets import VectorSets, max_sim

RANDOM = np.random.default_rng(0)
SETS = [RANDOM.normal(size=(RANDOM.integers(1, 6), 6)).astype(np.float32) for _ in range(200)]
QUERIES = [RANDOM.normal(size=(RANDOM.integers(1, 5), 6)).astype(np.float32) for _ in range(12)]
PRICE = RANDOM.integers(0, 10, 200)


def true(query, allowed, k):
    scores = max_sim(torch.from_numpy(query), VectorSets.of(SETS)).numpy()
    return [n for n in np.argsort(-scores, kind="stable").tolist() if n in allowed][:k], scores


@pytest.mark.parametrize("encodings", [None, FixedEncodings(6, bits=2, repetitions=4)])
def test_exact_lists_and_those_of_candidates(encodings):
    index = SetIndex(SETS, range(200), pa.table({"price": PRICE}), encodings=encodings)
    everything = index.search(QUERIES, 10, exact=True)
    near = index.search(QUERIES, 10, candidates=60)
    few = index.search(QUERIES, 5, where=pc.field("price") < 2, exclude=[3, 4])
    allowed = set(np.flatnonzero(PRICE < 2).tolist()) - {3, 4}
    kept = []
    for number, query in enumerate(QUERIES):
        wanted, scores = true(query, range(200), 10)
        assert everything[number].ids.tolist() == wanted
        np.testing.assert_allclose(everything[number].scores, scores[wanted], rtol=1e-5)
        kept.append(len(set(near[number].ids.tolist()) & set(wanted)) / 10)
        np.testing.assert_allclose(near[number].scores, scores[near[number].ids], rtol=1e-5)
        assert few[number].ids.tolist() == true(query, allowed, 5)[0]  # fewer than candidates
    assert np.mean(kept) > 0.6


def test_queries_of_nothing_and_of_vectors_that_cancel_out():
    index = SetIndex(SETS, range(200), prior=PRICE * 1000 + np.arange(200)[::-1])
    best = np.argsort(-(PRICE * 1000 + np.arange(200)[::-1]))[:3].tolist()
    pair = np.stack([SETS[0][0], -SETS[0][0]])
    found = index.search([[], pair, np.zeros((2, 6))], 3, exact=True)
    assert found.plans == ("prior", "exact", "prior")
    assert found[0].ids.tolist() == found[2].ids.tolist() == best
    assert found[1].ids.tolist() == true(pair, range(200), 3)[0]
    with pytest.raises(DataError, match="all zeros"):
        SetIndex(SETS, range(200)).search([[]], 3)


@pytest.mark.parametrize("encodings", [None, FixedEncodings(6, bits=2, repetitions=4)])
def test_updates_equal_an_index_built_anew(encodings, tmp_path):
    """Of 200 sets 80 go, 30 others get new vectors and move to the end, 20 come."""
    index = SetIndex(SETS, range(200), pa.table({"price": PRICE}), encodings=encodings,
                     prior=range(200))  # fmt: skip
    fresh = [RANDOM.normal(size=(3, 6)).astype(np.float32) for _ in range(50)]
    index.delete(range(80))
    index.upsert(fresh[:30], range(100, 130), pa.table({"price": [7] * 30}))
    index.add(fresh[30:], range(200, 220), pa.table({"price": [8] * 20}))
    ids = [*range(80, 100), *range(130, 200), *range(100, 130), *range(200, 220)]
    sets = [*SETS[80:100], *SETS[130:200], *fresh]
    prices = [*PRICE[80:100], *PRICE[130:200], *[7] * 30, *[8] * 20]
    prior = [*range(80, 100), *range(130, 200), *range(100, 130), *[0] * 20]
    anew = SetIndex(sets, ids, pa.table({"price": prices}), encodings=encodings, prior=prior)
    loaded = SetIndex.load(index.save(tmp_path / "sets"))
    for one in (index, loaded):
        assert one.ids.tolist() == ids == one.index.ids.tolist() and len(one) == 140
        for options in ({"exact": True}, {"where": pc.field("price") >= 7}, {"exclude": [210, 85]}):
            found, wanted = (i.search([*QUERIES, []], 9, **options) for i in (one, anew))
            assert found.ids.tolist() == wanted.ids.tolist()
            np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-5)
    index.delete(ids)
    assert len(index) == 0 and index.search(QUERIES[:1], 3)[0].ids.tolist() == []
    index.add([SETS[0]], [7], pa.table({"price": [1]}))
    assert index.search([SETS[0]], 3)[0].ids.tolist() == [7]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda i: i.add([SETS[0]], ["a"]), "in the index already"),
        (lambda i: i.add([SETS[0], []], ["c", "d"]), "1 of 2 sets are empty"),
        (lambda i: i.add([np.ones((2, 5))], ["c"]), "6 values in every"),
        (lambda i: i.add([SETS[0]], ["c", "d"]), "2 vectors"),
        (lambda i: i.add([SETS[0]], [3]), "must be strings"),
        (lambda i: i.upsert([SETS[0]], ["a"], pa.table({"x": [1]})), "built without one"),
        (lambda i: i.delete(["a", "z"]), "the first is 'z'"),
        (lambda i: i.delete(["a", "a"]), "'a' comes again"),
    ],
)
def test_a_refused_update_changes_nothing(call, text):
    index = SetIndex(SETS[:2], ["a", "b"])
    with pytest.raises(DataError, match=text):
        call(index)
    assert index.ids.tolist() == ["a", "b"] == index.index.ids.tolist() and len(index.sets) == 2
    assert index.search([SETS[1]], 2).ids.tolist() == [
        "ab"[place] for place in true(SETS[1], {0, 1}, 2)[0]
    ]


def test_a_cutoff_by_likeness(tmp_path):
    """Relevant is a likeness above 4: kept is what the adapter says of the exact likeness."""
    index = SetIndex(SETS, range(200), prior=range(200))
    found = index.search(QUERIES, 60, exact=True)
    with pytest.raises(DataError, match="the index has no adapter"):
        index.search(QUERIES, 5, cutoff=0.5)
    which = np.repeat(np.arange(len(QUERIES)), 60)
    vectors = index.query_vectors(QUERIES)
    adapter = CosineAdapter(hidden=8)
    adapter.fit(vectors, which, found.scores, found.scores > 4, epochs=20)
    index.adapter = adapter
    again = SetIndex.load(index.save(tmp_path / "sets"))
    chances = adapter.probabilities(vectors, which, found.scores)
    cut = float(np.median(chances))
    for one in (index, again):
        whole = one.search([*QUERIES, []], 60, exact=True)
        np.testing.assert_allclose(whole.probabilities[:-60], chances, rtol=1e-5)
        assert np.isnan(whole.probabilities[-60:]).all()
        kept = one.search([*QUERIES, []], 60, exact=True, cutoff=cut, min_results=2)
        for number, hits in enumerate(kept):
            own = chances[which == number]
            most = 60 if number == len(QUERIES) else max(2, int((own >= cut).sum()))
            assert hits.ids.tolist() == whole[number].ids[:most].tolist()
    assert 0 < len(kept.ids) < len(whole.ids)
    with pytest.raises(DataError, match="`cutoff` must be a probability"):
        index.search(QUERIES, 5, cutoff=2)


def test_a_search_beside_updates_never_mixes_two_sets():
    """All sets of an item are its version's; scores of one list are of one version, or fewer."""
    ids = list(range(40))
    index = SetIndex([[[1.0, 0.0]]] * 40, ids)
    stop, wrong = threading.Event(), []

    def search():
        while not stop.is_set():
            hits = index.search([[[1.0, 0.0]]], 40, exclude=[5])[0]
            if len(set(hits.scores.tolist())) > 1 or 5 in hits.ids:
                wrong.append(hits)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for version in range(2, 30):
        index.upsert([[[float(version), 0.0]]] * 40, ids)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong and index.search([[[1.0, 0.0]]], 1).scores.tolist() == [29.0]


def test_saved_and_loaded(tmp_path):
    made = FixedEncodings(6, bits=2, repetitions=3, projected=4, seed=2)
    index = SetIndex(SETS, [f"set {n}" for n in range(200)], encodings=made, version="v1")
    again = SetIndex.load(index.save(tmp_path / "sets"), version="v1")
    one, two = index.search(QUERIES, 7), again.search(QUERIES, 7)
    assert one.ids.tolist() == two.ids.tolist() and one.scores.tobytes() == two.scores.tobytes()
    assert len(again) == 200
    with pytest.raises(CheckpointError, match="of model version 'v1', expected 'v2'"):
        SetIndex.load(tmp_path / "sets", version="v2")
    (tmp_path / "sets" / "offsets.npy").write_bytes(b"x" * 10)
    with pytest.raises(CheckpointError):
        SetIndex.load(tmp_path / "sets")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: SetIndex([SETS[0], []], [1, 2]), "1 of 2 sets are empty, the first is set 2"),
        (lambda: SetIndex(SETS[:2], [1]), "an id for every vector"),
        (lambda: SetIndex(SETS, range(200)).search([np.ones((1, 5))], 3), "6 values in every"),
        (lambda: SetIndex(SETS, range(200)).search([SETS[0] * np.nan], 3), "finite"),
        (lambda: SetIndex(SETS, range(200)).search(QUERIES, 7, candidates=5), "at least k = 7"),
        (lambda: SetIndex(SETS, range(200)).search(QUERIES, 7, version="v9"), "version 'v9'"),
    ],
)
def test_bad_input_is_named(call, text):
    with pytest.raises(DataError, match=text):
        call()
