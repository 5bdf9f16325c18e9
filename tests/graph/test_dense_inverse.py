"""The inverse in place against numpy's, over several blocks."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from recsys.errors import ConfigError
from recsys.graph import dense_inverse
from recsys.graph.dense_inverse import gram_matrix, inverse_error, invert_in_place


def pairs():
    return csr_array((np.random.default_rng(0).random((50, 33)) < 0.3).astype(np.float32))


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("float64", 1e-14)])
def test_inverse_of_the_gram_matrix(dtype, error, monkeypatch):
    monkeypatch.setattr(dense_inverse, "_ROWS", 10)
    matrix = gram_matrix(pairs(), 2.5, dtype)
    whole = pairs().toarray().astype(np.float64)
    wanted = whole.T @ whole + 2.5 * np.eye(33)
    assert matrix.dtype == dtype
    np.testing.assert_array_equal(matrix, wanted)
    invert_in_place(matrix)
    np.testing.assert_allclose(matrix, np.linalg.inv(wanted), atol=error)
    assert (matrix == matrix.T).all()
    assert inverse_error(pairs(), 2.5, matrix) < 10 * error
    assert inverse_error(pairs(), 2.5, 1.5 * matrix) == pytest.approx(0.5, abs=1e-4)


def test_a_matrix_that_has_no_inverse_in_this_precision():
    matrix = np.array([[1.0, 1.0], [1.0, 1.0]], np.float32)
    with pytest.raises(ConfigError, match=r"not positive definite in float32.*Raise `l2`"):
        invert_in_place(matrix)
