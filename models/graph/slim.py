"""Sparse linear regression of every item on others.

Train it: ``recsys train --config configs/graph/slim.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from recsys.cf_fitted import ItemSimilarityModel
from recsys.graph.elastic_net import item_regressions


class SLIM(ItemSimilarityModel):
    """The nonnegative weights that best give every item from the others, many of them 0.

    ``min 1/2 |R - R W|^2 + l1 |W|_1 + l2/2 |W|^2`` over ``W >= 0`` with a diagonal of 0, by
    coordinate descent over all items at once, see `recsys.graph.elastic_net`.

    Args:
        config: Regularization and when to stop.
        graph: The training pairs.

    Source:
        Ning and Karypis, "SLIM: Sparse Linear Methods for Top-N Recommender Systems", ICDM 2011;
        with ``candidates`` their fsSLIM. In terms of scikit-learn's
        ``ElasticNet(positive=True, fit_intercept=False)``: ``l1 = U alpha l1_ratio`` and
        ``l2 = U alpha (1 - l1_ratio)`` for U users. The defaults are alpha 1e-3 and l1_ratio 1e-3
        on Gowalla.

    Example:
        >>> import torch
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> graph = InteractionGraph(2, 2, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
        >>> model = SLIM(SLIM.Config(l1=0.5, l2=1.0), graph)
        >>> model.fit(lambda line: None)
        >>> model.scores(torch.tensor([1])).tolist()  # (1 - 1/2) / (2 + 1)
        [[0.1666666716337204, 0.0]]

    Stability: caller
    """

    class Config(ItemSimilarityModel.Config):
        """Options of `SLIM`."""

        l1: float = Field(default=0.03, ge=0)
        """Makes weights 0, in units of shared users."""
        l2: float = Field(default=30.0, gt=0)
        """Makes weights small, in units of shared users."""
        candidates: int | None = Field(default=None, ge=1)
        """Items that may give an item, those with the largest cosine; None for all."""
        tolerance: float = Field(default=1e-2, gt=0)
        """Items are done when no weight changes by more."""
        max_sweeps: int = Field(default=50, ge=1)
        """Over all weights, at most."""

    config: Config

    def fit(self, say: Callable[[str], None]) -> None:
        """Solves for the weights of all items."""
        config = self.config
        found = item_regressions(
            self.graph.matrix(), config.l1, config.l2, config.candidates, config.tolerance,
            config.max_sweeps, say,
        )  # fmt: skip
        self.weights.assign(found)
