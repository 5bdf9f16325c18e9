import math

import numpy as np
import pytest

from recsys.errors import DataError
from recsys.retrieval.fidelity import fidelity
from recsys.retrieval.index import Index
from recsys.retrieval.scalar_codes import ScalarCodes
from recsys.retrieval.sign_codes import SignCodes

RANDOM = np.random.default_rng(0)
VECTORS, QUERIES = RANDOM.normal(size=(2000, 16)), RANDOM.normal(size=(30, 16))


def test_an_exact_index_loses_nothing():
    best = np.argsort(-(QUERIES @ VECTORS.T), axis=1)[:, :3]
    index = Index(VECTORS, range(2000))
    found = fidelity(index, QUERIES, 10, relevant=[*best[:-1], []], timed=3)
    assert (found.name, found.row_bytes) == ("float32", 64)
    assert found.overlap == found.coarse_overlap == found.candidates == 1.0
    assert found.recall == found.exact_recall == 1.0 and found.lost == 0.0
    assert 0 < found.p50_ms <= found.p99_ms
    assert math.isnan(fidelity(index, QUERIES, 10, timed=1).recall)


def test_numbers_are_those_of_plain_loops():
    index = Index(VECTORS, range(2000), codes=SignCodes(1), rescore=3)
    relevant = [np.flatnonzero(VECTORS @ query > 9.0).tolist() for query in QUERIES]
    found = fidelity(index, QUERIES, 10, relevant=relevant, timed=2)
    order = np.argsort(-(QUERIES @ VECTORS.T), axis=1)
    coarse = [hits.ids.tolist() for hits in index.search(QUERIES, 30, rescore=0)]
    true = [set(row[:10].tolist()) for row in order]
    assert found.candidates == pytest.approx(
        np.mean([len(t & set(c)) / 10 for t, c in zip(true, coarse)])
    )
    assert found.overlap == pytest.approx(found.candidates)  # rescoring finds all there is
    assert found.coarse_overlap == pytest.approx(
        np.mean([len(t & set(c[:10])) / 10 for t, c in zip(true, coarse)])
    )
    shares = [len(t & set(r)) / len(r) for t, r in zip(true, relevant) if r]
    assert found.exact_recall == pytest.approx(np.mean(shares))
    first = [set(c[:10]) for c in coarse]
    shares = [len(f & set(r)) / len(r) for f, r in zip(first, relevant) if r]
    assert found.coarse_recall == pytest.approx(np.mean(shares))
    assert found.coarse_overlap < found.candidates < 1.0
    assert found.lost == found.exact_recall - found.recall


def test_more_bits_keep_more():
    kept = [
        fidelity(Index(VECTORS, range(2000), codes=codes), QUERIES, 20, timed=1).coarse_overlap
        for codes in (SignCodes(1), ScalarCodes(4), ScalarCodes(8))
    ]
    assert kept == sorted(kept) and kept[0] + 0.1 < kept[2]


def test_bad_input_is_named():
    index = Index(VECTORS, range(2000))
    with pytest.raises(DataError, match="no queries"):
        fidelity(index, np.zeros((0, 16)))
    with pytest.raises(DataError, match="relevant ids for 30 queries, got 1"):
        fidelity(index, QUERIES, relevant=[[1]])
