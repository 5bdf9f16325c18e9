"""What is known of items beside who has them: texts, categories, prices, vectors, feedback.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from recsys.errors import DataError
from recsys.graph.interactions import Interactions


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ItemFeatures:
    """Features of I items; what is not known is None.

    Args:
        num_items: I.
        texts: A text of every item, empty where there is none.
        categories: The categories of every item, from general to special.
        prices: What every item costs.
        vectors: Vectors made elsewhere, by name: of pictures, sentences, a collaborative filter.
            A row of zeros says that nothing is known of the item.
        user_item: Who took which item by itself.

    Shape:
        - prices: (I,) float32
        - vectors: (I, D) float32 each

    Raises:
        DataError: A part is of another number of items, or holds numbers that are not finite.

    Example:
        >>> known = ItemFeatures(2, texts=("red", ""), vectors={"photo": np.eye(2)})
        >>> known.vectors["photo"].dtype
        dtype('float32')
    """

    num_items: int
    texts: tuple[str, ...] | None = None
    categories: tuple[tuple[str, ...], ...] | None = None
    prices: np.ndarray | None = None
    vectors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    user_item: Interactions | None = None

    def __post_init__(self) -> None:
        vectors = {name: np.asarray(each, np.float32) for name, each in self.vectors.items()}
        object.__setattr__(self, "vectors", vectors)
        if self.prices is not None:
            object.__setattr__(self, "prices", np.asarray(self.prices, np.float32))
        parts = {"texts": self.texts, "categories": self.categories, "prices": self.prices}
        parts |= {f"vectors.{name}": each for name, each in vectors.items()}
        for name, part in parts.items():
            if part is not None and len(part) != self.num_items:
                raise DataError(
                    f"{name}: expected one of each of {self.num_items:,} items, got {len(part):,}."
                )
            if isinstance(part, np.ndarray) and not np.isfinite(part).all():
                raise DataError(f"{name}: expected finite numbers, got nan or infinity.")
        for name, each in vectors.items():
            if each.ndim != 2 or not each.shape[1]:
                raise DataError(f"vectors.{name}: expected (items, width), got {each.shape}.")
        if self.user_item is not None and self.user_item.num_items != self.num_items:
            raise DataError(
                f"user_item: expected pairs with {self.num_items:,} items, got "
                f"{self.user_item.num_items:,}."
            )
