"""The most popular items.

Train it: ``recsys train --config configs/graph/most_pop.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from recsys.cf_fitted import FittedModel
from recsys.graph.fitted_buffers import check_history
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.products import size, sums


class MostPop(FittedModel):
    """How often every item was seen in training, the same for everybody.

    The floor that whatever knows the user has to beat.

    Args:
        config: There is nothing to choose.
        graph: The training pairs.

    Example:
        >>> graph = InteractionGraph(2, 2, torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1]))
        >>> model = MostPop(MostPop.Config(), graph)
        >>> model.fit(print)
        >>> model.scores(torch.tensor([0])).tolist()
        [[1.0, 2.0]]

    Stability: caller
    """

    class Config(FittedModel.Config):
        """Options of `MostPop`: none."""

    popularity: Tensor

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self.add_buffers(popularity=torch.float32)

    def fit(self, say: Callable[[str], None]) -> None:
        """Counts (weights are added up)."""
        counts = sums(self.graph.matrix(), 0).astype(np.float32)
        self.popularity = torch.from_numpy(counts)

    def scores_of(self, history: csr_array) -> Tensor:
        """See `recsys.cf.FittedModel`."""
        self.require(len(self.popularity) > 0)
        check_history(history, self.graph.num_items)
        return self.popularity.cpu().repeat(size(history)[0], 1)
