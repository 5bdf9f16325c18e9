"""Matrix factorization of what was seen and what was not, by alternating least squares.

Train it: ``recsys train --config configs/graph/ials.yaml``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor

from recsys.cf_fitted import FittedModel
from recsys.graph.fitted_buffers import check_history, check_weights
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.least_squares import ImplicitLeastSquares
from recsys.graph.products import transposed


class iALS(FittedModel):
    """Vectors of users and items by exact alternating least squares; scores are dot products.

    ``sum_seen c_ui (w_u.h_i - 1)^2 + alpha0 sum_all (w_u.h_i)^2 + l2 (sum_u s_u |w_u|^2 + sum_i s_i
    |h_i|^2)`` with ``s_u = (|I_u| + alpha0 I)^nu`` and ``s_i = (|U_i| + alpha0 U)^nu``. The vector
    of a user is solved for from the history, so that of a new user is as good as a known one's.

    Args:
        config: Width, weights and passes.
        graph: The training pairs.

    Raises:
        DataError: A weight of a pair is negative.

    Source:
        Rendle, Krichene, Zhang, Koren, "Revisiting the Performance of iALS on Item Recommendation
        Benchmarks", RecSys 2022; after Hu, Koren, Volinsky, "Collaborative
        Filtering for Implicit Feedback Datasets", ICDM 2008. The default weights were the best of
        Gowalla on a tenth of its training pairs held out.

    Example:
        >>> graph = InteractionGraph(2, 2, torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
        >>> model = iALS(iALS.Config(dim=2), graph)
        >>> model.fit(lambda line: None)
        >>> known, new = model.scores(torch.tensor([1])), model.scores_of(graph.matrix()[[1]])
        >>> torch.equal(known, new)
        True

    Stability: caller
    """

    class Config(FittedModel.Config):
        """Options of `iALS`."""

        dim: int = Field(default=256, ge=1)
        """Width of the vectors."""
        unobserved_weight: float = Field(default=0.02, gt=0)
        """alpha0: how much a pair that was not seen counts."""
        l2: float = Field(default=0.001, gt=0)
        """Regularization."""
        l2_exponent: float = Field(default=1.0, ge=0)
        """nu: 1 regularizes in proportion to what a row explains, 0 all rows alike."""
        passes: int = Field(default=16, ge=1)
        """Over users and items."""
        init_std: float = Field(default=0.1, gt=0)
        """Standard deviation of the start values, times the root of ``dim``."""

    config: Config
    item_vectors: Tensor

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self.add_buffers(item_vectors=torch.float32)
        self._known: tuple[Tensor, ImplicitLeastSquares] | None = None

    def fit(self, say: Callable[[str], None]) -> None:
        """Solves for users and items in turn."""
        config, matrix = self.config, self.graph.matrix()
        check_weights(matrix)
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.graph.num_items, config.dim)
        items = torch.randn(shape, generator=generator) * (config.init_std / math.sqrt(config.dim))
        back = transposed(matrix)
        for count in range(config.passes):
            users = self._solve(matrix, ImplicitLeastSquares(items))
            items = self._solve(back, ImplicitLeastSquares(users))
            say(f"pass {count + 1} of {config.passes}")
        self.item_vectors = items

    def user_vectors(self, history: csr_array) -> Tensor:
        """Vectors of anybody with a history, (B, dim); 0 without one.

        Args:
            history: Sparse (B, I).
        """
        self.require(len(self.item_vectors) > 0)
        check_history(history, self.graph.num_items)
        check_weights(history)
        known, vectors = self._known, self.item_vectors
        if known is None or known[0] is not vectors:  # fitted, loaded or moved since
            known = self._known = (vectors, ImplicitLeastSquares(vectors.cpu()))
        return self._solve(history, known[1])

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users and items, whose dot products are the scores."""
        return self.user_vectors(self.graph.matrix()), self.item_vectors

    def scores_of(self, history: csr_array) -> Tensor:
        """See `recsys.cf.FittedModel`."""
        return self.user_vectors(history) @ self.item_vectors.cpu().T

    def _solve(self, history: csr_array, problem: ImplicitLeastSquares) -> Tensor:
        config = self.config
        explained = np.diff(history.indptr) + config.unobserved_weight * len(problem.vectors)
        penalty = config.l2 * torch.from_numpy(explained**config.l2_exponent).float()
        return problem.solve(history, config.unobserved_weight, penalty)
