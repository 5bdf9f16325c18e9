"""The base of every data set: what its files are, what its columns mean, how it is split.

Stability: caller
"""

from __future__ import annotations

import abc
from pathlib import Path

from recsys.data.any_dataset import AnyDataset
from recsys.data.source import Splits
from recsys.schema import Schema


class Dataset(AnyDataset, abc.ABC):
    """One log of events with labels. See `AnyDataset`."""

    @abc.abstractmethod
    def schema(self) -> Schema:
        """What the columns mean. Not fitted."""

    @abc.abstractmethod
    def splits(self, cache_dir: Path) -> Splits:
        """Where the rows are; makes or fetches them where that is allowed.

        Args:
            cache_dir: Folder for files that are made or fetched.

        Raises:
            DataError: The files are missing; the text says where to get them.
        """

    def oracle(self, cache_dir: Path) -> dict[str, dict[str, float]]:
        """Best reachable metrics by split (``{"valid": {"auc": ..., "logloss": ...}}``).

        Only generated data knows them; empty otherwise.
        """
        del cache_dir
        return {}
