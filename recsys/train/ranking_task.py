"""Training a collaborative filter: the model's own loss, judged by the lists it gives.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from recsys.cf import EmbeddingModel
from recsys.cf_config import CFTrainConfig, RankingConfig
from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.evaluate.ranking import RankingOptions, evaluate_ranking
from recsys.graph.interactions import Interactions
from recsys.train.diagnosis import loss_problem
from recsys.train.ranks import Ranks, WeightSum
from recsys.train.task import Judgement, Task
from recsys.types import PairBatch, TripleBatch


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """What is judged in training.

    Args:
        seen: Pairs that lists leave out.
        relevant: Pairs that should be in them.
        given: See `recsys.evaluate.ranking.evaluate_ranking`.
    """

    seen: Interactions
    relevant: Interactions
    given: Interactions | None = None

    @classmethod
    def of(
        cls,
        seen: Interactions,
        relevant: Interactions,
        users: int | None,
        seed: int,
        given: Interactions | None = None,
    ) -> Validation:
        """All relevant pairs, or those of some users.

        Args:
            seen: Pairs that lists leave out.
            relevant: Pairs of the validation split.
            users: How many users, None for all.
            seed: Of their choice.
            given: What is told of users that nothing is trained on.
        """
        active = np.flatnonzero(relevant.user_degrees())
        if users is not None and users < len(active):
            chosen = np.random.default_rng(seed).choice(active, users, replace=False)
            relevant = relevant.take(np.isin(relevant.user, chosen))
        return cls(seen, relevant, given)


class RankingTask(Task):
    """Trains an `EmbeddingModel`.

    Args:
        model: Gives the loss of a batch and an auxiliary loss.
        config: Monitored metric, learning rate.
        ranking: Cut-offs.
        tables: The tables' optimizer, for error texts.
        ranks: Of the job.
        seed: Of what the model draws for an epoch, the same on every rank.
    """

    model: EmbeddingModel
    config: CFTrainConfig

    def __init__(
        self,
        model: EmbeddingModel,
        config: CFTrainConfig,
        ranking: RankingConfig,
        tables: EmbeddingOptimizer | None,
        ranks: Ranks,
        seed: int = 0,
    ) -> None:
        super().__init__(model, config)
        self._seed = seed
        self._ranks, self._tables = ranks, None if tables is None else tables.config
        self._options = RankingOptions(ks=ranking.ks, bootstrap_samples=0, slice_groups=0)

    def loss(self, batch: PairBatch | TripleBatch) -> Tensor:
        """The mean over the pairs (or triples) of all ranks, as if one process had them."""
        loss = self.model.loss(cast(Any, batch))  # one of those that its own loader gives
        if self._ranks.world_size > 1:
            total = WeightSum(None, batch.batch_size, self._ranks, loss.device).value()
            loss = loss * (batch.batch_size * self._ranks.world_size / total)
        return loss + self.model.auxiliary_loss()

    def begin_epoch(self, epoch: int) -> None:
        """See `Task`."""
        self.model.begin_epoch(epoch, self._seed)

    @property
    def monitor(self) -> str:
        """See `Task`."""
        return self.config.monitor

    def higher_is_better(self) -> bool:
        """See `Task`."""
        return True

    def blame(self, place: str) -> str:
        """See `Task`."""
        return loss_problem(place, "", self.config, self._tables)

    def judge(self, valid: Validation, step: int, factor: float) -> Judgement:
        """See `Task`."""
        del step, factor
        was_training = self.model.training
        self.model.eval()
        try:
            found = evaluate_ranking(
                self.model, valid.seen, valid.relevant, self._options, valid.given
            )
        finally:
            self.model.train(was_training)
        k = max(self._options.ks)
        problem = ""
        if _same_lists(found.lists):
            problem = (
                "the model gives every user the same list, so it has learned nothing of them. "
                f"{self.blame('equal lists')}"
            )
        return Judgement(found.metrics, (f"recall@{k}", f"ndcg@{k}"), problem)


def _same_lists(lists: np.ndarray) -> bool:
    """Whether all lists are equal, of users enough to tell (they have seen different items)."""
    found = torch.from_numpy(lists)
    return len(found) > 20 and bool((found == found[0]).all())
