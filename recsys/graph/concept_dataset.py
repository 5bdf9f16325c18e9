"""The base of every data set of queries and items with named concepts.

Stability: caller
"""

from __future__ import annotations

import abc
from pathlib import Path

from recsys.data.any_dataset import AnyDataset
from recsys.graph.concepts import ConceptMatches


class ConceptDataset(AnyDataset, abc.ABC):
    """One data set of queries and items with named concepts. See `AnyDataset`."""

    @abc.abstractmethod
    def matches(self, cache_dir: Path) -> ConceptMatches:
        """Queries, items, concepts and what is relevant, split; the same at every call.

        Args:
            cache_dir: Folder for files that are made or fetched.

        Raises:
            DataError: Files are missing (the text says where to get them), cut or malformed.
        """
