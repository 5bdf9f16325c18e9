"""A suite that every data set of bundles passes.

Inherit it, say which class and how to configure it::

    class TestMine(BundleDatasetConformance):
        dataset = Mine
        counts = {"train": 8, "valid": 1, "test": 1}

        def config(self, folder):
            write_small_files_in_the_real_format(folder)
            return Mine.Config(path=str(folder))

Stability: caller
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recsys.graph.bundle_dataset import BundleDataset
from recsys.graph.bundle_graphs import bundles_to_pyg
from recsys.testing.any_dataset import AnyDatasetConformance


class BundleDatasetConformance(AnyDatasetConformance[BundleDataset]):
    """What every data set of bundles must do. Inherit it in a test class."""

    counts: ClassVar[dict[str, int]]
    """Pairs of users and bundles by split, counted by hand in the files that `config` writes."""

    def test_splits_are_stable(self, tmp_path: Path) -> None:
        """Asking twice gives the same pairs with the same numbers."""
        data, cache = self.made(tmp_path), tmp_path / "cache"
        first, second = data.bundle_data(cache), data.bundle_data(cache)
        assert first.report == second.report and first.item_texts == second.item_texts
        np.testing.assert_array_equal(first.bundles.keys, second.bundles.keys)
        np.testing.assert_array_equal(first.items.values, second.items.values)
        for (_, a), (_, b) in zip(first.user_bundle.items(), second.user_bundle.items()):
            np.testing.assert_array_equal(a.keys, b.keys)

    def test_splits_have_the_right_counts_and_share_nothing(self, tmp_path: Path) -> None:
        """No pair of a user and a bundle is lost or in two splits."""
        splits = self.made(tmp_path).splits(tmp_path / "cache")
        assert {name: len(split) for name, split in splits.items()} == self.counts
        keys = np.concatenate([split.keys for _, split in splits.items()])
        assert len(np.unique(keys)) == len(keys)

    def test_bundles_to_complete_share_no_bundle(self, tmp_path: Path) -> None:
        """Splits are disjoint and stable; given and asked items are the bundle's."""
        data, cache = self.made(tmp_path), tmp_path / "cache"
        whole = data.bundle_data(cache)
        found, again = data.completion(cache), data.completion(cache)
        ids = [found.train.bundles.values]
        for name, part in found.held_out():
            ids.append(part.given.bundles.values)
            other = dict(again.held_out())[name]
            np.testing.assert_array_equal(part.given.keys, other.given.keys)
            numbers = whole.bundles.bundles.require(part.given.bundles.values, "bundle")
            for place, number in enumerate(numbers.tolist()):
                both = np.concatenate([part.given.items_of(place), part.asked.items_of(place)])
                np.testing.assert_array_equal(np.sort(both), whole.bundles.items_of(number))
        together = np.concatenate(ids)
        assert len(np.unique(together)) == len(together) > 0
        assert len(together) + found.report["bundles_of_one_item"] == whole.num_bundles

    def test_users_and_bundles_are_a_graph_with_contents(self, tmp_path: Path) -> None:
        """What recommends items from pairs recommends bundles; the contents travel along."""
        data, cache = self.made(tmp_path), tmp_path / "cache"
        whole, splits = data.bundle_data(cache), data.splits(cache)
        graph = data.graph(splits.train, cache)
        assert (graph.num_users, graph.num_items) == (whole.num_users, whole.num_bundles)
        assert graph.num_edges == self.counts["train"] and splits.report == whole.report
        assert graph.contents is not None
        np.testing.assert_array_equal(graph.contents.bundles.keys, whole.bundles.keys)
        assert (graph.contents.user_item is None) == (whole.user_item is None)

    def test_it_becomes_an_object_of_pyg(self, tmp_path: Path) -> None:
        """With training pairs and contents as edges."""
        data = self.made(tmp_path).bundle_data(tmp_path / "cache")
        found: Any = bundles_to_pyg(data)
        assert found.validate()
        assert found["user", "takes", "bundle"].num_edges == self.counts["train"]
        assert found["bundle", "contains", "item"].num_edges == len(data.bundles.item)
