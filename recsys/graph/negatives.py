"""Items that users have not seen, drawn for training pairs.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from recsys.errors import ConfigError, DataError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.known_pairs import KnownPairs
from recsys.schema import Frozen
from recsys.types import PairBatch

Scorer = Callable[[Tensor, Tensor], Tensor]
"""Scores of candidates, more is better: (B,) users and (B, P) items to (B, P)."""

_ROUNDS = 8  # of drawing again, before what is left is drawn from a user's own unseen items
_FLOATS_AT_ONCE = 1 << 22


class SamplingConfig(Frozen):
    """Which pairs a batch has, and which negatives."""

    by: Literal["edge", "user"] = "edge"
    """``edge``: every pair once an epoch. ``user``: as many pairs, each of a user drawn uniformly
    (with replacement, among those with a pair) and one of that user's items, as LightGCN does."""
    negatives: Literal["uniform", "popularity", "in_batch", "hard", "none"] = "uniform"
    """Over all items alike; by their number of users to the power ``alpha``; among the items of
    the batch; the ones that the model ranks highest of ``pool_size`` uniform ones; none."""
    num_negatives: int = Field(default=1, ge=1)
    """Of every pair, or of the whole batch where they are shared (``in_batch``: all its items)."""
    shared: bool = False
    """One set of negatives for the whole batch."""
    reject: bool = True
    """Never give a user an item that the user has seen. Of shared negatives, say which those are
    (``PairBatch.known``)."""
    alpha: float = Field(default=0.75, ge=0)
    """Power of the popularity."""
    pool_size: int = Field(default=16, ge=1)
    """Candidates of every pair among which ``hard`` chooses."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.negatives == "hard" and self.shared:
            raise ConfigError("hard negatives are those of a user: expected shared=false.")
        if self.negatives == "hard" and self.pool_size < self.num_negatives:
            raise ConfigError(
                f"expected a pool_size of at least num_negatives ({self.num_negatives}), got "
                f"{self.pool_size}."
            )
        return self


class NegativeSampler:
    """Completes pairs with negatives.

    Args:
        graph: With all pairs that count as seen; on the CPU.
        config: Which negatives.
        scorer: The model's scores, for ``hard``; called without gradient.

    Raises:
        ConfigError: ``hard`` without a scorer.
        DataError: Some user has seen all items, so that there is nothing to draw.

    Source:
        ``hard``: Zhang et al., "Optimizing Top-N Collaborative Filtering via Dynamic Negative Item
        Sampling", SIGIR 2013. ``popularity``: Mikolov et al., "Distributed Representations of Words
        and Phrases", NIPS 2013; an item that nobody has counts as one that one user has, so
        that every item can be drawn.
    """

    def __init__(
        self, graph: InteractionGraph, config: SamplingConfig, scorer: Scorer | None = None
    ) -> None:
        if config.negatives == "hard" and scorer is None:
            raise ConfigError("hard negatives need the model's scores: give a `scorer`.")
        self.config, self._scorer, self._num_items = config, scorer, graph.num_items
        self.known = KnownPairs(graph)
        self._check(graph)
        self._cumulative, self.log_q = self._popularity(graph)

    def _check(self, graph: InteractionGraph) -> None:
        config = self.config
        if config.negatives == "none" or config.shared or not config.reject:
            return
        full = (self.known.degrees == graph.num_items).nonzero()[:, 0]
        if len(full):
            raise DataError(
                f"{len(full)} user(s), the first number {int(full[0])}, have seen all "
                f"{graph.num_items} items, so they have no negatives. Leave them out of the "
                "training pairs, or set `sampling.reject: false`."
            )

    def _popularity(self, graph: InteractionGraph) -> tuple[Tensor | None, Tensor | None]:
        """Cumulative probabilities and logarithms of the probabilities of the items."""
        config = self.config
        if config.negatives == "popularity":
            q = graph.item_degrees().clamp_(min=1).double() ** config.alpha
        elif config.negatives == "in_batch" and config.by == "edge":
            q = graph.item_degrees().double()
        elif config.negatives == "in_batch":
            q = torch.zeros(graph.num_items, dtype=torch.float64)
            q.index_add_(0, graph.item, 1 / self.known.degrees[graph.user].double())
        else:
            return None, None
        q /= q.sum()
        return q.cumsum(0), q.log().float()

    def complete(self, user: Tensor, item: Tensor, generator: torch.Generator) -> PairBatch:
        """The batch of these pairs.

        Args:
            user: (B,).
            item: Seen by them, (B,).
            generator: Of all draws.
        """
        config, known = self.config, None
        if config.negatives == "none":
            return PairBatch(user, item)
        if config.shared:
            in_batch = config.negatives == "in_batch"
            negatives = item if in_batch else self._items(config.num_negatives, generator)
            if config.reject:
                known = self.known.among(user, negatives)
            return PairBatch(user, item, negatives, self.log_q, known)
        if config.negatives == "hard":
            negatives = self._hard(user, generator)
        else:
            owner = user.repeat_interleave(config.num_negatives)
            negatives = self._of(owner, item, generator).view(len(user), config.num_negatives)
        return PairBatch(user, item, negatives, self.log_q)

    def _items(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws whatever anybody has seen."""
        if self._cumulative is None:
            return torch.randint(self._num_items, (count,), generator=generator)
        draws = torch.rand(count, dtype=torch.float64, generator=generator)
        found = torch.searchsorted(self._cumulative, draws, right=True)
        return found.clamp_(max=self._num_items - 1)

    def _of(self, owner: Tensor, batch: Tensor, generator: torch.Generator) -> Tensor:
        """One negative of every owner."""
        if self.config.negatives == "in_batch":

            def draw(count: int) -> Tensor:
                return batch[torch.randint(len(batch), (count,), generator=generator)]
        else:

            def draw(count: int) -> Tensor:
                return self._items(count, generator)

        found = draw(len(owner))
        if not self.config.reject:
            return found
        wrong = self.known.seen(owner, found)
        if self._cumulative is None:  # uniform: given that it was wrong, any unseen item alike
            found[wrong] = self.known.unseen(owner[wrong], generator)
            return found
        for _ in range(_ROUNDS):
            if not len(wrong):
                return found
            found[wrong] = again = draw(len(wrong))
            wrong = wrong[self.known.seen(owner[wrong], again)]
        q = self.log_q.exp() if self.log_q is not None else torch.ones(self._num_items)
        if self.config.negatives == "in_batch":
            q = torch.bincount(batch, minlength=self._num_items).float()
        for part in wrong.split(max(1, _FLOATS_AT_ONCE // self._num_items)):
            found[part] = self._rest(owner[part], q, generator)
        return found

    def _rest(self, owner: Tensor, q: Tensor, generator: torch.Generator) -> Tensor:
        """The same draw for users whose seen items have nearly all the probability."""
        weights = q.repeat(len(owner), 1)
        weights[self.known.histories(owner)] = 0
        nothing = weights.sum(1) == 0  # they know the whole batch: any other item
        found = torch.empty_like(owner)
        found[nothing] = self.known.unseen(owner[nothing], generator)
        if not nothing.all():
            left = weights[~nothing]
            found[~nothing] = torch.multinomial(left, 1, generator=generator)[:, 0]
        return found

    def _hard(self, user: Tensor, generator: torch.Generator) -> Tensor:
        """The candidates with the highest scores, the best first."""
        config, scorer = self.config, self._scorer
        assert scorer is not None
        owner = user.repeat_interleave(config.pool_size)
        pool = self._of(owner, owner, generator).view(len(user), config.pool_size)
        with torch.no_grad():
            scores = scorer(user, pool)
        if scores.shape != pool.shape:
            raise ConfigError(
                f"scorer: expected scores {tuple(pool.shape)}, got {tuple(scores.shape)}."
            )
        best = scores.topk(config.num_negatives, dim=1).indices.to(pool.device)
        return pool.gather(1, best)
