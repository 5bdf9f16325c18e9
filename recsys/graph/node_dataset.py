"""The base of every data set of nodes with classes.

Stability: caller
"""

from __future__ import annotations

import abc
from pathlib import Path

from recsys.data.any_dataset import AnyDataset
from recsys.graph.labelled_nodes import LabelledNodes


class NodeDataset(AnyDataset, abc.ABC):
    """One data set of nodes with classes. See `AnyDataset`."""

    @abc.abstractmethod
    def nodes(self, cache_dir: Path) -> LabelledNodes:
        """The graph, its labels and splits; the same at every call.

        Args:
            cache_dir: Folder for files that are made or fetched.

        Raises:
            DataError: Files are missing (the text says where to get them), cut or malformed.
        """
