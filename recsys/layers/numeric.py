"""Numbers in a model: as embeddings, and as first-order terms.

Stability: caller
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.layers.initialization import normal_


class NumericEmbedding(nn.Module):
    """One vector a numeric feature, scaled by the feature's value: ``v_j = x_j * w_j [+ b_j]``.

    Args:
        num_features: Number of numeric features (N).
        embedding_dim: Width of the vectors (D).
        std: Standard deviation of the start values. Small, as table rows start: a vector that
            starts large multiplies every id vector in a pairwise term, and ids that are seen once
            or twice then memorize their rows instead of their effect.
        bias: Adds a learned ``b_j``, so that a value of 0 is not the zero vector.

    Shape:
        - input: (B, N)
        - output: (B, N, D)

    Source:
        FuxiCTR 2.3 ``FeatureEmbedding`` for ``type: numeric`` (``nn.Linear(1, d, bias=False)`` for
        each feature). Differs: starts like a table row, not Xavier-normal (after one epoch of
        DeepFM on the benchmark's table validation AUC .69 instead of .65); the bias is an option.

    Example:
        >>> layer = NumericEmbedding(num_features=2, embedding_dim=3, std=0.1)
        >>> _ = torch.nn.init.ones_(layer.weight)
        >>> layer(torch.tensor([[2.0, -1.0]])).tolist()
        [[[2.0, 2.0, 2.0], [-1.0, -1.0, -1.0]]]

    Stability: caller
    """

    def __init__(
        self, num_features: int, embedding_dim: int, std: float, bias: bool = False
    ) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(num_features, embedding_dim))
        self.bias = nn.Parameter(torch.empty(num_features, embedding_dim)) if bias else None
        self.initialize()

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Weights N(0, std^2), bias 0."""
        normal_(self.weight, self.std, generator)
        if self.bias is not None and not self.bias.is_meta:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Input (B, N), output (B, N, D)."""
        scaled = x.unsqueeze(2)
        if self.bias is None:
            return scaled * self.weight
        return torch.addcmul(self.bias, scaled, self.weight)


class DenseLinear(nn.Module):
    """First-order term of the dense columns: ``sum_j x_j * w_j``, no bias.

    The weights start like table rows, because that is what they are: the first-order weight of a
    number instead of an id.

    Args:
        in_features: Dense columns (N). 0 is allowed.
        num_tasks: Weights a column (T).
        std: Standard deviation of the start values.

    Shape:
        - input: (B, N)
        - output: (B, T)

    Example:
        >>> layer = DenseLinear(in_features=2, num_tasks=1, std=0.0)
        >>> layer(torch.tensor([[2.0, -1.0]])).tolist()
        [[0.0]]

    Stability: caller
    """

    def __init__(self, in_features: int, num_tasks: int, std: float) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(in_features, num_tasks)) if in_features else None
        self.num_tasks = num_tasks
        self.initialize()

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """N(0, std^2)."""
        if self.weight is not None:
            normal_(self.weight, self.std, generator)

    def forward(self, dense: Tensor) -> Tensor:
        """Input (B, N), output (B, T)."""
        if self.weight is None:
            return dense.new_zeros(dense.shape[0], self.num_tasks)
        return dense @ self.weight
