"""Coordinate descent: conditions of the optimum, scikit-learn, and blocks."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from recsys.errors import DataError
from recsys.graph import elastic_net
from recsys.graph.elastic_net import item_regressions


def pairs(weighted=False, seed=0) -> csr_array:
    rng = np.random.default_rng(seed)
    dense = (rng.random((60, 90)) < 0.15) * 1.0
    if weighted:
        dense *= rng.integers(1, 6, dense.shape)
    dense[:, 4] = 0
    return csr_array(dense.astype(np.float32))


def solve(matrix, l1=0.4, l2=2.0, candidates=None, tolerance=1e-6, said=None):
    say = (said if said is not None else []).append
    return item_regressions(matrix, l1, l2, candidates, tolerance, 1000, say).toarray()


@pytest.mark.parametrize("weighted", [False, True])
def test_conditions_of_the_optimum(weighted):
    """Slope 0 where a weight is positive, not negative where it is 0."""
    matrix = pairs(weighted)
    found = solve(matrix)
    gram = (matrix.T @ matrix).toarray()
    slope = gram @ found - gram + 0.4 + 2.0 * found
    off = ~np.eye(90, dtype=bool)
    assert (found >= 0).all() and (found[~off] == 0).all() and (found > 0).sum() > 300
    assert np.abs(slope[off & (found > 0)]).max() < 1e-3
    assert slope[off & (found == 0)].min() > -1e-3


def test_equals_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    matrix = pairs()
    dense, found = matrix.toarray().astype(np.float64), solve(matrix)
    total = (0.4 + 2.0) / 60
    for item in (0, 4, 17, 89):
        net = linear.ElasticNet(
            alpha=total, l1_ratio=0.4 / 2.4, positive=True, fit_intercept=False, tol=1e-10,
            max_iter=100_000,
        )  # fmt: skip
        others = dense.copy()
        others[:, item] = 0
        np.testing.assert_allclose(found[:, item], net.fit(others, dense[:, item]).coef_, atol=1e-5)


def test_blocks_change_nothing_and_progress_is_said(monkeypatch):
    whole = solve(pairs())
    monkeypatch.setattr(elastic_net, "_BLOCK_FLOATS", 1)  # 64 items a block, the least
    said = []
    np.testing.assert_allclose(solve(pairs(), said=said), whole, atol=1e-6)
    assert [line.split(",")[0] for line in said] == [
        "nets of 64 of 90 items",
        "nets of 90 of 90 items",
    ]


def test_too_few_sweeps_are_said():
    said = []
    item_regressions(pairs(), 0.4, 2.0, None, 1e-9, 1, said.append)
    assert "1 sweeps, still changing by" in said[-1]


def test_candidates_are_those_with_the_largest_cosine():
    matrix = pairs()
    found = solve(matrix, l1=0, candidates=3)
    gram = (matrix.T @ matrix).toarray()
    length = np.sqrt(gram.diagonal().clip(1e-9))
    cosine = gram / length[:, None] / length
    np.fill_diagonal(cosine, 0)
    for item in range(90):
        used = np.flatnonzero(found[:, item])
        assert len(used) <= 3
        assert (cosine[used, item] >= np.sort(cosine[:, item])[-3] - 1e-6).all()


def test_negative_weights_are_refused():
    with pytest.raises(DataError, match="weights of pairs from 0"):
        solve(csr_array(-pairs()))
