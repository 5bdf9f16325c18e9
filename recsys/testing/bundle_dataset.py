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
from typing import Any

import numpy as np

from recsys.graph.bundle_dataset import BundleDataset
from recsys.graph.bundle_graphs import bundles_to_pyg
from recsys.testing.interaction_dataset import InteractionDatasetConformance


class BundleDatasetConformance(InteractionDatasetConformance[BundleDataset]):
    """What every data set of bundles must do. Inherit it in a test class.

    Its pairs are those of users and bundles.
    """

    def test_bundles_are_stable(self, tmp_path: Path) -> None:
        """Asking twice gives the same bundles and items with the same numbers."""
        data, cache = self.made(tmp_path), tmp_path / "cache"
        first, second = data.bundle_data(cache), data.bundle_data(cache)
        assert first.report == second.report and first.item_texts == second.item_texts
        np.testing.assert_array_equal(first.bundles.keys, second.bundles.keys)
        np.testing.assert_array_equal(first.items.values, second.items.values)

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

    def test_no_pair_tells_what_is_asked(self, tmp_path: Path) -> None:
        """No user has an item that of the user's bundles only held-out ones have."""
        data, cache = self.made(tmp_path), tmp_path / "cache"
        whole, found = data.bundle_data(cache), data.completion(cache)
        if found.user_item is None:
            return
        held = {i for _, part in found.held_out() for i in part.given.bundles.values.tolist()}
        of_user: dict[int, list[tuple[bool, set[int]]]] = {}
        for _, split in whole.user_bundle.items():
            for user, bundle in zip(split.user.tolist(), split.item.tolist()):
                items = set(whole.bundles.items_of(bundle).tolist())
                name = whole.bundles.bundles.values[bundle].item()
                of_user.setdefault(user, []).append((name in held, items))
        for user, item in zip(found.user_item.user.tolist(), found.user_item.item.tolist()):
            holding = [is_held for is_held, items in of_user.get(user, ()) if item in items]
            assert not holding or not all(holding), (user, item)

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
