"""The base of every data set of queries and items with named concepts.

It is a data set of interactions too: of queries, as users, with the items that are right. So
whatever recommends items from pairs works on it, and models that read texts and concepts find them
in the graph.

Stability: caller
"""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path

from recsys.graph.concepts import ConceptMatches
from recsys.graph.dataset import InteractionDataset
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions, InteractionSplits


class ConceptDataset(InteractionDataset, abc.ABC):
    """One data set of queries and items with named concepts. See `AnyDataset`."""

    @abc.abstractmethod
    def matches(self, cache_dir: Path) -> ConceptMatches:
        """Queries, items, concepts and what is relevant, split; the same at every call.

        Args:
            cache_dir: Folder for files that are made or fetched.

        Raises:
            DataError: Files are missing (the text says where to get them), cut or malformed.
        """

    def splits(self, cache_dir: Path) -> InteractionSplits:
        """Which item is right for which query: queries are the users of these interactions.

        Args:
            cache_dir: As for `matches`.

        Raises:
            DataError: As `matches`.
        """
        found = self.matches(cache_dir)
        return dataclasses.replace(found.relevance, report=found.report)

    def graph(
        self, train: Interactions, cache_dir: Path, weighted: bool = False
    ) -> InteractionGraph:
        """The graph of queries and items, with their texts and concepts. See the base."""
        about = self.matches(cache_dir).descriptions
        return InteractionGraph.of(train, None, weighted, descriptions=about)
