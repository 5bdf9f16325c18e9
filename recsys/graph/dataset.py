"""The base of every data set of interactions: where its files are and how it is split.

Stability: caller
"""

from __future__ import annotations

import abc
from pathlib import Path

from recsys.data.any_dataset import AnyDataset
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions, InteractionSplits
from recsys.graph.knowledge import KnowledgeGraph


class InteractionDataset(AnyDataset, abc.ABC):
    """One data set of interactions. See `AnyDataset`."""

    @abc.abstractmethod
    def splits(self, cache_dir: Path) -> InteractionSplits:
        """The interactions, cleaned and split; the same at every call.

        Args:
            cache_dir: Folder for files that are made or fetched.

        Raises:
            DataError: Files are missing (the text says where to get them), cut or malformed.
        """

    def knowledge(self, cache_dir: Path) -> KnowledgeGraph | None:
        """What is known about the items of `splits`, with their numbers; None without any.

        Args:
            cache_dir: As for `splits`.

        Raises:
            DataError: As `splits`, or the triples are about other items.
        """
        del cache_dir
        return None

    def graph(
        self, train: Interactions, cache_dir: Path, weighted: bool = False
    ) -> InteractionGraph:
        """The graph of training pairs, with what is known about their items.

        Args:
            train: Of `splits`.
            cache_dir: As for `splits`.
            weighted: Whether edges have the weights of the pairs; else all 1.

        Raises:
            DataError: As `splits`, or there is no pair.
        """
        return InteractionGraph.of(train, self.knowledge(cache_dir), weighted)
