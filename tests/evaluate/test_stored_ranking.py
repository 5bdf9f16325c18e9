"""What lists leave out on each split."""

import numpy as np
import pytest

from recsys.evaluate.stored_ranking import seen_and_relevant
from recsys.graph.interactions import Interactions, InteractionSplits, Names


def pairs(*items: int) -> Interactions:
    return Interactions(
        Names(["ann"]), Names(range(6)), np.zeros(len(items), np.int64), np.array(items, np.int64)
    )


SPLITS = InteractionSplits(pairs(0, 1), pairs(2), pairs(3, 4))


@pytest.mark.parametrize(
    ("split", "hide", "seen", "relevant"),
    [
        ("valid", "known", [0, 1], [2]),
        ("valid", "train", [0, 1], [2]),
        ("test", "known", [0, 1, 2], [3, 4]),
        ("test", "train", [0, 1], [3, 4]),
    ],
)
def test_pairs_of_validation_compete_on_test_where_they_are_not_hidden(split, hide, seen, relevant):
    found = seen_and_relevant(SPLITS, split, hide)
    assert found is not None
    assert [part.item.tolist() for part in found] == [seen, relevant]


def test_a_split_that_is_not_there_or_empty():
    assert seen_and_relevant(InteractionSplits(pairs(0), pairs()), "valid") is None
    assert seen_and_relevant(InteractionSplits(pairs(0), None, pairs(1)), "valid") is None
