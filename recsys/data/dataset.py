"""The base of every data set: what its files are, what its columns mean, how it is split.

Stability: caller
"""

from __future__ import annotations

import abc
import inspect
from pathlib import Path
from typing import ClassVar

from recsys.data.source import Splits
from recsys.schema import Frozen, Schema


class Dataset(abc.ABC):
    """One data set: a leaf in ``recsys.datasets`` with a nested, frozen ``Config``.

    Args:
        config: An instance of the class's own ``Config``.

    Raises:
        TypeError: At class creation, a concrete data set has no ``Config`` of its own.
    """

    class Config(Frozen):
        """Options of the data set."""

    homepage: ClassVar[str] = ""
    """Where the data comes from."""
    licence: ClassVar[str] = ""
    """What may be done with it."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not inspect.isabstract(cls) and "Config" not in cls.__dict__:
            raise TypeError(f"{cls.__name__} needs a nested `class Config(Frozen)` of its own.")

    def __init__(self, config: Frozen) -> None:
        self.config = config

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
