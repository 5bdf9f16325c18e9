"""The base of every data set of aspects.

Stability: caller
"""

from __future__ import annotations

import abc
from pathlib import Path

from recsys.data.any_dataset import AnyDataset
from recsys.graph.aspects import AspectRule, AspectTable


class AspectDataset(AnyDataset, abc.ABC):
    """One data set of aspects. See `AnyDataset`."""

    class Config(AnyDataset.Config):
        """Options of the data set."""

        rule: AspectRule = AspectRule()
        """How items are split, and which labels count."""

    @abc.abstractmethod
    def table(self, cache_dir: Path) -> AspectTable:
        """Items, texts and labels, split by item; the same at every call.

        Args:
            cache_dir: Folder for files that are made or fetched.

        Raises:
            DataError: Files are missing (the text says where to get them), cut or malformed.
        """
