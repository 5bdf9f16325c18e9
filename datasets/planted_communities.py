"""Interactions with planted communities: the embedded default of collaborative filtering.

Licence: none needed, the pairs are made by this file and `recsys.graph.planted_interactions`, which
says what the truth is made of. Split: at random within every user by default, or any other rule
(pairs have times). Knowledge graph: style and maker of every item, and what makers are known for.

At the defaults Recall@20 on test is .215 for popularity, .303 for cosine item neighbours, .327 for
EASE (penalty 50) and .479 for the oracle (``tests/graph/test_planted_interactions.py`` computes
them): there is room to learn, and a known end.

Traps:
    - The oracle knows the true probabilities. Its scores are no feature.
    - Times are drawn at random: no taste changes, so a split by time is as easy as any, except
      that users and items of late pairs may be new.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recsys.graph.dataset import InteractionDataset
from recsys.graph.interactions import InteractionSplits
from recsys.graph.knowledge import KnowledgeGraph
from recsys.graph.planted_interactions import PlantedInteractions, PlantedInteractionsConfig
from recsys.graph.splitting import Split, UserSplit, split_interactions


class PlantedCommunities(InteractionDataset):
    """Made interactions whose best reachable ranking is known.

    Args:
        config: Sizes, seed and strengths, and how to split.

    Example:
        >>> data = PlantedCommunities(PlantedCommunities.Config(num_users=50, num_items=40))
        >>> splits = data.splits(Path("anywhere"))
        >>> [name for name, _ in splits.items()], splits.train.num_users
        (['train', 'valid', 'test'], 50)
        >>> data.oracle(np.array([0, 1])).shape
        (2, 40)
    """

    licence = "none needed: made by recsys"

    class Config(InteractionDataset.Config, PlantedInteractionsConfig):
        """Sizes, seed and strengths, and how to split."""

        split: Split = UserSplit()
        """How pairs become train, valid and test."""

    config: Config

    def splits(self, cache_dir: Path) -> InteractionSplits:
        """Made at every call; nothing is written."""
        del cache_dir
        return split_interactions(self._truth().interactions(), self.config.split)

    def knowledge(self, cache_dir: Path) -> KnowledgeGraph:
        """Style and maker of items; what makers are known for."""
        del cache_dir
        return self._truth().knowledge()

    def oracle(self, users: np.ndarray) -> np.ndarray:
        """Scores by the true probabilities: ranking by them, seen items masked, is the best.

        Args:
            users: Numbers, (B,).

        Returns:
            (B, I) float64.
        """
        return self._truth().probabilities(users)

    def _truth(self) -> PlantedInteractions:
        return PlantedInteractions.of(self.config)
