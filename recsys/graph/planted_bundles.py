"""Bundles with planted themes: made here, with the best reachable rankings known.

Items belong to a community and a category. A theme is a community with a mix of categories; a
bundle of the theme draws its categories from the mix, and for each an item of the community by
popularity (with ``noise``: any item by popularity). A user has shares of themes and takes bundles

    p(b | u) = noise * a_b / sum(a) + (1 - noise) * sum_t s_ut [b is of t] a_b / sum(a of t)

without replacement, where ``a`` is the appeal of bundles, and items by the shares of its themes. So
ranking by ``p`` is the best for users, and for a bundle to complete the posterior of themes gives
the best ranking of items: the two oracles. Cold bundles are made alike, and nobody of training took
them.

Stability: internal
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recsys.errors import ConfigError
from recsys.schema import Frozen

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

_ROLES = (
    "items",
    "themes",
    "bundles",
    "contents",
    "users",
    "taken",
    "items taken",
    "cold",
    "prices",
)


class PlantedBundlesConfig(Frozen):
    """Sizes, seed and strengths of planted bundles."""

    num_users: int = Field(default=600, ge=1)
    """Users."""
    num_items: int = Field(default=300, ge=2)
    """Items."""
    num_bundles: int = Field(default=400, ge=2)
    """Bundles."""
    num_communities: int = Field(default=8, ge=1)
    """Communities of items; every one has the same number of themes."""
    num_categories: int = Field(default=5, ge=1)
    """Categories of items."""
    themes_per_community: int = Field(default=2, ge=1)
    """Themes of a community: they differ in their mix of categories."""
    min_size: int = Field(default=2, ge=1)
    """Fewest items of a bundle."""
    max_size: int = Field(default=6, ge=1)
    """Most items of a bundle."""
    mean_bundles: float = Field(default=10.0, ge=1)
    """Mean number of bundles that a user takes."""
    mean_items: float = Field(default=8.0, ge=0)
    """Mean number of items that a user takes by themselves."""
    skew: float = Field(default=0.7, ge=0, le=2)
    """The popularity of the i-th item or bundle is about ``i ** -skew``."""
    noise: float = Field(default=0.1, ge=0, le=1)
    """Share of draws by popularity alone."""
    cold: float = Field(default=0.05, ge=0, lt=1)
    """Share of the bundles that only held-out pairs are about."""
    seed: int = Field(default=7, ge=0)
    """Another seed, another truth."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PlantedBundles:
    """The truth, and what it draws.

    Args:
        config: Sizes, seed and strengths.
        community: Of every item.
        category: Of every item.
        popularity: Of every item, summing to 1.
        mixes: Share of every category in every theme; theme t is of community ``t // per``.
        theme: Of every bundle.
        appeal: Of every bundle, summing to 1.
        tastes: Share of every theme in every user's tastes.
        cold: Whether a bundle is cold.

    Shape:
        - community, category, popularity: (I,)
        - mixes: (T, number of categories)
        - theme, appeal, cold: (B,)
        - tastes: (U, T)

    Raises:
        ConfigError: The sizes of bundles contradict each other or the number of items.

    Example:
        >>> truth = PlantedBundles.of(PlantedBundlesConfig(num_users=20, num_items=30))
        >>> bundle, item = truth.contents()
        >>> bool((np.bincount(bundle) >= 2).all())
        True
    """

    config: PlantedBundlesConfig
    community: Numbers
    category: Numbers
    popularity: Array
    mixes: Array
    theme: Numbers
    appeal: Array
    tastes: Array
    cold: NDArray[np.bool_]

    @classmethod
    def of(cls, config: PlantedBundlesConfig) -> PlantedBundles:
        """Plants the truth.

        Args:
            config: Sizes, seed and strengths.
        """
        if not config.min_size <= config.max_size <= config.num_items:
            raise ConfigError(
                f"min_size={config.min_size}, max_size={config.max_size} and "
                f"num_items={config.num_items} must rise. Change one."
            )
        random = _random(config, "items")
        community = random.integers(config.num_communities, size=config.num_items)
        category = random.integers(config.num_categories, size=config.num_items)
        popularity = _by_rank(random, config.num_items, config.skew)
        random = _random(config, "themes")
        num_themes = config.num_communities * config.themes_per_community
        mixes = random.dirichlet(np.full(config.num_categories, 0.5), num_themes)
        random = _random(config, "bundles")
        theme = random.integers(num_themes, size=config.num_bundles)
        appeal = _by_rank(random, config.num_bundles, config.skew)
        tastes = _random(config, "users").dirichlet(np.full(num_themes, 0.15), config.num_users)
        cold = np.zeros(config.num_bundles, bool)
        many = round(config.cold * config.num_bundles)
        cold[_random(config, "cold").permutation(config.num_bundles)[:many]] = True
        return cls(config, community, category, popularity, mixes, theme, appeal, tastes, cold)

    def item_shares(self) -> Array:
        """The probability of every item as the first draw of a bundle of every theme.

        Shape:
            - output: (T, I), every row summing to 1
        """
        per, noise = self.config.themes_per_community, self.config.noise
        themes = np.arange(len(self.mixes))
        home = self.community[None, :] == (themes // per)[:, None]
        shares = np.zeros((len(themes), len(self.popularity)))
        for category in range(self.mixes.shape[1]):
            here = home & (self.category == category)[None, :]
            within = np.where(here, self.popularity, 0)
            totals = within.sum(1, keepdims=True)
            # A community without an item of the category: any of the community, else any at all.
            wide = np.where(home, self.popularity, 0)
            wide = np.where(wide.sum(1, keepdims=True) > 0, wide, self.popularity)
            within = np.where(totals > 0, within, wide)
            shares += self.mixes[:, [category]] * within / within.sum(1, keepdims=True)
        return noise * self.popularity + (1 - noise) * shares

    def contents(self) -> tuple[Numbers, Numbers]:
        """Bundle and item of every pair, by bundle, then item."""
        config, random = self.config, _random(self.config, "contents")
        sizes = random.integers(config.min_size, config.max_size + 1, size=config.num_bundles)
        order = _draws(random, self.item_shares()[self.theme])
        taken = np.arange(config.num_items) < sizes[:, None]
        bundle, item = np.repeat(np.arange(config.num_bundles), sizes), order[taken]
        rows = np.lexsort((item, bundle))
        return bundle[rows], item[rows]

    def user_bundles(self) -> tuple[Numbers, Numbers]:
        """User and bundle of every pair, cold bundles among them, by user, then bundle."""
        random = _random(self.config, "taken")
        most = self.config.num_bundles // 2
        counts = np.clip(random.poisson(self.config.mean_bundles, self.config.num_users), 3, most)
        return _taken(random, self.probabilities(np.arange(self.config.num_users)), counts)

    def user_items(self) -> tuple[Numbers, Numbers]:
        """User and item of every pair that a user took by itself, by user, then item."""
        random = _random(self.config, "items taken")
        most = self.config.num_items // 2
        counts = np.clip(random.poisson(self.config.mean_items, self.config.num_users), 0, most)
        return _taken(random, self.tastes @ self.item_shares(), counts)

    def probabilities(self, users: np.ndarray) -> Array:
        """The probability of every bundle as the first draw of users: scores of the oracle.

        Args:
            users: Numbers, (Q,).

        Returns:
            (Q, B), every row summing to 1. Seen bundles are for the caller to mask.
        """
        num_themes, noise = self.tastes.shape[1], self.config.noise
        totals = np.bincount(self.theme, self.appeal, num_themes)
        lift = self.appeal / totals[self.theme]
        shares = np.where(totals > 0, self.tastes[users], 0)
        shares = shares[:, self.theme] * lift
        sums = shares.sum(1, keepdims=True)
        shares = np.where(sums > 0, shares / np.where(sums > 0, sums, 1), self.appeal)
        return noise * self.appeal + (1 - noise) * shares

    def completions(self, given: list[np.ndarray]) -> Array:
        """Scores of items for bundles of which some items are given: posterior themes' shares.

        The order of draws is not regarded, so it is the best up to that.

        Args:
            given: Numbers of the given items of every bundle.

        Returns:
            (bundles, I). Given items are for the caller to mask.
        """
        shares = self.item_shares()
        prior = np.bincount(self.theme, minlength=len(shares)) / len(self.theme)
        with np.errstate(divide="ignore"):
            logs, start = np.log(shares), np.log(prior)
        rows = np.stack([start + logs[:, items].sum(1) for items in given])
        posterior = np.exp(rows - rows.max(1, keepdims=True))
        return (posterior / posterior.sum(1, keepdims=True)) @ shares

    def prices(self) -> NDArray[np.float32]:
        """A price of every item: of its category, with a spread."""
        random = _random(self.config, "prices")
        level = 5.0 * (1 + np.arange(self.config.num_categories))
        spread = random.lognormal(0, 0.3, self.config.num_items)
        return np.round(level[self.category] * spread, 2).astype(np.float32)


def _random(config: PlantedBundlesConfig, role: str) -> np.random.Generator:
    """An own stream for every part, so that a setting of one leaves the others as they are."""
    return np.random.default_rng([config.seed, _ROLES.index(role)])


def _by_rank(random: np.random.Generator, count: int, skew: float) -> Array:
    values = (1.0 + random.permutation(count)) ** -skew
    return values / values.sum()


def _draws(random: np.random.Generator, shares: Array) -> Numbers:
    """All columns of every row in the order of draws without replacement."""
    with np.errstate(divide="ignore"):
        keys = np.log(shares)
    return np.argsort(-(keys + random.gumbel(size=keys.shape)), axis=1, kind="stable")


def _taken(random: np.random.Generator, shares: Array, counts: Numbers) -> tuple[Numbers, Numbers]:
    order = _draws(random, shares)
    inside = np.arange(shares.shape[1]) < counts[:, None]
    user, column = np.repeat(np.arange(len(shares)), counts), order[inside]
    rows = np.lexsort((column, user))
    return user[rows], column[rows]
