"""Buffers whose shapes come with what is loaded."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from recsys.errors import DataError, TrainingError
from recsys.graph.fitted_buffers import (
    FittedBuffers,
    buffers_of,
    check_history,
    check_weights,
    csr_of,
)


class Two(FittedBuffers):
    def __init__(self):
        super().__init__()
        self.add_buffers(a=torch.float32, b=torch.int32)


def test_buffers_take_shape_and_dtype_of_what_is_loaded():
    fitted, fresh = Two(), Two()
    fitted.a, fitted.b = torch.ones(2, 3), torch.arange(4)
    fresh.load_state_dict(fitted.state_dict())
    assert torch.equal(fresh.a, fitted.a)
    assert torch.equal(fresh.b, fitted.b) and fresh.b.dtype == torch.int64
    again = Two()
    again.a, again.b = torch.zeros(7), torch.zeros(9)  # of another fit
    again.load_state_dict(fitted.state_dict())
    assert torch.equal(again.a, fitted.a)


def test_a_sparse_matrix_goes_through_buffers():
    matrix = csr_array(np.array([[0, 2, 0], [0, 0, 0], [1, 0, 3]], np.float32))
    parts = buffers_of(matrix)
    assert [p.tolist() for p in parts] == [[0, 1, 1, 3], [1, 0, 2], [2, 1, 3]]
    assert (csr_of(*parts, 3) != matrix).nnz == 0


def test_what_was_not_fitted_says_so():
    with pytest.raises(TrainingError, match=r"only built.*Call `fit`, or load"):
        Two().require(False)


def test_errors():
    with pytest.raises(DataError, match="expected a history with 4 columns, one an item, got 3"):
        check_history(csr_array((1, 3)), 4)
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(DataError, match=f"weights of pairs from 0, got {wrong}"):
            check_weights(csr_array(np.array([[1.0, wrong]])))
