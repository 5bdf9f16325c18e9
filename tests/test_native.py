"""Compiled libraries are found and checked, and work is split without gaps."""

import importlib.util
import logging
from types import SimpleNamespace

import pytest
import torch

from recsys import native

LOGGER = logging.getLogger("recsys.tests.native")


def test_one_that_was_built_is_loaded():
    assert native.load("recsys.graph._spmm", 3, LOGGER, "slower") is not None


def test_why_there_is_none_is_told(monkeypatch, caplog, tmp_path):
    with caplog.at_level(logging.WARNING):
        assert native.load("recsys.graph._spmm", -5, LOGGER, "propagation is slow") is None
        assert native.load("recsys.graph._no_such", 3, LOGGER, "propagation is slow") is None
        broken = tmp_path / "broken.so"
        broken.write_text("not a library")
        found = SimpleNamespace(origin=str(broken))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
        assert native.load("recsys.graph._spmm", 3, LOGGER, "propagation is slow") is None
    told = [record.getMessage() for record in caplog.records]
    assert all(text.startswith("propagation is slow: ") for text in told)
    ends = ("expected -5); reinstall", "was not built (no C compiler at install?)", "broken.so: ")
    assert all(end in text for end, text in zip(ends, told, strict=True))


@pytest.mark.parametrize("rows", [0, 1, 2, 7])
@pytest.mark.parametrize("values", [10, native.WORTH_A_THREAD])
def test_every_row_is_worked_on_once(rows, values):
    before, parts = torch.get_num_threads(), []
    try:
        torch.set_num_threads(3)
        native.by_rows(parts.append, rows, values)
    finally:
        torch.set_num_threads(before)
    assert sorted(row for part in parts for row in range(*part)) == list(range(rows))
    assert len(parts) == (1 if values == 10 else max(1, min(rows, 3)))


def test_what_fails_on_a_thread_is_raised():
    def work(part):
        if part == 0:
            raise ValueError("the first part")

    with pytest.raises(ValueError, match="the first part"):
        native.spread(work, [0, 1, 2])
