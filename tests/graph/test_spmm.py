"""The compiled product against scipy to the bit, and what happens without it."""

import importlib.util
import logging

import numpy as np
import pytest
import torch
from scipy.sparse import random_array

from recsys.graph import spmm


@pytest.mark.parametrize("dim", [1, 15, 16, 17, 48, 64, 127, 128, 256, 300])
def test_sums_have_the_order_of_the_edges(dim):
    rng = np.random.default_rng(dim)
    matrix = random_array((50, 40), density=0.2, rng=rng, format="csr", dtype=np.float32)
    x = torch.from_numpy(rng.standard_normal((40, dim)).astype(np.float32))
    parts = torch.from_numpy(matrix.indptr).long(), torch.from_numpy(matrix.indices).int()
    found = spmm.product(*parts, torch.from_numpy(matrix.data), x)
    assert np.array_equal(found.numpy(), matrix @ x.numpy())


def test_a_strided_input_is_read_as_it_is():
    indptr, col = torch.tensor([0, 2]), torch.tensor([1, 0], dtype=torch.int32)
    x = torch.arange(6.0).view(3, 2).T
    found = spmm.product(indptr, col, torch.tensor([10.0, 1.0]), x)
    assert found.tolist() == [[10, 32, 54]]
    dots = spmm.edge_dots(indptr, col, torch.tensor([[1.0, 2.0, 3.0]]), x)
    assert dots.tolist() == [22, 16]


def test_without_a_build_the_reason_is_logged(monkeypatch, caplog):
    spmm.library.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    try:
        with caplog.at_level(logging.WARNING):
            assert spmm.library() is None
            assert not spmm.fit(torch.ones(1))
        assert "was not built" in caplog.text
    finally:
        spmm.library.cache_clear()


def test_kernels_of_another_version_are_not_used(monkeypatch, caplog):
    spmm.library.cache_clear()
    monkeypatch.setattr(spmm, "_ABI", -1)
    try:
        with caplog.at_level(logging.WARNING):
            assert spmm.library() is None
        assert "another version" in caplog.text
    finally:
        spmm.library.cache_clear()
