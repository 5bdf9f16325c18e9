"""Finding the compiled kernels, and what happens without them."""

from __future__ import annotations

import importlib.util
import logging
from types import SimpleNamespace

import pytest
import torch

from recsys.embeddings import kernels


@pytest.fixture(autouse=True)
def fresh():
    kernels.library.cache_clear()
    yield
    kernels.library.cache_clear()


def test_a_missing_library_is_reported_once(monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING, logger="recsys.embeddings.kernels"):
        assert kernels.library() is None and kernels.library() is None
    assert len(caplog.records) == 1
    assert "was not built" in caplog.text and "plain torch operations" in caplog.text


def test_a_broken_library_is_reported(monkeypatch, caplog, tmp_path):
    broken = tmp_path / "_kernels.so"
    broken.write_text("not a library")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(broken))
    )
    assert kernels.library() is None
    assert "cannot be used" in caplog.text


def test_a_library_of_another_version_is_refused(monkeypatch, caplog):
    if kernels.library() is None:
        pytest.skip("kernels were not built")
    kernels.library.cache_clear()
    monkeypatch.setattr(kernels, "_ABI", 99)
    assert kernels.library() is None
    assert "of another version (3, expected 99)" in caplog.text


def test_out_of_range_finds_the_first_place():
    if kernels.library() is None:
        pytest.skip("kernels were not built")
    values = torch.tensor([1, 2, 5, 4, 0], dtype=torch.int32)
    assert kernels.out_of_range(values, (2, 0, 3), (3, 1, 6)) == -1
    assert kernels.out_of_range(values, (2, 0, 3), (3, 1, 5)) == 2
    assert kernels.out_of_range(values, (2, 0, 3), (2, 1, 5)) == 1
    assert kernels.out_of_range(-values, (2, 0, 3), (2, 1, 2**40)) == 0
    assert kernels.out_of_range(values, (5,), (2**40,)) == -1
