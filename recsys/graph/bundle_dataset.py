"""The base of every data set of bundles.

It is a data set of interactions too: of users with bundles. So whatever recommends items from pairs
recommends bundles from it, and models that look into bundles find the contents in the graph.

Stability: caller
"""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path
from typing import Literal

from recsys.graph.bundle_completion import BundleCompletion, CompletionRule, split_completion
from recsys.graph.bundles import BundleData
from recsys.graph.dataset import InteractionDataset
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions, InteractionSplits


class BundleDataset(InteractionDataset, abc.ABC):
    """One data set of bundles. See `AnyDataset`."""

    class Config(InteractionDataset.Config):
        """Options of the data set."""

        task: Literal["recommend", "complete"] = "recommend"
        """What the pairs are of: users with bundles, to recommend bundles; or bundles with items,
        to complete bundles. Then bundles are the users of the pairs."""
        completion: CompletionRule = CompletionRule()
        """Which bundles are held out, and in which parts, for models that complete bundles."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    @abc.abstractmethod
    def bundle_data(self, cache_dir: Path) -> BundleData:
        """Users, bundles and items, the pairs of users and bundles split; the same at every call.

        Args:
            cache_dir: Folder for files that are made or fetched.

        Raises:
            DataError: Files are missing (the text says where to get them), cut or malformed.
        """

    def splits(self, cache_dir: Path) -> InteractionSplits:
        """Who took which bundle: the items of these interactions are the bundles.

        With ``task: complete`` what is in which bundle: the users of them are the bundles.

        Args:
            cache_dir: As for `bundle_data`.

        Raises:
            DataError: As `bundle_data`.
        """
        if self.config.task == "complete":
            return self.completion(cache_dir).splits()
        data = self.bundle_data(cache_dir)
        return dataclasses.replace(data.user_bundle, report=data.report)

    def graph(
        self, train: Interactions, cache_dir: Path, weighted: bool = False
    ) -> InteractionGraph:
        """The graph of users and bundles, with the contents of the bundles. See the base.

        With ``task: complete`` that of bundles and items, with what is known of the items.
        """
        if self.config.task == "complete":
            about = self.completion(cache_dir).features()
            return InteractionGraph.of(train, None, weighted, features=about)
        contents = self.bundle_data(cache_dir).contents
        return InteractionGraph.of(train, None, weighted, contents)

    def completion(self, cache_dir: Path) -> BundleCompletion:
        """Bundles to learn from and bundles to complete; the same at every call.

        Args:
            cache_dir: As for `bundle_data`.

        Raises:
            ConfigError: Shares leave nothing to learn from.
            DataError: As `bundle_data`.
        """
        data = self.bundle_data(cache_dir)
        return dataclasses.replace(
            split_completion(data.bundles, self.config.completion), user_item=data.user_item,
            item_texts=data.item_texts, item_categories=data.item_categories,
            item_prices=data.item_prices,
        )  # fmt: skip
