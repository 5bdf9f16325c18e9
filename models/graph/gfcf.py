"""A low-pass filter of the graph, without training.

Train it: ``recsys train --config configs/graph/gfcf.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor

from recsys.cf_fitted import FittedModel
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.spectrum import ItemFilter


class GFCF(FittedModel):
    """One smoothing step and an ideal low-pass filter: ``r (P + ideal_weight * ideal)``.

    With ``R~ = D_U^-1/2 R D_I^-1/2``: ``P = R~^T R~``, and the ideal filter is
    ``D_I^-1/2 V V^T D_I^1/2`` with V the leading eigenvectors of P.

    Args:
        config: Rank and weight of the ideal filter.
        graph: The training pairs.

    Source:
        Shen et al., "How Powerful is Graph Convolution for Recommendation?", CIKM 2021
        (GF-CF); rank and weight are those of its authors for Gowalla and Yelp2018.

    Example:
        >>> import torch
        >>> graph = InteractionGraph(2, 2, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
        >>> model = GFCF(GFCF.Config(ideal_weight=0), graph)
        >>> model.fit(lambda line: None)
        >>> wanted = torch.tensor([[0.125**0.5, 0.75]])  # 1/2 sqrt(1/2), 1/4 + 1/2
        >>> torch.allclose(model.scores(torch.tensor([1])), wanted)
        True

    Stability: caller
    """

    class Config(FittedModel.Config):
        """Options of `GFCF`."""

        ideal_rank: int = Field(default=256, ge=0)
        """Eigenvectors of the ideal filter; 0 leaves it out."""
        ideal_weight: float = Field(default=0.3, ge=0)
        """Its weight beside the smoothing step (alpha of the paper)."""

    config: Config

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self.filter = ItemFilter(graph.num_items)

    def fit(self, say: Callable[[str], None]) -> None:
        """Computes the eigenvectors."""
        self.filter.assign(self.graph.matrix(), self.config.ideal_rank, self.seed, say)

    def scores_of(self, history: csr_array) -> Tensor:
        """See `recsys.cf.FittedModel`."""
        weight = self.config.ideal_weight
        return self.filter.respond(history, lambda y, ideal: self.filter.smooth(y) + weight * ideal)
