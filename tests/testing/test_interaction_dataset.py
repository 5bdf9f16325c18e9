"""The suite of data sets of interactions catches data sets that are wrong."""

import itertools

import numpy as np
import pytest

from recsys.graph.cleaning import clean
from recsys.graph.dataset import InteractionDataset
from recsys.graph.interactions import InteractionSplits
from recsys.testing.interaction_dataset import InteractionDatasetConformance

LOG, _ = clean([1, 1, 2], [5, 6, 5])
RUNS = itertools.count()


class Overlapping(InteractionDataset):
    """A pair is in train and test."""

    class Config(InteractionDataset.Config):
        """No options."""

    def splits(self, cache_dir):
        return InteractionSplits(LOG, test=LOG.take(np.array([0])))


class Restless(InteractionDataset):
    """Its splits change from call to call."""

    licence = "none"

    class Config(InteractionDataset.Config):
        """No options."""

    def splits(self, cache_dir):
        return InteractionSplits(LOG.take(np.array([next(RUNS) % 2])))


def suite(data, counts):
    config = lambda self, folder: data.Config()  # noqa: E731
    names = {"dataset": data, "counts": counts, "config": config}
    return type("Suite", (InteractionDatasetConformance,), names)()


def test_a_pair_in_two_splits(tmp_path):
    tests = suite(Overlapping, {"train": 3, "test": 1})
    with pytest.raises(AssertionError):
        tests.test_splits_have_the_right_counts_and_share_nothing_but_names(tmp_path)
    tests.test_splits_are_stable(tmp_path)


def test_splits_that_change(tmp_path):
    with pytest.raises(AssertionError):
        suite(Restless, {"train": 1}).test_splits_are_stable(tmp_path)


def test_no_licence_and_no_traps():
    for data in (Overlapping, Restless):
        with pytest.raises(AssertionError):
            suite(data, {}).test_says_where_it_comes_from()
