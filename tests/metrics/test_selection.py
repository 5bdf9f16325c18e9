"""The compiled choice of the largest against sorting keys; what holds by both ways is in
test_top_items.py."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.metrics import selection
from recsys.metrics.selection import fit, largest
from recsys.metrics.top_items import top_items


def by_sorting(scores, k):
    values, places = scores.sort(dim=1, descending=True, stable=True)
    return values[:, :k], places[:, :k].masked_fill(values[:, :k] == -torch.inf, -1)


def test_it_was_built():
    assert selection.library() is not None, "recsys.metrics._selection is not built: run `make`."


@given(
    st.integers(1, 700), st.integers(1, 700), st.sampled_from([3, 50, 10**6]), st.integers(0, 2**31)
)
@settings(max_examples=200, deadline=None)
def test_equals_a_stable_sort(size, k, kinds, seed):
    """Few kinds of scores tie often; many are chosen from, so the buffer is emptied often."""
    random = torch.Generator().manual_seed(seed)
    scores = torch.randint(-kinds, kinds, (2, size), generator=random) / 7
    scores[torch.rand(2, size, generator=random) < 0.1] = -torch.inf
    k = min(k, size)
    for found, expected in zip(largest(scores, k), by_sorting(scores, k)):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("order", ["rising", "falling", "organ pipes", "equal"])
@pytest.mark.parametrize("k", [1, 17, 3000, 20_000])
def test_orders_that_are_hard_to_split(order, k):
    scores = torch.arange(20_000.0)
    if order == "falling":
        scores = scores.flip(0)
    if order == "organ pipes":
        scores = torch.minimum(scores, scores.flip(0))
    if order == "equal":
        scores = torch.zeros(20_000)
    for found, expected in zip(largest(scores[None], k), by_sorting(scores[None], k)):
        assert torch.equal(found, expected)


def test_rows_apart_and_threads():
    wide = torch.randn(9, 70_000, generator=torch.Generator().manual_seed(0))
    part = wide[::2, 100:60_100]
    assert fit(part)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = largest(part, 30)
        torch.set_num_threads(3)
        assert torch.equal(largest(part, 30)[1], one[1])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one[1], by_sorting(part.contiguous(), 30)[1])


def test_zeros_of_both_signs_are_equal():
    assert largest(torch.tensor([[-0.0, 0.0, -1.0]]), 3)[1].tolist() == [[0, 1, 2]]


def test_infinity_and_nan():
    scores = torch.tensor([[1.0, torch.inf, torch.nan, -torch.inf, torch.nan]])
    values, places = largest(scores, 5)
    assert places.tolist() == [[2, 4, 1, 0, -1]]
    assert values[0, :2].isnan().all() and values[0, 2:].tolist() == [
        torch.inf, 1.0, -torch.inf,
    ]  # fmt: skip


def test_what_does_not_fit():
    scores = torch.randn(3, 4)
    assert fit(scores) and not fit(scores.T) and not fit(scores.double())
    assert not fit(scores.clone().requires_grad_())
    assert top_items(scores.double(), 2)[0].dtype == torch.float64


def test_without_a_build_the_reason_is_logged(monkeypatch, caplog):
    selection.library.cache_clear()
    monkeypatch.setattr(selection, "_ABI", -1)
    try:
        with caplog.at_level(logging.WARNING):
            assert not fit(torch.ones(1, 1))
        assert "another version" in caplog.text and "chosen by torch" in caplog.text
    finally:
        selection.library.cache_clear()
