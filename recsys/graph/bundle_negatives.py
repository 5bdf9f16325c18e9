"""Hard negatives for bundles: near what a user takes, or near the bundle that was taken.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from scipy.sparse import csr_array
from torch import Tensor

from recsys.errors import ConfigError
from recsys.graph.bundle_graphs import BundleGraphs
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.known_pairs import KnownPairs
from recsys.graph.negatives import SamplingConfig, Scorer
from recsys.graph.sampling import PairLoader
from recsys.schema import Frozen
from recsys.types import PairBatch

_CELLS_AT_ONCE = 1 << 22


class HardBundles(Frozen):
    """Which negatives are hard, and how many."""

    share: float = Field(default=0.3, gt=0, le=1)
    """Hard ones are drawn from this share of all bundles: those with most items in common."""
    near_user: float = Field(default=0.4, ge=0, le=1)
    """Share of pairs whose negatives have items in common with those of the user."""
    near_bundle: float = Field(default=0.4, ge=0, le=1)
    """Share of pairs whose negatives have items in common with the bundle that was taken."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.near_user + self.near_bundle > 1:
            raise ConfigError(
                "hard: expected near_user + near_bundle of at most 1, got "
                f"{self.near_user + self.near_bundle:g}."
            )
        return self


class HardPairLoader(PairLoader):
    """A `PairLoader` whose negatives are hard from an epoch on.

    Negatives of a pair come from the bundles that its user does not have and that have most items
    in common with the items of the user, or with the bundle of the pair; those with equally many
    are in a random order. The other pairs keep the negatives that they have.

    Args:
        graph: The training pairs, with the contents of the bundles.
        config: Which pairs and negatives.
        batch_size: Pairs of a batch on each rank.
        seed: Of the order and of all draws.
        rank: This process.
        world_size: Number of processes that share the pairs out.
        scorer: See `PairLoader`.
        hard: Which negatives are hard.
        first_epoch: From which on.

    Raises:
        ConfigError: There are no contents, no pairs of users and items, or negatives are shared or
            none.

    Source:
        Chang et al., "Bundle Recommendation with Graph Convolutional Networks", SIGIR 2020, section
        3.4. Differs: bundles that the user has are left out before the share is taken.
    """

    def __init__(
        self,
        graph: InteractionGraph,
        config: SamplingConfig | None = None,
        batch_size: int = 2048,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        scorer: Scorer | None = None,
        hard: HardBundles | None = None,
        first_epoch: int = 0,
    ) -> None:
        super().__init__(graph, config, batch_size, seed, rank, world_size, scorer)
        if self.config.shared or self.config.negatives == "none":
            raise ConfigError(
                "hard negatives are those of a pair: expected sampling.shared=false and "
                f"sampling.negatives other than none, got {self.config.shared} and "
                f"{self.config.negatives}."
            )
        self.hard, self.first_epoch = hard or HardBundles(), first_epoch
        graphs = BundleGraphs.of_graph(graph)
        if self.hard.near_user and not graphs.user_item.shape[1]:
            raise ConfigError(
                "hard.near_user needs pairs of users and items, and the data has none. Set it to 0."
            )
        self._known = KnownPairs(graph)
        self._items = _matrix(graphs.bundle_item, graphs.num_bundles, graphs.num_items)
        self._taken = _matrix(graphs.user_item, graphs.num_users, graphs.num_items)
        self._bundles = csr_array(self._items.T)

    def batch(self, epoch: int, start: int, order: Tensor | None) -> PairBatch:
        """See `EpochLoader`."""
        found = super().batch(epoch, start, order)
        if epoch < self.first_epoch:
            return found
        assert found.negatives is not None
        generator = self.generator(epoch, start, self.rank, 1)
        kind = torch.rand(found.batch_size, generator=generator)
        limit = self.hard.near_user, self.hard.near_user + self.hard.near_bundle
        negatives = found.negatives.clone()
        for rows, source, of in (
            ((kind < limit[0]).nonzero()[:, 0], self._taken, found.user),
            (((kind >= limit[0]) & (kind < limit[1])).nonzero()[:, 0], self._items, found.item),
        ):
            for part in rows.split(max(1, _CELLS_AT_ONCE // self.graph.num_items)):
                if len(part):
                    common = (source[of[part].numpy()] @ self._bundles).toarray()
                    negatives[part] = self._drawn(
                        common, found.user[part], negatives.shape[1], generator
                    )
        return dataclasses.replace(found, negatives=negatives)

    def _drawn(
        self, common: np.ndarray, user: Tensor, count: int, generator: torch.Generator
    ) -> Tensor:
        """Bundles of the share with most in common, (rows, count).

        Args:
            common: Items in common with every bundle, (rows, B).
            user: Of every row.
            count: Of each.
            generator: Of the draws.
        """
        size = common.shape[1]
        scores = common + torch.rand(size, generator=generator).numpy()  # it breaks ties alone
        place, seen = self._known.histories(user)
        scores[place.numpy(), seen.numpy()] = -1
        unseen = int((size - self._known.degrees[user]).min())
        most = max(1, min(round(self.hard.share * size), unseen))
        best = torch.from_numpy(np.argpartition(scores, size - most, axis=1)[:, size - most :])
        return best.gather(1, torch.randint(most, (len(user), count), generator=generator))

    def identity(self) -> dict[str, Any]:
        """See `EpochLoader`."""
        return super().identity() | {"hard": [self.first_epoch, self.hard.model_dump()]}


def _matrix(edges: Tensor, rows: int, columns: int) -> csr_array:
    ones = np.ones(edges.shape[1], np.float32)
    return csr_array((ones, (edges[0].numpy(), edges[1].numpy())), shape=(rows, columns))
