"""An index of sets against the likeness of all pairs."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from recsys.errors import CheckpointError, DataError
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
