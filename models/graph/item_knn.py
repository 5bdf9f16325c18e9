"""Nearest neighbours of items.

Train it: ``recsys train --config configs/graph/item_knn.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.sparse import csr_array

from recsys.cf_fitted import ItemSimilarityModel
from recsys.graph.fitted_buffers import check_weights
from recsys.graph.item_similarity import neighbours, weighted
from recsys.graph.products import size, sums, transposed


class ItemKNN(ItemSimilarityModel):
    """Items like those that were seen, by the users they share.

    ``w_ij = (x_i . x_j) / (|x_i| |x_j| + shrinkage)`` for the ``top_k`` nearest j of every i, with
    x_i the users of item i, weighted.

    Args:
        config: Neighbours and weights.
        graph: The training pairs.

    Source:
        Sarwar et al., "Item-Based Collaborative Filtering Recommendation Algorithms", WWW 2001,
        Section 3 (cosine). Differs: scores are sums, not averages, because what was not seen is
        not a rating. Shrinkage as in Bell and Koren, "Improved Neighborhood-based Collaborative
        Filtering", KDD Cup 2007, weights as in text retrieval.

    Example:
        >>> import torch
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> graph = InteractionGraph(2, 2, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
        >>> model = ItemKNN(ItemKNN.Config(), graph)
        >>> model.fit(lambda line: None)
        >>> model.scores(torch.tensor([1])).tolist()  # 1 / (1 * sqrt(2))
        [[0.7071067690849304, 0.0]]

    Stability: caller
    """

    class Config(ItemSimilarityModel.Config):
        """Options of `ItemKNN`."""

        top_k: int = Field(default=200, ge=1)
        """Neighbours of an item."""
        shrinkage: float = Field(default=0.0, ge=0)
        """Holds pairs with few shared users back."""
        weighting: Literal["none", "tfidf", "bm25"] = "none"
        """How pairs count, see `recsys.graph.item_similarity.weighted`. Where no pair has a weight
        of its own and nothing shrinks, bm25 is the same as tfidf: a cosine does not see lengths."""
        bm25_k1: float = Field(default=1.2, gt=0)
        """Of bm25: from where more of a weight says little."""
        bm25_b: float = Field(default=0.75, ge=0, le=1)
        """Of bm25: how much popular items are held back."""

    config: Config

    def fit(self, say: Callable[[str], None]) -> None:
        """Finds the neighbours of all items."""
        config = self.config
        check_weights(self.graph.matrix())
        matrix = weighted(self.graph.matrix(), config.weighting, config.bm25_k1, config.bm25_b)
        lengths = np.sqrt(sums(matrix.power(2), 0))

        def cosine(block: csr_array, start: int) -> None:
            rows = np.repeat(np.arange(start, start + size(block)[0]), np.diff(block.indptr))
            scale = lengths[rows] * lengths[block.indices] + config.shrinkage
            block.data /= np.where(scale > 0, scale, 1).astype(np.float32)

        self.weights.assign(neighbours(transposed(matrix), matrix, config.top_k, cosine, say))
