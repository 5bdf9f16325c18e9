"""What data sets of all kinds are: options, an origin, and what may be done with them.

Stability: caller
"""

from __future__ import annotations

import inspect
from typing import ClassVar

from recsys.schema import Frozen


class AnyDataset:
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
            raise TypeError(
                f"{cls.__name__} needs a nested `class Config({cls.__mro__[1].__name__}.Config)` "
                "of its own."
            )

    def __init__(self, config: Frozen) -> None:
        self.config = config
