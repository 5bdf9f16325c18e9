"""Batched solves against one dense solve a row."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from recsys.graph import least_squares
from recsys.graph.least_squares import ImplicitLeastSquares


def dense_solve(history, vectors, unobserved, penalty):
    """Normal equations in float64."""
    out = []
    shared = unobserved * vectors.T @ vectors
    for row, own in zip(history.astype(np.float64), penalty):
        left = shared + (vectors.T * row) @ vectors + own * np.eye(vectors.shape[1])
        out.append(np.linalg.solve(left, vectors.T @ row))
    return np.stack(out)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 20),
    items=st.integers(1, 30),
    dim=st.integers(1, 12),
    chunk=st.sampled_from([1, 200, 1 << 20]),
    seed=st.integers(0, 1000),
)
def test_equals_dense_solves(rows, items, dim, chunk, seed):
    """Histories shorter and longer than vectors are wide, empty ones, weighted ones."""
    rng = np.random.default_rng(seed)
    history = (rng.random((rows, items)) < rng.random((rows, 1))) * rng.integers(
        1, 4, (rows, items)
    )
    vectors, penalty = rng.standard_normal((items, dim)), rng.random(rows) + 0.1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(least_squares, "_CHUNK_FLOATS", chunk)
        problem = ImplicitLeastSquares(torch.from_numpy(vectors).float())
        own = torch.from_numpy(penalty).float()
        found = problem.solve(csr_array(history.astype(np.float32)), 0.3, own)
    wanted = dense_solve(history, vectors, 0.3, penalty)
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-4)
    assert (found.numpy()[history.sum(1) == 0] == 0).all()
