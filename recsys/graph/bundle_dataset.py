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

import numpy as np

from recsys.graph.bundle_completion import BundleCompletion, CompletionRule, split_completion
from recsys.graph.bundles import BundleData
from recsys.graph.dataset import InteractionDataset
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions, InteractionSplits
from recsys.graph.told_pairs import only_held_out


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

        Items of users that only bundles to complete explain are left out for those users, since
        they tell what is asked, and counted (``pairs_of_held_out_bundles``).

        Args:
            cache_dir: As for `bundle_data`.

        Raises:
            ConfigError: Shares leave nothing to learn from.
            DataError: As `bundle_data`.
        """
        data = self.bundle_data(cache_dir)
        found = split_completion(data.bundles, self.config.completion)
        alone, left_out = _without_held_out(data, found)
        return dataclasses.replace(
            found, user_item=alone, item_texts=data.item_texts,
            item_categories=data.item_categories, item_prices=data.item_prices,
            report=found.report | {"pairs_of_held_out_bundles": left_out},
        )  # fmt: skip


def _without_held_out(
    data: BundleData, completion: BundleCompletion
) -> tuple[Interactions | None, int]:
    """The users' items without those that tell what is asked; number left out."""
    if data.user_item is None:
        return None, 0
    names, alone = data.bundles.bundles, data.user_item
    held = np.zeros(len(names), bool)
    for _, part in completion.held_out():
        held[names.require(part.given.bundles.values, "a held-out bundle")] = True
    splits = [split for _, split in data.user_bundle.items()]
    user, bundle = (
        np.concatenate([getattr(split, end) for split in splits]) for end in ("user", "item")
    )
    of_held = held[bundle]
    told = only_held_out(
        (alone.user, alone.item), (user[of_held], bundle[of_held]),
        (user[~of_held], bundle[~of_held]), (data.bundles.bundle, data.bundles.item),
    )  # fmt: skip
    return alone.take(~told), int(told.sum())
