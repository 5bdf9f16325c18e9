"""Queries and items with planted concepts: the embedded default of explicit concept spaces.

A query is about some concepts, an item about some; its text has a word of its own words for each,
and words that say nothing. Right for a query are the items that share most concepts with it. Not
all concepts are told. Licence: none needed, all is made by this file. Split: by query, at random by
seed: held-out queries are new.

Traps:
    - Concepts that are not told are no negatives, though a loss may take them for such.
    - Held-out queries have told concepts too; a model that learns from pairs never sees them.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from recsys.graph.concept_dataset import ConceptDataset
from recsys.graph.concepts import ConceptMatches, concept_matches
from recsys.graph.splitting import UserSplit


class PlantedConcepts(ConceptDataset):
    """Made queries and items whose concepts are known.

    Args:
        config: Sizes, seed and strengths.

    Example:
        >>> data = PlantedConcepts(PlantedConcepts.Config(num_queries=20, num_items=10))
        >>> found = data.matches(Path("anywhere"))
        >>> len(found.queries), len(found.items), found.concepts.values[0]
        (20, 10, 'skill 00')
    """

    licence = "none needed: made by recsys"

    class Config(ConceptDataset.Config):
        """Sizes, seed and strengths."""

        num_queries: int = Field(default=600, ge=1)
        """Queries."""
        num_items: int = Field(default=150, ge=2)
        """Items."""
        num_concepts: int = Field(default=24, ge=2, le=100)
        """Concepts."""
        concepts_each: int = Field(default=4, ge=1)
        """Concepts of every query and of every item."""
        words_of_concept: int = Field(default=3, ge=1)
        """Different words that a concept has."""
        noise_words: int = Field(default=3, ge=0)
        """Words in a text that say nothing."""
        relevant: int = Field(default=4, ge=1)
        """Items that are right for a query: those that share most concepts, ties at random."""
        told: float = Field(default=0.7, gt=0, le=1)
        """Chance of a concept of a query or an item to be told."""
        split: UserSplit = UserSplit(valid=0.1, test=0.2)
        """Shares of the queries, and the seed."""
        seed: int = Field(default=7, ge=0)
        """Another seed, another truth."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def matches(self, cache_dir: Path) -> ConceptMatches:
        """Made at every call; nothing is written."""
        del cache_dir
        config, random = self.config, np.random.default_rng(self.config.seed)
        asked = _concepts(config.num_queries, config, random)
        has = _concepts(config.num_items, config, random)
        near = asked @ has.T + 0.5 * random.random((config.num_queries, config.num_items))
        best = np.argsort(-near, axis=1)[:, : config.relevant]
        sides = [(f"q{n:04}", row) for n, row in enumerate(asked)]
        items = [(f"i{n:04}", row) for n, row in enumerate(has)]
        right = ([name for name, _ in sides for _ in range(best.shape[1])],
                 [items[n][0] for row in best for n in row])  # fmt: skip
        asked_texts, texts = (
            {name: _text(row, config, random) for name, row in side} for side in (sides, items)
        )
        asked_told, told = (_told(side, config, random) for side in (sides, items))
        return concept_matches(
            asked_texts, texts, right, asked_told, told, config.split, by_query=True
        )


def _concepts(
    count: int, config: PlantedConcepts.Config, random: np.random.Generator
) -> np.ndarray:
    """(count, concepts) of ones and zeros."""
    each = min(config.concepts_each, config.num_concepts)
    order = np.argsort(random.random((count, config.num_concepts)), axis=1)
    return (order.argsort(1) < each).astype(np.int64)


def _text(row: np.ndarray, config: PlantedConcepts.Config, random: np.random.Generator) -> str:
    words = [f"c{k:02}w{random.integers(config.words_of_concept)}" for k in np.flatnonzero(row)]
    words += [f"n{random.integers(200)}" for _ in range(config.noise_words)]
    return " ".join(random.permutation(words))


def _told(
    side: list[tuple[str, np.ndarray]], config: PlantedConcepts.Config, random: np.random.Generator
) -> tuple[list[str], list[str]]:
    pairs = [(name, f"skill {k:02}") for name, row in side for k in np.flatnonzero(row)
             if random.random() < config.told]  # fmt: skip
    return [name for name, _ in pairs], [concept for _, concept in pairs]
