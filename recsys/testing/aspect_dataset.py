"""A suite that every data set of aspects passes.

Inherit it, say which class and how to configure it::

    class TestMine(AspectDatasetConformance):
        dataset = Mine
        pairs = {"colour": 3, "kind": 5}

        def config(self, folder):
            write_small_files_in_the_real_format(folder)
            return Mine.Config(path=str(folder))

Stability: caller
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from recsys.graph.aspect_dataset import AspectDataset
from recsys.graph.aspects import SPLITS
from recsys.testing.any_dataset import AnyDatasetConformance


class AspectDatasetConformance(AnyDatasetConformance[AspectDataset]):
    """What every data set of aspects must do. Inherit it in a test class."""

    pairs: ClassVar[dict[str, int]]
    """Pairs of items that are alike by aspect, counted by hand in the files `config` writes."""

    def test_it_is_stable_and_has_the_right_counts(self, tmp_path: Path) -> None:
        """Asking twice gives the same table; pairs are as counted, and inside their split."""
        data = self.made(tmp_path)
        first, second = data.table(tmp_path), data.table(tmp_path)
        assert (first.report, first.texts, first.labels) == (
            second.report, second.texts, second.labels,
        )  # fmt: skip
        np.testing.assert_array_equal(first.split, second.split)
        np.testing.assert_array_equal(first.label, second.label)
        assert {name: first.report[f"pairs:{name}"] for name in first.aspects} == self.pairs
        assert sum(len(first.members(split)) for split in SPLITS) == len(first)
        for aspect in first.aspects:
            for split in SPLITS:
                ends = np.concatenate(first.pairs(aspect, split))
                assert np.isin(ends, first.members(split)).all()
