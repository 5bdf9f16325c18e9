import numpy as np
import pytest
import torch

from recsys.errors import DataError
from recsys.retrieval.training_pairs import TrainingPairs

QUERIES = np.array([[1.0, 2.0], [0.0, 0.0], [3.0, 1.0]], np.float32)


def test_a_pass_gives_every_pair_once_and_says_what_is_known():
    which, rows = [0, 0, 2, 2, 2, 0], [4, 1, 4, 3, 0, 3]
    pairs = TrainingPairs(QUERIES, which, rows)
    true = set(zip(which, rows))
    seen = []
    for batch in pairs.batches(2, 100, torch.Generator().manual_seed(0)):
        number = [0 if query == [1.0, 2.0] else 2 for query in batch.queries.tolist()]
        seen += zip(number, batch.rows.tolist())
        wanted = [[(q, r) in true for r in batch.rows.tolist()] for q in number]
        assert batch.known.tolist() == wanted
    assert sorted(seen) == sorted(true)
    random = torch.Generator().manual_seed(1)
    assert [len(b.rows) for b in pairs.batches(2, 5, random)] == [2, 2]  # of one alone: nothing


def test_pairs_of_zeros_are_left_out():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    pairs = TrainingPairs(QUERIES, [0, 0, 1, 2], [0, 1, 2, 2]).usable(vectors)
    assert list(zip(pairs.which.tolist(), pairs.rows.tolist())) == [(0, 0), (2, 2)]
    assert pairs.log_shares(3).exp().tolist() == [0.5, 0.0, 0.5]
    with pytest.raises(DataError, match="every pair has a vector of zeros"):
        TrainingPairs(QUERIES, [1], [0]).usable(vectors)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: TrainingPairs(QUERIES, [0, 1], [0]), "of one length"),
        (lambda: TrainingPairs(QUERIES, [], []), "at least 1"),
        (lambda: TrainingPairs(QUERIES, [3], [0]), "numbers of the 3 queries"),
        (lambda: TrainingPairs(QUERIES, [-1], [0]), "at least 0, got -1"),
        (lambda: TrainingPairs(QUERIES, [0.5], [0]), "whole numbers"),
        (lambda: TrainingPairs(QUERIES * np.nan, [0], [0]), "finite"),
        (lambda: TrainingPairs(QUERIES, [0], [9]).usable(torch.ones(3, 2)), "rows up to 9"),
        (lambda: TrainingPairs(QUERIES, [0], [0]).usable(torch.ones(3, 4)), "queries of 2 values"),
    ],
)
def test_bad_pairs_are_named(call, text):
    with pytest.raises(DataError, match=text):
        call()
