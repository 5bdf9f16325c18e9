"""Ranking metrics against a plain computation, one user and one rank at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.metrics import ranking
from recsys.metrics.ranking import RANKING_METRICS, find_hits, user_ranking_metrics

USERS = st.lists(
    st.tuples(
        st.permutations(range(8)).map(lambda order: list(order)[:5]),
        st.sets(st.integers(0, 7), min_size=1),
    ),
    min_size=1,
    max_size=6,
)


def naive(ranked: list[int], relevant: set[int], k: int) -> dict[str, float]:
    """As one would write it down for a single user."""
    hits = [item in relevant for item in ranked[:k]]
    ranks = [rank for rank, hit in enumerate(hits, 1) if hit]
    best = min(k, len(relevant))
    precision_at = [sum(hits[:rank]) / rank for rank in ranks]
    return {
        "recall": len(ranks) / len(relevant),
        "precision": len(ranks) / k,
        "hr": 1.0 if ranks else 0.0,
        "mrr": 1 / ranks[0] if ranks else 0.0,
        "map": sum(precision_at) / best,
        "ndcg": sum(1 / math.log2(rank + 1) for rank in ranks)
        / sum(1 / math.log2(rank + 1) for rank in range(1, best + 1)),
    }


def hits_of(users):
    lists = torch.tensor([ranked for ranked, _ in users])
    keys = torch.tensor(sorted(u * 8 + i for u, (_, items) in enumerate(users) for i in items))
    return find_hits(lists, torch.arange(len(users)), keys, 8)


@given(USERS)
@settings(max_examples=200, deadline=None)
def test_equals_the_plain_computation(users):
    counts = torch.tensor([len(relevant) for _, relevant in users])
    found = user_ranking_metrics(hits_of(users), counts, [1, 3, 5])
    for k in (1, 3, 5):
        for row, (ranked, relevant) in enumerate(users):
            for name, value in naive(ranked, relevant, k).items():
                assert found[f"{name}@{k}"][row].item() == pytest.approx(value, abs=1e-12)
    assert {name.split("@")[0] for name in found} == set(RANKING_METRICS)


def test_by_hand():
    """Hits at ranks 2 and 3 of 4 relevant: AP = (1/2 + 2/3) / 3; DCG = 1 / log2 3 + 1/2."""
    found = user_ranking_metrics(torch.tensor([[False, True, True, False]]), torch.tensor([4]), [3])
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    expected = {
        "recall@3": 0.5,
        "ndcg@3": (1 / math.log2(3) + 1 / 2) / ideal,
        "hr@3": 1.0,
        "mrr@3": 0.5,
        "map@3": (1 / 2 + 2 / 3) / 3,
        "precision@3": 2 / 3,
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected)


def test_ndcg_is_not_measured_against_what_was_retrieved():
    """One hit at rank 1 of two relevant: 1 / (1 + 1 / log2 3), not 1 as in NGCF's code."""
    found = user_ranking_metrics(torch.tensor([[True, False]]), torch.tensor([2]), [2])
    assert found["ndcg@2"].item() == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_a_perfect_list_scores_one_even_if_it_is_shorter_than_the_relevant():
    found = user_ranking_metrics(torch.ones(1, 2, dtype=torch.bool), torch.tensor([9]), [2])
    assert found["ndcg@2"].item() == pytest.approx(1.0)
    assert found["map@2"].item() == pytest.approx(1.0)
    assert found["recall@2"].item() == pytest.approx(2 / 9)


def test_users_in_parts_give_the_same(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    hits = torch.rand(11, 4, generator=generator) < 0.3
    counts = torch.randint(4, 9, (11,), generator=generator)
    whole = user_ranking_metrics(hits, counts, [2, 4])
    monkeypatch.setattr(ranking, "_USERS_AT_A_TIME", 3)
    parts = user_ranking_metrics(hits, counts, [2, 4])
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_an_ended_list_hits_nothing():
    """-1 of user 1 must not look like the last item of user 0."""
    hits = find_hits(torch.tensor([[0], [-1]]), torch.tensor([0, 1]), torch.tensor([3]), 4)
    assert not hits.any()
    assert not find_hits(torch.tensor([[0]]), torch.tensor([0]), torch.tensor([]), 4).any()


def test_bad_arguments():
    hits = torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(DataError, match="1 users have no relevant item"):
        user_ranking_metrics(hits, torch.tensor([1, 0]), [3])
    with pytest.raises(ValueError, match=r"from 1 to the 3 ranks, got \[4\]"):
        user_ranking_metrics(hits, torch.tensor([1, 1]), [4])
    with pytest.raises(ValueError, match=r"one count a user, got \(2, 3\) and \(3,\)"):
        user_ranking_metrics(hits, torch.tensor([1, 1, 1]), [3])
