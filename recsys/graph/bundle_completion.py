"""Bundles to complete: some to learn from, others of which a part is given and a part is asked.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from recsys.errors import ConfigError, DataError
from recsys.graph.bundles import Bundles
from recsys.graph.interactions import Interactions, InteractionSplits, Names
from recsys.graph.item_features import ItemFeatures
from recsys.schema import Frozen


class CompletionRule(Frozen):
    """Which bundles are held out, and how many of their items are given."""

    valid: float = Field(default=0.1, ge=0, lt=1)
    """Share of the bundles for validation."""
    test: float = Field(default=0.2, ge=0, lt=1)
    """Share of the bundles for the final test."""
    given_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the items of a held-out bundle that is given, rounded to the nearest number (halves
    up); at least one is given and one asked."""
    given: int | None = Field(default=None, ge=1)
    """So many items are given, all but one where a bundle is too small; instead of the share."""
    seed: int = Field(default=0, ge=0)
    """Another seed, other bundles and other parts."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class HeldOutBundles:
    """Bundles in two parts.

    Args:
        given: The part that a model sees.
        asked: The part it should find; the same bundles, other items.

    Raises:
        DataError: The parts are of different bundles or share an item of a bundle.
    """

    given: Bundles
    asked: Bundles

    def __post_init__(self) -> None:
        same = np.array_equal(self.given.bundles.values, self.asked.bundles.values)
        if not same or self.given.num_items != self.asked.num_items:
            raise DataError("held-out bundles: expected both parts of the same bundles and items.")
        if len(np.intersect1d(self.given.keys, self.asked.keys)):
            raise DataError("held-out bundles: an item is given and asked in one bundle.")

    def __len__(self) -> int:
        return len(self.given)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class BundleCompletion:
    """Bundles to learn from, and held-out ones; no bundle is in two splits.

    Args:
        train: Whole bundles.
        valid: To choose by, or None.
        test: To report, or None.
        user_item: Who took which item; free of what held-out bundles would tell.
        item_texts: A text of every item.
        item_categories: The categories of every item.
        item_prices: What every item costs.
        report: What was left out, and what is odd, by name.

    Raises:
        DataError: A bundle is in two splits, or splits are about different items.

    Example:
        >>> from recsys.graph.interactions import Names
        >>> menus = Bundles(Names(range(4)), Names(range(3)),
        ...                 np.array([0, 0, 1, 1, 2, 3, 3, 3]), np.array([0, 1, 0, 2, 1, 0, 1, 2]))
        >>> found = split_completion(menus, CompletionRule(valid=0, test=0.34))
        >>> len(found.train), len(found.test), found.report["bundles_of_one_item"]
        (2, 1, 1)
    """

    train: Bundles
    valid: HeldOutBundles | None = None
    test: HeldOutBundles | None = None
    user_item: Interactions | None = None
    item_texts: tuple[str, ...] | None = None
    item_categories: tuple[tuple[str, ...], ...] | None = None
    item_prices: np.ndarray | None = None
    report: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = [self.train.bundles.values]
        for name, part in self.held_out():
            ids.append(part.given.bundles.values)
            if part.given.num_items != self.train.num_items:
                raise DataError(
                    f"{name}: expected {self.train.num_items:,} items, got "
                    f"{part.given.num_items:,}."
                )
        together = np.concatenate(ids)
        if len(np.unique(together)) < len(together):
            raise DataError("completion: a bundle is in two splits.")

    def held_out(self) -> Sequence[tuple[str, HeldOutBundles]]:
        """The held-out splits that there are, by name."""
        found = (("valid", self.valid), ("test", self.test))
        return [(name, part) for name, part in found if part is not None]

    def splits(self) -> InteractionSplits:
        """The same as pairs of users and items, with bundles in the place of users.

        Items that are asked are the pairs of valid and test; items that are given are told when a
        model is judged, and not trained on. Bundles to learn from come first, then those of valid.
        """
        held = [part for _, part in self.held_out()]
        ids = [self.train.bundles.values, *(part.given.bundles.values for part in held)]
        names = Names(np.concatenate(ids))
        starts = np.cumsum([len(part) for part in ids])

        def numbered(part: Bundles, start: int) -> Interactions:
            return Interactions(names, self.train.items, part.bundle + start, part.item)

        asked = {
            name: numbered(part.asked, start)
            for (name, part), start in zip(self.held_out(), starts)
        }
        told = [numbered(part.given, start) for part, start in zip(held, starts)]
        given = told[0] if told else None
        for more in told[1:]:
            given = given.union(more) if given is not None else more
        return InteractionSplits(
            numbered(self.train, 0), asked.get("valid"), asked.get("test"), self.report, given
        )

    def features(self) -> ItemFeatures:
        """What is known of the items."""
        return ItemFeatures(
            self.train.num_items, self.item_texts, self.item_categories, self.item_prices,
            user_item=self.user_item,
        )  # fmt: skip


def split_completion(
    bundles: Bundles, rule: CompletionRule, groups: np.ndarray | None = None
) -> BundleCompletion:
    """Holds bundles out, and of each a part of the items.

    Bundles of one item cannot be completed: they are in no split, and counted. Report:
    ``bundles_of_one_item``; of ``valid`` and ``test``: ``test_bundles_as_in_train`` (bundles of the
    same items as one to learn from) and ``test_asked_items_not_in_train`` (pairs that only content
    can find); both stay in.

    Args:
        bundles: All bundles.
        rule: Shares and seed.
        groups: Number of the group of every bundle, say its session: bundles of a group are in one
            split, whose share is met as nearly as groups allow. None for every bundle by itself.

    Raises:
        ConfigError: The shares leave nothing to learn from.
        DataError: Too few bundles for the shares, or ``groups`` of another length.
    """
    if rule.valid + rule.test >= 1:
        raise ConfigError(
            f"valid + test is {rule.valid + rule.test:g}: nothing is left to learn from. The two "
            "shares must sum to less than 1."
        )
    if groups is None:
        groups = np.arange(len(bundles))
    if groups.shape != (len(bundles),):
        raise DataError(f"groups: expected one of each of {len(bundles)}, got {groups.shape}.")
    usable = np.flatnonzero(bundles.sizes() > 1)
    report = {"bundles_of_one_item": len(bundles) - len(usable)}
    part = _parts(groups[usable], rule)
    numbers = [usable[part == split] for split in range(3)]
    wanted = (True, rule.valid > 0, rule.test > 0)
    for name, found, asked in zip(("train", "valid", "test"), numbers, wanted):
        if asked and not len(found):
            raise DataError(
                f"no bundle of two items or more is in {name}, of {len(usable)}. Change the shares."
            )
    train = bundles.take(numbers[0])
    held = [_in_parts(bundles.take(numbers[k]), rule, k) if wanted[k] else None for k in (1, 2)]
    for name, found in zip(("valid", "test"), held):
        if found is not None:
            report |= _oddities(name, train, found)
    return BundleCompletion(train, held[0], held[1], report=report)


def _parts(groups: np.ndarray, rule: CompletionRule) -> np.ndarray:
    """Split of every bundle: 0, 1 or 2. Groups in a random order fill test, then valid."""
    names, group = np.unique(groups, return_inverse=True)
    order = np.random.default_rng([rule.seed, 0]).permutation(len(names))
    sizes = np.bincount(group, minlength=len(names))[order]
    middles = np.cumsum(sizes) - sizes / 2
    total = len(groups)
    num_test, num_valid = round(total * rule.test), round(total * rule.valid)
    split_of_group = np.zeros(len(names), np.int64)
    split_of_group[order] = np.where(
        middles < num_test, 2, np.where(middles < num_test + num_valid, 1, 0)
    )
    return split_of_group[group]


def _in_parts(bundles: Bundles, rule: CompletionRule, stream: int) -> HeldOutBundles:
    """Some items of every bundle given, the others asked."""
    sizes = bundles.sizes()
    many = np.floor(sizes * rule.given_share + 0.5) if rule.given is None else rule.given
    many = np.clip(many, 1, sizes - 1).astype(np.int64)
    keys = np.random.default_rng([rule.seed, stream]).random(len(bundles.bundle))
    order = np.lexsort((keys, bundles.bundle))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    given = rank - bundles.offsets()[bundles.bundle] < many[bundles.bundle]
    made = [
        Bundles(bundles.bundles, bundles.items, bundles.bundle[here], bundles.item[here])
        for here in (given, ~given)
    ]
    return HeldOutBundles(made[0], made[1])


def _oddities(name: str, train: Bundles, held: HeldOutBundles) -> dict[str, int]:
    known = {tuple(train.items_of(number)) for number in range(len(train))}
    again = sum(
        tuple(np.sort(np.concatenate([held.given.items_of(n), held.asked.items_of(n)]))) in known
        for n in range(len(held))
    )
    cold = ~np.isin(held.asked.item, train.item)
    return {
        f"{name}_bundles_as_in_train": again,
        f"{name}_asked_items_not_in_train": int(cold.sum()),
    }
