"""Sets of items that are offered as one: bundles, who took them, and what is in them.

`recsys.graph.bundle_assembly.assemble` makes a `BundleData` from ids and counts what it left out;
`recsys.graph.bundle_completion` holds parts of bundles out, for models that complete them.

Stability: caller
"""

from __future__ import annotations

import dataclasses

import numpy as np

from recsys.errors import DataError
from recsys.graph.interactions import Interactions, InteractionSplits, Names


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Bundles:
    """Which items are in which bundle: pairs, each once, in the order of bundles, then items.

    Args:
        bundles: Ids of all bundles.
        items: Ids of all items, also of those in no bundle.
        bundle: Number of the bundle of every pair.
        item: Number of its item.

    Shape:
        - bundle, item: (E,) int64

    Raises:
        DataError: Lengths differ, a number is out of range, a pair is out of order or there twice,
            or a bundle is empty.

    Example:
        >>> menus = Bundles(Names(["a", "b"]), Names([7, 8, 9]), np.array([0, 0, 1]),
        ...                 np.array([0, 2, 2]))
        >>> menus.sizes().tolist(), menus.items_of(0).tolist(), menus.items_without_bundle
        ([2, 1], [0, 2], 1)
    """

    bundles: Names
    items: Names
    bundle: np.ndarray
    item: np.ndarray

    def __post_init__(self) -> None:
        if self.item.shape != self.bundle.shape or self.bundle.ndim != 1:
            raise DataError(
                f"bundles: expected as many items as bundles of pairs, got {self.item.shape} and "
                f"{self.bundle.shape}."
            )
        for name, names in (("bundle", self.bundles), ("item", self.items)):
            values = getattr(self, name)
            if len(values) and not 0 <= values.min() <= values.max() < len(names):
                raise DataError(
                    f"bundles: expected numbers of {name}s from 0 to {len(names) - 1}, got "
                    f"{values.min()} to {values.max()}."
                )
        if (np.diff(self.keys) <= 0).any():
            raise DataError(
                "bundles: expected every pair once, by bundle and item. "
                "`recsys.graph.bundle_assembly.assemble` puts raw rows in order."
            )
        empty = np.flatnonzero(self.sizes() == 0)
        if len(empty):
            raise DataError(
                f"bundle `{self.bundles.values[empty[0]]}` is empty, as are {len(empty) - 1} "
                "others. Leave them out, or use `assemble` with empty=drop."
            )

    def __len__(self) -> int:
        return len(self.bundles)

    @property
    def num_bundles(self) -> int:
        """All bundles."""
        return len(self.bundles)

    @property
    def num_items(self) -> int:
        """All items, also those in no bundle."""
        return len(self.items)

    @property
    def keys(self) -> np.ndarray:
        """``bundle * num_items + item`` of every pair, rising."""
        return self.bundle * np.int64(max(1, self.num_items)) + self.item

    @property
    def items_without_bundle(self) -> int:
        """How many items are in no bundle."""
        return int((np.bincount(self.item, minlength=self.num_items) == 0).sum())

    def sizes(self) -> np.ndarray:
        """Items of every bundle, (bundles,) int64."""
        return np.bincount(self.bundle, minlength=self.num_bundles)

    def offsets(self) -> np.ndarray:
        """Where the pairs of every bundle begin, and the end of the last: ``indptr`` of a CSR.

        Shape:
            - output: (bundles + 1,) int64
        """
        return np.concatenate([[0], np.cumsum(self.sizes())]).astype(np.int64)

    def items_of(self, bundle: int) -> np.ndarray:
        """Numbers of the items of one bundle, rising.

        Args:
            bundle: Its number.
        """
        ends = np.searchsorted(self.bundle, [bundle, bundle + 1])
        return self.item[ends[0] : ends[1]]

    def take(self, bundles: np.ndarray) -> Bundles:
        """Some of the bundles, numbered anew from 0, with the same items.

        Args:
            bundles: Their numbers, rising.

        Raises:
            DataError: They do not rise.
        """
        if len(bundles) and (np.diff(bundles) <= 0).any():
            raise DataError("bundles: expected rising numbers of bundles to take.")
        place = np.full(self.num_bundles, -1, np.int64)
        place[bundles] = np.arange(len(bundles))
        kept = place[self.bundle] >= 0
        return Bundles(
            Names(self.bundles.values[bundles]), self.items, place[self.bundle[kept]],
            self.item[kept],
        )  # fmt: skip

    def interactions(self) -> Interactions:
        """The same pairs with bundles in the place of users, for item models and for ranking."""
        return Interactions(self.bundles, self.items, self.bundle, self.item)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class BundleContents:
    """What a model of users and bundles may know beside their pairs.

    Args:
        bundles: What is in the bundles.
        user_item: Who took which item by itself; None where that is not known.

    Raises:
        DataError: The two are about different items.
    """

    bundles: Bundles
    user_item: Interactions | None = None

    def __post_init__(self) -> None:
        if self.user_item is not None:
            _same(self.user_item.items, self.bundles.items, "user_item", "items")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class BundleData:
    """Users, bundles and items, and the three kinds of pairs between them.

    Args:
        user_bundle: Who took which bundle, split; the items of these interactions are the bundles.
        bundles: What is in the bundles.
        user_item: Who took which item by itself; None where that is not known.
        item_texts: A text of every item, empty where there is none.
        bundle_texts: A text of every bundle.
        item_categories: The categories of every item, from general to special.
        item_prices: What every item costs.
        report: What was left out, and what is odd, by name: counts to show.

    Shape:
        - item_texts: (I,) str
        - bundle_texts: (B,) str
        - item_categories: I tuples of str
        - item_prices: (I,) float32

    Raises:
        DataError: Parts are about other users, items or bundles, or a price is negative or not
            finite.

    Example:
        >>> from recsys.graph.bundle_assembly import assemble
        >>> data = assemble({"train": (["ann", "bob"], [10, 11])}, ([10, 10, 11], [1, 2, 2]),
        ...                 (["ann"], [1]))
        >>> data.num_users, data.num_bundles, data.num_items
        (2, 2, 2)
        >>> data.user_bundle.train.item.tolist(), data.bundles.item.tolist()
        ([0, 1], [0, 1, 1])
    """

    user_bundle: InteractionSplits
    bundles: Bundles
    user_item: Interactions | None = None
    item_texts: tuple[str, ...] | None = None
    bundle_texts: tuple[str, ...] | None = None
    item_categories: tuple[tuple[str, ...], ...] | None = None
    item_prices: np.ndarray | None = None
    report: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        users = self.users
        for name, split in self.user_bundle.items():
            _same(split.items, self.bundles.bundles, f"user_bundle.{name}", "bundles")
            _same(split.users, users, f"user_bundle.{name}", "users")
        if self.user_item is not None:
            _same(self.user_item.users, users, "user_item", "users")
            _same(self.user_item.items, self.bundles.items, "user_item", "items")
        for name, count in (
            ("item_texts", self.num_items), ("bundle_texts", self.num_bundles),
            ("item_categories", self.num_items), ("item_prices", self.num_items),
        ):  # fmt: skip
            values = getattr(self, name)
            if values is not None and len(values) != count:
                raise DataError(f"{name}: expected {count:,} values, got {len(values):,}.")
        prices = self.item_prices
        if prices is not None and not (np.isfinite(prices).all() and (prices >= 0).all()):
            raise DataError("item_prices: expected finite numbers of at least 0.")

    @property
    def users(self) -> Names:
        """Ids of the users."""
        return self.user_bundle.train.users

    @property
    def items(self) -> Names:
        """Ids of the items."""
        return self.bundles.items

    @property
    def contents(self) -> BundleContents:
        """What is known beside the pairs of users and bundles."""
        return BundleContents(self.bundles, self.user_item)

    @property
    def num_users(self) -> int:
        """All users."""
        return len(self.users)

    @property
    def num_bundles(self) -> int:
        """All bundles."""
        return self.bundles.num_bundles

    @property
    def num_items(self) -> int:
        """All items."""
        return self.bundles.num_items

    def cold_bundles(self) -> np.ndarray:
        """Numbers of the bundles that no training pair is about, rising."""
        return np.flatnonzero(self.user_bundle.train.item_degrees() == 0)


def _same(found: Names, expected: Names, part: str, what: str) -> None:
    if found is not expected and not np.array_equal(found.values, expected.values):
        raise DataError(
            f"{part}: expected the {len(expected):,} {what} of the other parts, got "
            f"{len(found):,}. Number all parts by the same names."
        )
