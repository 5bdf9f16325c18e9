"""A suite that every data set of interactions passes.

Inherit it, say which class and how to configure it::

    class TestMine(InteractionDatasetConformance):
        dataset = Mine
        counts = {"train": 8, "valid": 1, "test": 1}

        def config(self, folder):
            write_small_files_in_the_real_format(folder)
            return Mine.Config(path=str(folder))

Stability: caller
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import numpy as np

from recsys.graph.dataset import InteractionDataset
from recsys.testing.any_dataset import AnyDatasetConformance

_Dataset = TypeVar("_Dataset", bound=InteractionDataset)


class InteractionDatasetConformance(AnyDatasetConformance[_Dataset], Generic[_Dataset]):
    """What every data set of interactions must do. Inherit it in a test class."""

    counts: ClassVar[dict[str, int]]
    """Pairs by split, counted by hand in the files that `config` writes."""

    def test_splits_are_stable(self, tmp_path: Path) -> None:
        """Asking twice gives the same pairs with the same numbers."""
        data, cache = self.made(tmp_path), tmp_path / "cache"
        first, second = data.splits(cache), data.splits(cache)
        assert first.report == second.report
        for (_, a), (_, b) in zip(first.items(), second.items()):
            np.testing.assert_array_equal(a.keys, b.keys)
            np.testing.assert_array_equal(a.users.values, b.users.values)
            np.testing.assert_array_equal(a.items.values, b.items.values)

    def test_splits_have_the_right_counts_and_share_nothing_but_names(self, tmp_path: Path) -> None:
        """No pair is lost, none is in two splits, and numbers mean the same in all of them."""
        splits = self.made(tmp_path).splits(tmp_path / "cache")
        assert {name: len(split) for name, split in splits.items()} == self.counts
        keys = np.concatenate([split.keys for _, split in splits.items()])
        assert len(np.unique(keys)) == len(keys)
        for _, split in splits.items():
            np.testing.assert_array_equal(split.users.values, splits.train.users.values)
            np.testing.assert_array_equal(split.items.values, splits.train.items.values)

    def test_knowledge_is_about_the_items_of_the_splits(self, tmp_path: Path) -> None:
        """The first entities are the items."""
        data, cache = self.made(tmp_path), tmp_path / "cache"
        known = data.knowledge(cache)
        if known is not None:
            assert known.num_items == data.splits(cache).train.num_items
            assert (np.minimum(known.head, known.tail) < known.num_items).any()
