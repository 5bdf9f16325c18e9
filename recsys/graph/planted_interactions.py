"""Interactions with planted communities: made here, with the best reachable ranking known.

Users and items belong to overlapping communities. A user draws items without replacement, each
with the probability

    p(i | u) = noise * b_i / sum(b) + (1 - noise) * sum_c a_uc * q_c(i)

where ``a_u`` are the user's shares of communities, ``q_c`` is the popularity ``b`` of the items
over those of community c (an item belongs to one or two), and ``b`` and the numbers of items of
users follow power laws. Given what a user was seen with, the next item follows ``p(. | u)`` over
the other items, so ranking by it is the best that anybody can do, up to the order of the draws:
that is the oracle.

Stability: internal
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recsys.graph.interactions import Interactions, Names
from recsys.graph.knowledge import KnowledgeGraph
from recsys.graph.triples import knowledge_graph
from recsys.schema import Frozen

Array = NDArray[np.float64]

_BLOCK = 1024
_SPAN_S = 30 * 86_400
_START_S = 1_704_067_200  # 2024-01-01
_ROLES = ("users", "items", "degrees", "draws", "times", "knowledge")


class PlantedInteractionsConfig(Frozen):
    """Sizes, seed and strengths of planted interactions."""

    num_users: int = Field(default=1000, ge=1)
    """Users."""
    num_items: int = Field(default=600, ge=2)
    """Items."""
    num_communities: int = Field(default=12, ge=1)
    """Communities."""
    mean_items: float = Field(default=24.0, ge=1)
    """About how many items a user has."""
    min_items: int = Field(default=5, ge=1)
    """Fewest items of a user."""
    skew: float = Field(default=0.7, ge=0, le=2)
    """The popularity of the i-th item is about ``i ** -skew``."""
    overlap: float = Field(default=0.3, ge=0, le=0.5)
    """Share of a second community in the tastes of a user; also the share of items that belong to
    two."""
    noise: float = Field(default=0.1, ge=0, le=1)
    """Share of draws by popularity alone; 1 leaves nothing to learn but that."""
    knowledge_noise: float = Field(default=0.1, ge=0, le=1)
    """Share of items whose attributes tell a community at random."""
    num_makers: int = Field(default=48, ge=1)
    """Makers of items, each at home in one community."""
    seed: int = Field(default=7, ge=0)
    """Another seed, another truth."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PlantedInteractions:
    """The truth, and what it draws.

    Args:
        config: Sizes, seed and strengths.
        tastes: Share of every community in every user's tastes.
        members: Whether an item belongs to a community.
        popularity: Of every item, summing to 1.
        degrees: How many items every user draws.

    Shape:
        - tastes: (U, C)
        - members: (I, C) bool
        - popularity: (I,)
        - degrees: (U,)

    Example:
        >>> truth = PlantedInteractions.of(PlantedInteractionsConfig(num_users=50, num_items=40))
        >>> log = truth.interactions()
        >>> bool((log.user_degrees() == truth.degrees).all())
        True
    """

    config: PlantedInteractionsConfig
    tastes: Array
    members: NDArray[np.bool_]
    popularity: Array
    degrees: NDArray[np.int64]

    @classmethod
    def of(cls, config: PlantedInteractionsConfig) -> PlantedInteractions:
        """Plants the truth.

        Args:
            config: Sizes, seed and strengths.
        """
        communities = config.num_communities
        random = _random(config, "users")
        tastes = np.zeros((config.num_users, communities))
        everybody = np.arange(config.num_users)
        first, second = _two(random, config.num_users, communities)
        tastes[everybody, second] += config.overlap
        tastes[everybody, first] += 1 - config.overlap
        random = _random(config, "items")
        members = np.zeros((config.num_items, communities), bool)
        first, second = _two(random, config.num_items, communities)
        members[np.arange(config.num_items), first] = True
        both = np.flatnonzero(random.random(config.num_items) < config.overlap)
        members[both, second[both]] = True
        popularity = (1.0 + random.permutation(config.num_items)) ** -config.skew
        random = _random(config, "degrees")
        spare = max(config.mean_items - config.min_items, 0.0)
        # Lomax with shape 2.5: a power law whose mean is spare.
        drawn = random.pareto(2.5, config.num_users) * 1.5 * spare
        most = max(config.min_items, config.num_items // 2)
        degrees = np.clip(config.min_items + np.floor(drawn), 1, min(most, config.num_items))
        return cls(config, tastes, members, popularity / popularity.sum(), degrees.astype(np.int64))

    def probabilities(self, users: np.ndarray) -> Array:
        """The probability of every item as the first draw of users: the scores of the oracle.

        Args:
            users: Numbers, (B,).

        Returns:
            (B, I), every row summing to 1. More is better; seen items are for the caller to mask.
        """
        within = self.members * self.popularity[:, None]
        totals = within.sum(0)
        # A community that no item belongs to is about popular items.
        within = np.where(totals > 0, within / np.where(totals > 0, totals, 1),
                          self.popularity[:, None])  # fmt: skip
        noise = self.config.noise
        return noise * self.popularity + (1 - noise) * (self.tastes[users] @ within.T)

    def interactions(self) -> Interactions:
        """All pairs, with the time (in seconds) of each: draws of a user are in the order of time.

        Ids are the numbers.
        """
        random, users, items = _random(self.config, "draws"), [], []
        for start in range(0, self.config.num_users, _BLOCK):
            block = np.arange(start, min(start + _BLOCK, self.config.num_users))
            with np.errstate(divide="ignore"):
                keys = np.log(self.probabilities(block))
            keys += random.gumbel(size=keys.shape)  # the largest k are k draws without replacement
            order = np.argsort(-keys, axis=1, kind="stable")
            taken = np.arange(self.config.num_items) < self.degrees[block][:, None]
            users.append(np.repeat(block, self.degrees[block]))
            items.append(order[taken])
        user, item = np.concatenate(users), np.concatenate(items)
        seconds = _random(self.config, "times").random(len(user))
        seconds = seconds[np.lexsort((seconds, user))]  # rising within a user
        time = _START_S + (seconds * _SPAN_S).astype(np.int64)
        order = np.lexsort((item, user))
        return Interactions(
            Names(np.arange(self.config.num_users)), Names(np.arange(self.config.num_items)),
            user[order], item[order], time[order],
        )  # fmt: skip

    def knowledge(self) -> KnowledgeGraph:
        """Triples that tell communities: ``style`` and ``maker`` of items, ``known_for`` of makers.

        Entities after the items are called ``style:<c>`` and ``maker:<m>``, items ``item:<i>``.
        """
        config, random = self.config, _random(self.config, "knowledge")
        home = np.arange(config.num_makers) % config.num_communities
        random.shuffle(home)
        triples = [(f"maker:{m}", "known_for", f"style:{c}") for m, c in enumerate(home)]
        for item in range(config.num_items):
            told = np.flatnonzero(self.members[item])
            if random.random() < config.knowledge_noise:
                told = random.integers(config.num_communities, size=1)
            triples += [(f"item:{item}", "style", f"style:{c}") for c in told]
            makers = np.flatnonzero(home == told[0])
            if len(makers):
                triples.append((f"item:{item}", "maker", f"maker:{random.choice(makers)}"))
        heads, relations, tails = zip(*triples)
        items = Names([f"item:{item}" for item in range(config.num_items)])
        return knowledge_graph(items, (list(heads), list(relations), list(tails)))


def _random(config: PlantedInteractionsConfig, role: str) -> np.random.Generator:
    """An own stream for every part, so that a setting of one leaves the others as they are."""
    return np.random.default_rng([config.seed, _ROLES.index(role)])


def _two(
    random: np.random.Generator, size: int, communities: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two communities each, different ones where there are two."""
    first = random.integers(communities, size=size)
    step = random.integers(1, max(communities, 2), size=size)
    return first, (first + step) % communities
