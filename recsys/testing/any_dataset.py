"""What the suites of all kinds of data sets have in common.

Stability: caller
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Generic, TypeVar

from recsys.data.any_dataset import AnyDataset
from recsys.schema import Frozen

_Kind = TypeVar("_Kind", bound=AnyDataset)


class AnyDatasetConformance(Generic[_Kind]):
    """What every data set must do. Suites of a kind derive from it, and test classes from them."""

    dataset: type[_Kind]
    """The class."""

    def config(self, folder: Path) -> Frozen:
        """Writes small files in the real format and returns the ``Config`` that reads them.

        Args:
            folder: An empty folder.
        """
        raise NotImplementedError

    def made(self, folder: Path) -> _Kind:
        """The data set over the small files.

        Args:
            folder: An empty folder.
        """
        return self.dataset(self.config(folder))

    def test_config_survives_json(self, tmp_path: Path) -> None:
        """Config -> JSON -> Config is equal, and unknown keys are refused."""
        config: Any = self.config(tmp_path)
        again = type(config).model_validate_json(config.model_dump_json(by_alias=True))
        assert again == config
        assert config.model_config.get("extra") == "forbid"
        assert config.model_config.get("frozen")

    def test_says_where_it_comes_from(self) -> None:
        """Licence and traps are written down."""
        assert self.dataset.licence
        assert "Traps:" in (sys.modules[self.dataset.__module__].__doc__ or "")
