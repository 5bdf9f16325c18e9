"""Collaborative filters that are fitted, by a closed form or a solver: no epochs, no gradient.

Stability: caller
"""

from __future__ import annotations

import abc
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from recsys.cf import CFModel
from recsys.embeddings.collection import EmbeddingCollection
from recsys.errors import ConfigError
from recsys.graph.explanation import Explanation
from recsys.graph.fitted_buffers import FittedBuffers
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.item_similarity import ItemWeights
from recsys.graph.products import one_each, size

_BLOCK = 256  # histories that are scored at once to explain one score


class FittedModel(FittedBuffers, CFModel):
    """A filter without gradient descent: `fit` computes it, and scores follow from a history.

    What `fit` computes are buffers (so that state dicts hold them); before it they are empty. A
    user's score depends on nothing but the items that were seen, so anybody with a history gets
    scores, known or new.

    Args:
        config: An instance of the class's own ``Config``.
        graph: The training pairs.
    """

    class Config(CFModel.Config):
        """Options that fitted models share."""

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self.seed = 0
        self._history: csr_array | None = None
        if config.compression is not None:
            raise ConfigError(
                f"{type(self).__name__} has no embedding tables, so there is nothing to compress. "
                "Remove `compression`."
            )
        self.embeddings = EmbeddingCollection({}, ())

    @abc.abstractmethod
    def fit(self, say: Callable[[str], None]) -> None:
        """Computes everything from the graph.

        Args:
            say: Shows a line of progress of long work.
        """

    @abc.abstractmethod
    def scores_of(self, history: csr_array) -> Tensor:
        """Scores of all items for anybody with a history.

        Args:
            history: Sparse (B, I) float32; 1 where an item was seen (or its weight).

        Returns:
            (B, I) float32, more is better.
        """

    def scores(self, users: Tensor) -> Tensor:
        """See `CFModel`."""
        if self._history is None:
            self._history = self.graph.matrix()
        with torch.inference_mode():
            return self.scores_of(self._history[users.numpy()])

    def similarities(self, items: Tensor) -> Tensor:
        """What somebody wants who has seen nothing but the item. See `CFModel`."""
        with torch.inference_mode():
            return self.scores_of(one_each(items.numpy(), None, self.graph.num_items))

    def explain(self, item: int, history: csr_array, user: int | None = None) -> Explanation:
        """What every seen item gives, where scores are sums over them. See `CFModel`.

        Whether they are is checked: nobody's score must be 0, and the parts must add up.
        """
        parts = one_each(history.indices, history.data, self.graph.num_items)
        nobody = csr_array((1, self.graph.num_items), dtype=np.float32)
        with torch.inference_mode():
            score, start = self.scores_of(history)[0, item], self.scores_of(nobody)[0, item]
            blocks = [parts[start : start + _BLOCK] for start in range(0, size(parts)[0], _BLOCK)]
            found = [self.scores_of(block)[:, item] for block in blocks]
        given = torch.cat([torch.zeros(0), *found])
        scale = given.abs().sum() + score.abs()
        if start != 0 or (given.sum() - score).abs() > 1e-4 * scale:
            return super().explain(item, history, user)
        return Explanation.of_items(item, history.indices, given.numpy(), float(score))

    def reset_parameters(self, seed: int) -> None:
        """Sets the seed of whatever `fit` draws; there are no start values.

        Args:
            seed: Any integer from 0.
        """
        self.seed = seed


class ItemSimilarityModel(FittedModel):
    """A filter that is one matrix: the score of item j is ``sum_i history_i * w_ij``.

    A subclass fills ``self.weights`` in `fit`.

    Args:
        config: An instance of the class's own ``Config``.
        graph: The training pairs.
    """

    class Config(FittedModel.Config):
        """Options that models of item similarities share."""

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self.weights = ItemWeights(graph.num_items)

    def scores_of(self, history: csr_array) -> Tensor:
        """See `FittedModel`."""
        return self.weights(history)

    def contributions(
        self, items: Tensor, item: int, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """How much of the score of an item each seen item gave.

        Args:
            items: Numbers of the items that were seen, (N,) int64.
            item: Number of the item whose score is explained.
            values: Of the history, (N,); None for all 1.

        Returns:
            The seen items by falling contribution, and the contributions, (N,) each. The
            contributions add up to the score.
        """
        given = self.weights.column(items, item)
        if values is not None:
            given = given * values
        order = given.argsort(descending=True, stable=True)
        return items[order], given[order]

    def similarities(self, items: Tensor) -> Tensor:
        """The weights; those of 0 speak of no likeness. See `CFModel`."""
        rows = self.weights.rows(items)
        return rows.masked_fill(rows == 0, -torch.inf)

    def explain(self, item: int, history: csr_array, user: int | None = None) -> Explanation:
        """See `CFModel` and `contributions`."""
        seen, values = (torch.from_numpy(part) for part in (history.indices, history.data))
        items, given = self.contributions(seen.long(), item, values)
        score = float(given.double().sum())
        return Explanation.of_items(item, items.numpy(), given.numpy(), score)

    def similar_items(self, items: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The items for which seeing an item says most.

        Args:
            items: Numbers, (N,) int64.
            k: How many of each.

        Returns:
            Numbers and weights, (N, min(k, I)) each, by falling weight; number -1 and weight 0
            where fewer have a weight.
        """
        rows = self.weights.rows(items)
        weights, numbers = rows.topk(min(k, rows.shape[1]), dim=1)
        return torch.where(weights == 0, -1, numbers), weights
