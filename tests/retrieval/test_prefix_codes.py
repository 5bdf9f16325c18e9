"""Search by a prefix, order by the whole."""

import numpy as np
import pytest
import torch

from recsys.retrieval.index import Index
from recsys.retrieval.prefix_codes import PrefixCodes

RANDOM = np.random.default_rng(0)
WIDTH = np.linspace(1.5, 0.1, 16)
VECTORS = (RANDOM.normal(size=(2000, 16)) * WIDTH).astype(np.float32)
QUERIES = (RANDOM.normal(size=(20, 16)) * WIDTH).astype(np.float32)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("bits", [32, 16])
def test_the_list_is_the_whole_order_of_the_best_by_the_prefix(bits, normalize):
    index = Index(VECTORS, range(2000), codes=PrefixCodes(6, bits, normalize), rescore=4)
    assert index.row_bytes == 6 * bits // 8
    found = index.search(QUERIES, 10)
    prefixes = VECTORS[:, :6].astype(np.float64)
    if normalize:
        lengths = np.linalg.norm(VECTORS, axis=1) / np.linalg.norm(prefixes, axis=1)
        prefixes = prefixes * lengths[:, None]
    for hits, query in zip(found, QUERIES):
        pool = np.argsort(-(prefixes @ query[:6]), kind="stable")[:40]
        best = pool[np.argsort(-(VECTORS[pool] @ query), kind="stable")][:10]
        assert len(set(hits.ids.tolist()) & set(best.tolist())) >= (10 if bits == 32 else 9)
        np.testing.assert_allclose(hits.scores, VECTORS[hits.ids] @ query, rtol=1e-5)


def test_longer_prefixes_keep_more_and_the_whole_keeps_all():
    true = Index(VECTORS, range(2000)).search(QUERIES, 10)
    kept = []
    for dims in (2, 6, 12, 16):
        found = Index(VECTORS, range(2000), codes=PrefixCodes(dims)).search(QUERIES, 10, rescore=0)
        kept.append(np.mean([len(set(a.ids) & set(b.ids)) / 10 for a, b in zip(found, true)]))
    assert kept == sorted(kept) and kept[-1] == 1.0 and kept[0] < 0.5


def test_a_query_that_the_prefix_does_not_see_is_searched_exactly():
    blind = QUERIES.copy()
    blind[::2, :6] = 0.0
    index = Index(VECTORS, range(2000), codes=PrefixCodes(6), rescore=2)
    found, true = index.search(blind, 10), index.search(blind, 10, exact=True)
    assert [a.ids.tolist() for a in found][::2] == [a.ids.tolist() for a in true][::2]
    assert found.ids.tolist() != true.ids.tolist()


def test_later_items_may_be_longer_than_any_before():
    codes = PrefixCodes(4, bits=16).fitted(torch.from_numpy(VECTORS))
    long = torch.from_numpy(VECTORS[:1]) * 1e9
    assert bool(codes.decode(codes.encode(long)).isfinite().all())
