"""The base of every data set of bundles.

Stability: caller
"""

from __future__ import annotations

import abc
import dataclasses
import inspect
from pathlib import Path
from typing import ClassVar

from recsys.graph.bundle_completion import BundleCompletion, CompletionRule, split_completion
from recsys.graph.bundles import BundleData
from recsys.schema import Frozen


class BundleDataset(abc.ABC):
    """One data set: a leaf in ``recsys.datasets`` with a nested, frozen ``Config``.

    Args:
        config: An instance of the class's own ``Config``.

    Raises:
        TypeError: At class creation, a concrete data set has no ``Config`` of its own.
    """

    class Config(Frozen):
        """Options of the data set."""

        completion: CompletionRule = CompletionRule()
        """Which bundles are held out, and in which parts, for models that complete bundles."""

    homepage: ClassVar[str] = ""
    """Where the data comes from."""
    licence: ClassVar[str] = ""
    """What may be done with it."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not inspect.isabstract(cls) and "Config" not in cls.__dict__:
            raise TypeError(f"{cls.__name__} needs a nested `class Config(BundleDataset.Config)`.")

    def __init__(self, config: BundleDataset.Config) -> None:
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
