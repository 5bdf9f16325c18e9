"""Full ranking against a plain computation for one user after the other."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recsys.cf import EmbeddingModel
from recsys.errors import ConfigError, DataError, TrainingError
from recsys.evaluate.ranking import RankingOptions, SampledMetricsWarning, evaluate_ranking
from recsys.graph.interaction_graph import InteractionGraph
from recsys.train.launch import launch
from tests.evaluate.fixed_scores import FixedScores, example, interactions, on_a_rank

QUICK = {"bootstrap_samples": 0, "slice_groups": 0}


def naive(row, seen, relevant, k, candidates=None):
    """Sorts all items of a user, then counts."""
    allowed = range(len(row)) if candidates is None else sorted(candidates)
    order = sorted((i for i in allowed if i not in seen), key=lambda i: (-row[i], i))[:k]
    hits = [item in relevant for item in order]
    ranks = [rank for rank, hit in enumerate(hits, 1) if hit]
    best = min(k, len(relevant))
    metrics = {
        "recall": len(ranks) / len(relevant),
        "precision": len(ranks) / k,
        "hr": float(bool(ranks)),
        "mrr": 1 / ranks[0] if ranks else 0.0,
        "map": sum(sum(hits[:rank]) / rank for rank in ranks) / best,
        "ndcg": sum(1 / math.log2(rank + 1) for rank in ranks)
        / sum(1 / math.log2(rank + 1) for rank in range(1, best + 1)),
    }
    return order, metrics


def by_user(pairs):
    found = {}
    for user, item in zip(pairs.user.tolist(), pairs.item.tolist()):
        found.setdefault(user, set()).add(item)
    return found


def check(model, seen, relevant, options):
    """Lists and metrics of every user, and their means."""
    found = evaluate_ranking(model, seen, relevant, options)
    known, wanted = by_user(seen), by_user(relevant)
    candidates = None
    if options.candidates is not None:
        candidates = set(options.candidates)
        wanted = {u: items & candidates for u, items in wanted.items() if items & candidates}
    assert found.users.tolist() == sorted(wanted)
    longest = max(options.ks)
    expected = {}
    for row, user in enumerate(found.users.tolist()):
        hidden = known.get(user, set()) if options.mask_seen else set()
        scores = model.matrix[user].tolist()
        for k in options.ks:
            order, metrics = naive(scores, hidden, wanted[user], k, candidates)
            for name, value in metrics.items():
                assert found.per_user.values[f"{name}@{k}"][row] == pytest.approx(value, abs=1e-12)
                expected.setdefault(f"{name}@{k}", []).append(value)
            if k == longest:
                assert found.lists[row].tolist() == order + [-1] * (k - len(order))
    for name, values in expected.items():
        assert found.metrics[name] == pytest.approx(np.mean(values), abs=1e-12)
    return found


@given(st.data(), st.integers(1, 5), st.integers(2, 9), st.booleans(), st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_equals_the_plain_computation(data, num_users, num_items, mask, block):
    kinds = st.lists(st.integers(0, 2), min_size=num_items, max_size=num_items)
    kind = np.array([data.draw(kinds) for _ in range(num_users)])
    assume((kind == 1).any() and (kind == 2).any())
    scores = st.lists(
        st.sampled_from([-1.0, 0.0, 0.25, 2.0]), min_size=num_items, max_size=num_items
    )
    matrix = torch.tensor([data.draw(scores) for _ in range(num_users)])
    seen = interactions(zip(*np.nonzero(kind == 1)), num_users, num_items)
    relevant = interactions(zip(*np.nonzero(kind == 2)), num_users, num_items)
    model = FixedScores(InteractionGraph.of(seen), matrix)
    ks = (1, num_items)
    check(model, seen, relevant, RankingOptions(ks, mask, users_per_block=block, **QUICK))


def test_a_larger_example_and_what_is_counted():
    model, seen, relevant = example()
    found = check(model, seen, relevant, RankingOptions((10, 3), bootstrap_samples=50))
    assert found.counts["users"] == len(set(relevant.user.tolist())) == 22
    assert found.counts["users_without_relevant"] == 1
    assert found.counts["pairs"] == len(relevant)
    assert found.per_user.users[0] == "u0" and found.per_user.users[-1] == "u22"
    for name, interval in found.intervals.items():
        assert interval.low <= found.metrics[name] <= interval.high
    recommended = {item for row in found.lists[:, :3].tolist() for item in row}
    assert found.metrics["coverage@3"] == len(recommended) / 40
    degrees = seen.item_degrees()
    expected = np.mean([np.log2(23 / degrees[row]).mean() for row in found.lists])
    assert found.metrics["novelty@10"] == pytest.approx(expected)
    assert found.metrics["popularity@10"] == pytest.approx(degrees[found.lists].mean())


def test_candidates_are_the_only_items_and_the_only_relevant_ones():
    model, seen, relevant = example()
    chosen = np.array([31, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29])
    found = check(model, seen, relevant, RankingOptions((4,), candidates=chosen, **QUICK))
    outside = int((~np.isin(relevant.item, chosen)).sum())
    assert outside and found.counts["pairs_not_candidates"] == outside
    recommended = {item for row in found.lists.tolist() for item in row} - {-1}
    assert found.metrics["coverage@4"] == len(recommended) / 11


def test_blocks_do_not_matter_and_the_model_is_left_as_it_was():
    model, seen, relevant = example()
    before = model.matrix.clone()
    model.train()
    whole = evaluate_ranking(model, seen, relevant, RankingOptions((5,), **QUICK))
    assert model.training and not any(model.modes)
    parts = evaluate_ranking(
        model, seen, relevant, RankingOptions((5,), users_per_block=2, **QUICK)
    )
    assert (whole.lists == parts.lists).all() and whole.metrics == parts.metrics
    assert torch.equal(model.matrix, before)


def test_scores_that_are_the_models_own_memory_stay_as_they_are():
    """A model of popularity may return its buffer; masking must not write into it."""
    model, seen, relevant = example()

    def scores(users):
        return model.matrix[int(users[0])][None].expand(len(users), -1)

    model.scores = scores
    before = model.matrix.clone()
    evaluate_ranking(model, seen, relevant, RankingOptions((5,), users_per_block=1, **QUICK))
    assert torch.equal(model.matrix, before)


class Counting(EmbeddingModel):
    """Counts how often all vectors are computed."""

    class Config(EmbeddingModel.Config):
        """No options."""

    encoded = 0

    def encode(self):
        self.encoded += 1
        return super().encode()

    def loss(self, batch):
        raise AssertionError("not trained here")


def test_vectors_are_computed_once_for_all_blocks():
    _, seen, relevant = example()
    torch.manual_seed(0)
    model = Counting(Counting.Config(embedding_dim=4), InteractionGraph.of(seen))
    options = RankingOptions((5,), users_per_block=2, **QUICK)
    found = evaluate_ranking(model, seen, relevant, options)
    assert model.encoded == 1 and model.training
    model.eval()
    assert evaluate_ranking(model, seen, relevant, options).metrics == found.metrics
    assert evaluate_ranking(model, seen, relevant, options).metrics == found.metrics
    assert model.encoded == 2, "vectors of a model in evaluation mode are kept"


def test_slices_by_hand():
    """User 0 has 1 training item and finds its popular item, user 1 has 2 and finds nothing."""
    seen = interactions([(0, 0), (1, 0), (1, 1), (2, 2), (2, 0)], 4, 5)
    relevant = interactions([(0, 1), (0, 3), (1, 4), (3, 0)], 4, 5)
    matrix = torch.tensor([[9.0, 8, 1, 0, 0], [9, 9, 8, 7, 0], [1, 1, 1, 1, 1], [5, 0, 0, 0, 0]])
    model = FixedScores(InteractionGraph.of(seen), matrix)
    options = RankingOptions((1,), slice_groups=1, cold_below=2, bootstrap_samples=0)
    found = evaluate_ranking(model, seen, relevant, options)
    users, items = found.slices.values()
    shown = [(row.value, row.users, row.pairs, row.metrics["recall@1"]) for row in users]
    assert shown == [("new (0)", 1, 1, 1.0), ("cold (1)", 1, 2, 0.5), ("2 or more", 1, 1, 0.0)]
    # Items 3 and 4 are new (of users 0 and 1), item 1 is cold, item 0 has three users.
    shown = [(row.value, row.users, row.pairs, row.metrics["recall@1"]) for row in items]
    assert shown == [("new (0)", 2, 2, 0.0), ("cold (1)", 1, 1, 1.0), ("2 or more", 1, 1, 1.0)]
    assert "3 users (1 without relevant items), all items, seen items left out" in found.table()
    assert "cold (1)" in found.table()
    assert json.dumps(found.to_json())


def test_sampled_metrics_warn_and_rank_only_the_sample():
    model, seen, relevant = example()
    options = RankingOptions((6,), sampled_negatives=5, **QUICK)
    with pytest.warns(SampledMetricsWarning, match="ranked among 5 sampled ones"):
        found = evaluate_ranking(model, seen, relevant, options)
    known, wanted = by_user(seen), by_user(relevant)
    for user, row in zip(found.users.tolist(), found.lists.tolist()):
        items = [item for item in row if item >= 0]
        assert not set(items) & known.get(user, set())
        assert len(set(items) - wanted[user]) <= 5
        assert len(items) == min(6, 5 + len(wanted[user]))
    assert found.per_user.protocol == "5 sampled negatives, seed 0"
    with pytest.warns(SampledMetricsWarning):
        again = evaluate_ranking(
            model, seen, relevant,
            RankingOptions((6,), sampled_negatives=5, users_per_block=3, **QUICK),
        )  # fmt: skip
    assert (again.lists == found.lists).all(), "the draw must not depend on blocks"


def test_a_sample_of_all_is_the_full_ranking():
    model, seen, relevant = example()
    full = evaluate_ranking(model, seen, relevant, RankingOptions((6,), **QUICK))
    with pytest.warns(SampledMetricsWarning):
        sampled = evaluate_ranking(
            model, seen, relevant, RankingOptions((6,), sampled_negatives=1000, **QUICK)
        )
    assert (full.lists == sampled.lists).all()


def test_nan_names_the_user():
    model, seen, relevant = example()
    model.matrix[9, 39] = math.nan
    with pytest.raises(TrainingError, match="scores of user number 9 are NaN"):
        evaluate_ranking(model, seen, relevant)


def test_interactions_that_do_not_fit():
    model, seen, relevant = example()
    options = RankingOptions((3,), **QUICK)
    with pytest.raises(DataError, match="have different items: 41 and 40"):
        evaluate_ranking(model, interactions([(0, 0)], 23, 41), relevant, options)
    other = interactions([(0, 1)], 24, 40)
    with pytest.raises(DataError, match=r"the model knows 23 users and 40 items, the inter.*24"):
        evaluate_ranking(model, other, other, options)
    with pytest.raises(DataError, match=r"relevant pairs are also seen ones.*mask_seen=False"):
        evaluate_ranking(model, seen, seen, options)
    evaluate_ranking(model, seen, seen, RankingOptions((3,), mask_seen=False, **QUICK))
    with pytest.raises(DataError, match="no user has a relevant item"):
        evaluate_ranking(model, seen, interactions([], 23, 40), options)
    model.matrix = model.matrix[:, :7]
    with pytest.raises(ValueError, match=r"expected \(22, 40\) for 22 users, got \(22, 7\)"):
        evaluate_ranking(model, seen, relevant, options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ks": ()}, "ks: expected different cut-offs"),
        ({"ks": (5, 5)}, "ks: expected different cut-offs"),
        ({"sampled_negatives": -1}, "sampled_negatives: expected at least 0, got -1"),
        ({"users_per_block": 0}, "users_per_block: expected at least 1, got 0"),
        ({"bootstrap_samples": 1}, "at least 2, got 1"),
        ({"sampled_negatives": 9, "candidates": [1]}, "exclude each other"),
        ({"sampled_negatives": 9, "mask_seen": False}, "expected mask_seen"),
        ({"ks": (41,)}, "at most the 40 items that may be recommended, got 41"),
        ({"candidates": [0, 40]}, "from 0 to 39, got int64 values from 0 to 40"),
        ({"candidates": [0.5]}, "got float64 values"),
        ({"candidates": []}, "candidates: expected item numbers"),
        ({"ks": (2,), "candidates": [3]}, "at most the 1 items"),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(ConfigError, match=text):
        evaluate_ranking(*example(), RankingOptions(**options))


@pytest.mark.distributed
def test_two_ranks_give_what_one_does():
    metrics, lists, counts = launch(on_a_rank, (), ranks=2)
    alone = evaluate_ranking(*example(), RankingOptions((3, 7), bootstrap_samples=0))
    assert metrics == alone.metrics
    assert lists == alone.lists.tolist() and counts == alone.counts
