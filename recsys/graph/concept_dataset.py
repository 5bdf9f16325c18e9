"""The base of every data set of queries and items with named concepts.

Stability: caller
"""

from __future__ import annotations

import abc
import inspect
from pathlib import Path
from typing import ClassVar

from recsys.graph.concepts import ConceptMatches
from recsys.schema import Frozen


class ConceptDataset(abc.ABC):
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
            raise TypeError(f"{cls.__name__} needs a nested `class Config(ConceptDataset.Config)`.")

    def __init__(self, config: ConceptDataset.Config) -> None:
        self.config = config

    @abc.abstractmethod
    def matches(self, cache_dir: Path) -> ConceptMatches:
        """Queries, items, concepts and what is relevant, split; the same at every call.

        Args:
            cache_dir: Folder for files that are made or fetched.

        Raises:
            DataError: Files are missing (the text says where to get them), cut or malformed.
        """
