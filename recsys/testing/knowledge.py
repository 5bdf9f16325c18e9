"""What every collaborative filter with a knowledge graph has to do, as one suite to inherit.

That is what `recsys.testing.cf` asks of any filter, and that knowledge helps where pairs cannot.

Example::

    class TestKGAT(KnowledgeModelConformance):
        model = KGAT
        config = KGAT.Config(embedding_dim=8)

pytest collects the inherited tests with the class. A test beside it pins the equations.

Stability: testing
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch

from recsys.errors import ConfigError, DataError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.knowledge import KnowledgeGraph
from recsys.graph.planted_interactions import PlantedInteractions, PlantedInteractionsConfig
from recsys.testing.cf import CFModelConformance, tiny_interactions, tiny_knowledge

_PLANTED = PlantedInteractionsConfig(
    num_users=200, num_items=150, num_communities=5, mean_items=20, skew=0.0, noise=0.02,
    knowledge_noise=0.0,
)  # fmt: skip


class KnowledgeModelConformance(CFModelConformance):
    """Inherit, name the model and a small config, and run pytest."""

    cold_rank: ClassVar[float] = 0.58
    """What `rank_of_cold_items` must reach: 0.5 is chance, and the truth reaches 0.75."""
    cold_config: ClassVar[dict[str, Any]] = {"embedding_dim": 16}
    """What it is measured with, beside ``config``."""

    def rank_of_cold_items(self, knowledge_is_right: bool) -> float:
        """Where the items that users took are, among items that training had no pair of.

        A fifth of the items of planted communities are taken out of training.

        Args:
            knowledge_is_right: Whether items have their own style and maker, or those of others.

        Returns:
            The mean share of the other such items that score less.
        """
        truth = PlantedInteractions.of(_PLANTED)
        log, known = truth.interactions(), truth.knowledge()
        if not knowledge_is_right:
            other = np.arange(len(known.entities))
            other[: log.num_items] = np.random.default_rng(1).permutation(log.num_items)
            known = dataclasses.replace(known, head=other[known.head], tail=other[known.tail])
        cold = np.arange(log.num_items) % 5 == 0
        train, held = log.take(~cold[log.item]), log.take(cold[log.item])
        config = self.config.model_copy(update=self.cold_config)
        made = cast(Any, self.model)(config, InteractionGraph.of(train, known))
        made.reset_parameters(1)
        self.train_some(made, 12, 256)
        scores = made.scores(torch.arange(log.num_users))[:, torch.from_numpy(cold)]
        share = scores.argsort(1).argsort(1).double() / (cold.sum() - 1)
        place = np.cumsum(cold) - 1
        return float(share[torch.from_numpy(held.user), torch.from_numpy(place[held.item])].mean())

    def test_knowledge_ranks_items_that_nobody_was_seen_with(self) -> None:
        """With what is known of them they are found; with what is known of others, it is chance."""
        assert self.rank_of_cold_items(True) > self.cold_rank
        assert abs(self.rank_of_cold_items(False) - 0.5) < 0.05

    def test_knowledge_is_needed_and_must_be_about_the_items(self) -> None:
        """Else the error says what to do."""
        train, known = tiny_interactions(), tiny_knowledge()
        with pytest.raises(ConfigError, match="knowledge graph"):
            cast(Any, self.model)(self.config, InteractionGraph.of(train))
        other = KnowledgeGraph(
            known.entities, known.relations, 19, known.head, known.relation, known.tail
        )
        with pytest.raises(DataError, match="is about 19"):
            cast(Any, self.model)(self.config, InteractionGraph.of(train, other))
