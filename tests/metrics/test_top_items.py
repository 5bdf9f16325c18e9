"""The best items against sorting everything, with ties, masked items and NaN."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.metrics import selection
from recsys.metrics import top_items as subject
from recsys.metrics.top_items import NO_ITEM, flat_positions, top_items


@pytest.fixture(autouse=True, params=["compiled", "torch"], scope="module")
def way(request):
    """Every test runs by both ways."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr(selection, "library", lambda: None)
        yield request.param


def naive(row: list[float], k: int) -> list[int]:
    order = sorted(range(len(row)), key=lambda item: (-row[item], item))
    kept = [item for item in order if row[item] != -math.inf][:k]
    return kept + [NO_ITEM] * (k - len(kept))


@given(
    st.lists(
        st.lists(st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 3.0]), min_size=7, max_size=7),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 7),
)
@settings(max_examples=200, deadline=None)
def test_equals_sorting_by_score_then_number(rows, k):
    values, items = top_items(torch.tensor(rows), k)
    assert items.tolist() == [naive(row, k) for row in rows]
    for row, scores, numbers in zip(rows, values.tolist(), items.tolist()):
        expected = [-math.inf if number == NO_ITEM else row[number] for number in numbers]
        assert scores == expected


@pytest.mark.parametrize("size", [4100, 4999, 5000, 6151])
@pytest.mark.parametrize("kind", ["distinct", "ties", "masked"])
def test_by_groups_equals_sorting(size, kind):
    generator = torch.Generator().manual_seed(size)
    scores = torch.randn(6, size, generator=generator)
    if kind == "ties":
        scores = (scores * 2).round()
    if kind == "masked":
        scores = scores.masked_fill(torch.rand(6, size, generator=generator) < 0.999, -torch.inf)
    values, items = top_items(scores, 9)
    assert items.tolist() == [naive(row, 9) for row in scores.tolist()]
    there = items != NO_ITEM
    assert torch.equal(values[there], scores.gather(1, items.clamp(min=0))[there])


def test_the_way_by_groups_is_taken(monkeypatch):
    """Otherwise the test above would test the simple way."""
    monkeypatch.setattr(selection, "library", lambda: None)
    scores = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0))
    expected = top_items(scores, 9)[1]
    called = []
    monkeypatch.setattr(torch.Tensor, "amax", lambda *a: called.append(a) or torch.amax(*a))
    assert torch.equal(top_items(scores, 9)[1], expected) and called


def test_best_item_in_the_incomplete_last_group():
    scores = torch.zeros(1, 5001)
    scores[0, 5000] = 5.0
    assert top_items(scores, 3)[1].tolist() == [[5000, 0, 1]]


@pytest.mark.parametrize("size", [50, 5000])
def test_nan_comes_first_so_that_it_is_seen(size):
    scores = torch.randn(2, size, generator=torch.Generator().manual_seed(0))
    scores[1, size // 2] = math.nan
    values, items = top_items(scores, 4)
    assert values[0].isfinite().all()
    assert values[1, 0].isnan() and items[1, 0] == size // 2


def test_scores_are_left_alone():
    scores = torch.ones(2, 5000)
    top_items(scores, 10)
    assert (scores == 1).all()


def test_bad_arguments():
    with pytest.raises(ValueError, match="from 1 to the 3 items, got 4"):
        top_items(torch.zeros(1, 3), 4)
    with pytest.raises(ValueError, match=r"a matrix of floats, \(users, items\), got \(3,\)"):
        top_items(torch.zeros(3), 1)
    with pytest.raises(ValueError, match=r"torch\.int64"):
        top_items(torch.zeros(1, 3, dtype=torch.int64), 1)


@given(st.lists(st.lists(st.integers(0, 4), unique=True, max_size=4), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_flat_positions_are_the_ones_of_the_chosen_rows(histories):
    lengths = torch.tensor([0, *map(len, histories)])
    items = torch.tensor([item for history in histories for item in history], dtype=torch.int64)
    users = list(range(len(histories)))[::-2]
    matrix = torch.zeros(len(users), 5)
    positions = flat_positions(torch.tensor(users), lengths.cumsum(0), items, 5)
    matrix.view(-1)[positions] = 1
    for row, user in enumerate(users):
        assert matrix[row].nonzero()[:, 0].tolist() == sorted(histories[user])
    assert subject.NO_ITEM == -1
