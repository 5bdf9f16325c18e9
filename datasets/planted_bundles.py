"""Bundles with planted themes: the embedded default of bundle recommenders.

Licence: none needed, all is made by this file and `recsys.graph.planted_bundles`, which says what
the truth is made of. Split: users' bundles at random within every user; pairs of cold bundles are
all held out (to test, or to validation where that has the smaller share of them). Items have a
category, a price and a text that names category and community.

Traps:
    - The oracles know the truth. Their scores are no feature.
    - Texts name the community of an item: with them completion is easier than with pairs alone.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from recsys.graph.bundle_assembly import BundleNames, assemble
from recsys.graph.bundle_dataset import BundleDataset
from recsys.graph.bundles import BundleData
from recsys.graph.interactions import Interactions, Names
from recsys.graph.planted_bundles import PlantedBundles as Truth
from recsys.graph.planted_bundles import PlantedBundlesConfig
from recsys.graph.splitting import UserSplit, split_interactions


class PlantedBundles(BundleDataset):
    """Made bundles whose best reachable rankings are known.

    Args:
        config: Sizes, seed and strengths, and how to split.

    Example:
        >>> data = PlantedBundles(PlantedBundles.Config(num_users=40, num_bundles=60))
        >>> made = data.bundle_data(Path("anywhere"))
        >>> made.num_bundles, made.report["empty_bundles"], data.oracle(np.array([0])).shape
        (60, 0, (1, 60))
    """

    licence = "none needed: made by recsys"

    class Config(BundleDataset.Config, PlantedBundlesConfig):
        """Sizes, seed and strengths, and how to split."""

        split: UserSplit = UserSplit()
        """How pairs of bundles that are not cold become train, valid and test."""

    config: Config

    def bundle_data(self, cache_dir: Path) -> BundleData:
        """Made at every call; nothing is written."""
        del cache_dir
        truth, config = self._truth(), self.config
        user, bundle = truth.user_bundles()
        cold = truth.cold[bundle]
        names = (Names(np.arange(config.num_users)), Names(np.arange(config.num_bundles)))
        warm = split_interactions(
            Interactions(*names, user[~cold], bundle[~cold]), config.split
        )  # fmt: skip
        parts = {name: (split.user, split.item) for name, split in warm.items()}
        shares = {"valid": config.split.valid, "test": config.split.test}
        total = sum(shares.values())
        if total > 0:
            to_valid = _alternating(int(cold.sum()), shares["valid"] / total)
            for name, here in (("valid", to_valid), ("test", ~to_valid)):
                if shares[name] > 0:
                    more = (user[cold][here], bundle[cold][here])
                    parts[name] = (
                        np.concatenate([parts[name][0], more[0]]),
                        np.concatenate([parts[name][1], more[1]]),
                    )
        items = Names(np.arange(config.num_items))
        data = assemble(
            parts, truth.contents(), truth.user_items(), BundleNames(names[0], names[1], items)
        )
        categories = truth.category.tolist()
        communities = truth.community.tolist()
        return dataclasses.replace(
            data, item_prices=truth.prices(),
            item_categories=tuple((f"category {number}",) for number in categories),
            item_texts=tuple(
                f"thing {number} of community {community} in category {category}"
                for number, (community, category) in enumerate(zip(communities, categories))
            ),
        )  # fmt: skip

    def oracle(self, users: np.ndarray) -> np.ndarray:
        """Scores of bundles by the true probabilities: ranking by them, seen masked, is the best.

        Args:
            users: Numbers, (Q,).

        Returns:
            (Q, B) float64.
        """
        return self._truth().probabilities(users)

    def completion_oracle(self, given: list[np.ndarray]) -> np.ndarray:
        """Scores of items for bundles to complete, by the posterior of their themes.

        Args:
            given: Numbers of the given items of every bundle.

        Returns:
            (bundles, I) float64; given items are for the caller to mask.
        """
        return self._truth().completions(given)

    def _truth(self) -> Truth:
        return Truth.of(self.config)


def _alternating(count: int, share: float) -> np.ndarray:
    """Evenly spread marks: about the share of positions."""
    return np.floor(np.arange(1, count + 1) * share) > np.floor(np.arange(count) * share)
