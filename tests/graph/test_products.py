"""Sparse products against dense ones."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array, random_array

from recsys.graph import products, spmm
from recsys.graph.products import scaled, sparse_dense, sparse_sparse, sums, transposed


def some(shape, seed=0, density=0.3):
    return csr_array(random_array(shape, density=density, rng=seed, dtype=np.float32))


@pytest.mark.parametrize("compiled", [True, False])
def test_sparse_dense(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(spmm, "library", lambda: None)
    matrix, rows = some((7, 5)), torch.randn(5, 35, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(
        sparse_dense(matrix, rows).numpy(), matrix.toarray() @ rows.numpy(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("worth", [0, 10**9])
@pytest.mark.parametrize("positions", [np.int32, np.int64])
def test_both_ways_of_sparse_sparse(worth, positions, monkeypatch):
    monkeypatch.setattr(products, "_WORTH_A_CALL", worth)
    history, weights = some((6, 9), 1), some((9, 4), 2)
    history = csr_array(
        (history.data, history.indices.astype(positions), history.indptr.astype(positions)), (6, 9)
    )
    history[[2]] = 0  # somebody without a history
    found = sparse_sparse(history, weights)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, history.toarray() @ weights.toarray(), rtol=1e-5)


def test_small_ones():
    matrix = some((4, 6), 3)
    assert (transposed(matrix).toarray() == matrix.toarray().T).all()
    rows, columns = np.arange(4.0), np.arange(6.0)
    wanted = rows[:, None] * matrix.toarray() * columns
    np.testing.assert_allclose(scaled(matrix, rows, columns).toarray(), wanted, rtol=1e-6)
    np.testing.assert_allclose(sums(matrix, 1), matrix.toarray().sum(1), rtol=1e-6)
