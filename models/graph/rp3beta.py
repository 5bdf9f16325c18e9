"""Random walks of three steps that hold popular items back.

Train it: ``recsys train --config configs/graph/rp3beta.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.sparse import csr_array

from recsys.cf_fitted import ItemSimilarityModel
from recsys.graph.fitted_buffers import check_weights
from recsys.graph.item_similarity import neighbours
from recsys.graph.products import scaled, size, sums, transposed


class RP3beta(ItemSimilarityModel):
    """Where a walk from a user ends: to an item, to one of its users, to one of their items.

    ``w_ij = sum_u p(u|i)^alpha p(j|u)^alpha / d_j^beta``, with ``p(u|i) = r_ui / d_i`` and
    ``p(j|u) = r_uj / d_u``; the largest are kept and then add up to 1 for every seen item i.

    Args:
        config: Exponents and neighbours.
        graph: The training pairs.

    Source:
        Paudel, Christoffel, Newell, Bernstein, "Updatable, Accurate, Diverse, and Scalable
        Recommendations for Interactive Applications", TiiS 2017. Differs: probabilities are
        computed, not sampled; only the largest weights are kept; the first step from the user has
        the same probability for all seen items, so scores are not divided by it. The defaults are
        those that Anelli et al., "Challenging the Myth of Graph Collaborative Filtering", RecSys
        2023, found for Gowalla.

    Example:
        >>> import torch
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> graph = InteractionGraph(2, 2, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
        >>> model = RP3beta(RP3beta.Config(alpha=1.0, beta=1.0, normalize=False), graph)
        >>> model.fit(lambda line: None)
        >>> model.scores(torch.tensor([1])).tolist()  # 1/2 to user 0, 1/2 to item 0, popularity 1
        [[0.25, 0.0]]

    Stability: caller
    """

    class Config(ItemSimilarityModel.Config):
        """Options of `RP3beta`."""

        alpha: float = Field(default=0.5664, ge=0)
        """Exponent of the probabilities of steps: lower makes them more equal."""
        beta: float = Field(default=0.0011, ge=0)
        """How much popular items are held back."""
        top_k: int = Field(default=777, ge=1)
        """Weights that are kept of an item."""
        side: Literal["seen", "scored"] = "seen"
        """Whose largest weights are kept: of each item that is seen, or that is scored."""
        normalize: bool = True
        """Whether the weights of a seen item are divided by their sum."""

    config: Config

    def fit(self, say: Callable[[str], None]) -> None:
        """Walks from all items."""
        config, matrix = self.config, self.graph.matrix()
        check_weights(matrix)
        users, items = sums(matrix, 1), sums(matrix, 0)
        held_back = np.where(items > 0, items, 1) ** -config.beta
        there = _steps(matrix, users, config.alpha)
        back = _steps(transposed(matrix), items, config.alpha)
        if config.side == "seen":

            def adjust(block: csr_array, start: int) -> None:
                block.data *= held_back[block.indices].astype(np.float32)

            found = neighbours(back, there, config.top_k, adjust, say)
        else:

            def adjust(block: csr_array, start: int) -> None:
                rows = held_back[start : start + size(block)[0]]
                block.data *= np.repeat(rows, np.diff(block.indptr)).astype(np.float32)

            left, right = transposed(there), transposed(back)
            found = transposed(neighbours(left, right, config.top_k, adjust, say))
        if config.normalize:
            total = sums(found, 1)
            found = scaled(found, 1 / np.where(total > 0, total, 1), None)
        self.weights.assign(found)


def _steps(pairs: csr_array, degrees: np.ndarray, alpha: float) -> csr_array:
    """Probabilities of a step along every pair, to a power."""
    found = scaled(pairs, 1 / np.where(degrees > 0, degrees, 1), None)
    found.data **= np.float32(alpha)
    return found
