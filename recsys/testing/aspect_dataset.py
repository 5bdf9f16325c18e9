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

import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recsys.graph.aspect_dataset import AspectDataset
from recsys.graph.aspects import SPLITS


class AspectDatasetConformance:
    """What every data set of aspects must do. Inherit it in a test class."""

    dataset: ClassVar[type[AspectDataset]]
    """The class."""
    pairs: ClassVar[dict[str, int]]
    """Pairs of items that are alike by aspect, counted by hand in the files `config` writes."""

    def config(self, folder: Path) -> AspectDataset.Config:
        """Writes small files in the real format and returns the ``Config`` that reads them.

        Args:
            folder: An empty folder.
        """
        raise NotImplementedError

    def test_config_survives_json(self, tmp_path: Path) -> None:
        """Config -> JSON -> Config is equal, and unknown keys are refused."""
        config: Any = self.config(tmp_path)
        assert type(config).model_validate_json(config.model_dump_json()) == config
        assert config.model_config.get("extra") == "forbid"
        assert config.model_config.get("frozen")

    def test_says_where_it_comes_from(self) -> None:
        """Licence and traps are written down."""
        assert self.dataset.licence
        assert "Traps:" in (sys.modules[self.dataset.__module__].__doc__ or "")

    def test_it_is_stable_and_has_the_right_counts(self, tmp_path: Path) -> None:
        """Asking twice gives the same table; pairs are as counted, and inside their split."""
        data = self.dataset(self.config(tmp_path))
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
