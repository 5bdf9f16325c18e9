"""The base of every data set of bundles.

Stability: caller
"""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path

from recsys.data.any_dataset import AnyDataset
from recsys.graph.bundle_completion import BundleCompletion, CompletionRule, split_completion
from recsys.graph.bundles import BundleData


class BundleDataset(AnyDataset, abc.ABC):
    """One data set of bundles. See `AnyDataset`."""

    class Config(AnyDataset.Config):
        """Options of the data set."""

        completion: CompletionRule = CompletionRule()
        """Which bundles are held out, and in which parts, for models that complete bundles."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    @abc.abstractmethod
    def splits(self, cache_dir: Path) -> BundleData:
        """Users, bundles and items, the pairs of users and bundles split; the same at every call.

        Args:
            cache_dir: Folder for files that are made or fetched.

        Raises:
            DataError: Files are missing (the text says where to get them), cut or malformed.
        """

    def completion(self, cache_dir: Path) -> BundleCompletion:
        """Bundles to learn from and bundles to complete; the same at every call.

        Args:
            cache_dir: As for `splits`.

        Raises:
            ConfigError: Shares leave nothing to learn from.
            DataError: As `splits`.
        """
        data = self.splits(cache_dir)
        return dataclasses.replace(
            split_completion(data.bundles, self.config.completion), user_item=data.user_item,
            item_texts=data.item_texts, item_categories=data.item_categories,
        )  # fmt: skip
