"""The suites of data sets of bundles and of aspects catch data sets that are wrong."""

import dataclasses
import itertools

import numpy as np
import pytest

from recsys.graph.aspect_dataset import AspectDataset
from recsys.graph.aspects import AspectRule, aspect_table
from recsys.graph.bundle_assembly import assemble
from recsys.graph.bundle_dataset import BundleDataset
from recsys.testing.aspect_dataset import AspectDatasetConformance
from recsys.testing.bundle_dataset import BundleDatasetConformance

RUNS = itertools.count()
DATA = assemble(
    {"train": ([1] * 8, list(range(8))), "test": ([1, 1], [8, 9])},
    ([b for b in range(10) for _ in "ab"], [n for b in range(10) for n in (b, b + 1)]),
)


class Good(BundleDataset):
    """Ten bundles."""

    class Config(BundleDataset.Config):
        """No options."""

    def bundle_data(self, cache_dir):
        return DATA


class Restless(Good):
    """Its bundles to complete change from call to call."""

    class Config(BundleDataset.Config):
        """No options."""

    def completion(self, cache_dir):
        rule = self.config.completion.model_copy(update={"seed": next(RUNS)})
        return Good(Good.Config(completion=rule)).completion(cache_dir)


class Growing(Good):
    """Says that another bundle was left out than there was."""

    class Config(BundleDataset.Config):
        """No options."""

    def completion(self, cache_dir):
        found = super().completion(cache_dir)
        return dataclasses.replace(found, report=found.report | {"bundles_of_one_item": 3})


def suite(data, counts):
    names = {"dataset": data, "counts": counts, "config": lambda self, folder: data.Config()}
    return type("Suite", (BundleDatasetConformance,), names)()


def test_a_good_one_passes(tmp_path):
    tests = suite(Good, {"train": 8, "test": 2})
    tests.test_splits_are_stable(tmp_path)
    tests.test_bundles_are_stable(tmp_path)
    tests.test_splits_have_the_right_counts_and_share_nothing_but_names(tmp_path)
    tests.test_bundles_to_complete_share_no_bundle(tmp_path)
    tests.test_users_and_bundles_are_a_graph_with_contents(tmp_path)
    tests.test_it_becomes_an_object_of_pyg(tmp_path)


def test_wrong_counts_licence_and_completion(tmp_path):
    wrong = suite(Good, {"train": 9})
    with pytest.raises(AssertionError):
        wrong.test_splits_have_the_right_counts_and_share_nothing_but_names(tmp_path)
    with pytest.raises(AssertionError):
        suite(Good, {}).test_says_where_it_comes_from()
    for data in (Restless, Growing):
        with pytest.raises(AssertionError):
            suite(data, {}).test_bundles_to_complete_share_no_bundle(tmp_path)


def test_a_data_set_needs_a_config_of_its_own():
    with pytest.raises(TypeError, match="Bad needs a nested"):
        type("Bad", (BundleDataset,), {"bundle_data": lambda self, cache_dir: DATA})
    with pytest.raises(TypeError, match="Bad needs a nested"):
        type("Bad", (AspectDataset,), {"table": lambda self, cache_dir: None})


class Shuffled(AspectDataset):
    """Its split changes from call to call."""

    class Config(AspectDataset.Config):
        """No options."""

    def table(self, cache_dir):
        rule = AspectRule(seed=next(RUNS))
        return aspect_table(dict.fromkeys(range(40), ""), range(40), ["k"] * 40, ["x"] * 40, rule)


def test_aspects_that_change_or_are_counted_otherwise(tmp_path):
    names = {"dataset": Shuffled, "pairs": {"k": 780}}
    names["config"] = lambda self, folder: Shuffled.Config()
    tests = type("Suite", (AspectDatasetConformance,), names)()
    with pytest.raises(AssertionError):
        tests.test_it_is_stable_and_has_the_right_counts(tmp_path)
    with pytest.raises(AssertionError):
        tests.test_says_where_it_comes_from()
    np.testing.assert_equal(Shuffled(Shuffled.Config()).table(tmp_path).report["pairs:k"], 780)
