"""How much of every depth of propagation a node takes.

Stability: experimental
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn


class DepthGate(nn.Module):
    """``sum_k sigmoid(w . h_k + b) h_k`` over the depths k, with one w and b for all of them.

    Starts with w = 0 and every share ``1 / num_depths``, so that it is the mean; or as in the
    paper's code, with shares around 1/2.

    Args:
        dim: D.
        num_depths: Depths, 2 or more.
        start: ``mean``; or ``uniform``, w and b uniform in ``+-1 / sqrt(D)``.

    Shape:
        - input of `forward`: (N, D)
        - output: (N, D)

    Source:
        Liu et al., "Towards Deeper Graph Neural Networks", KDD 2020. Differs: the start
        ``mean``; in their code it is that of a linear layer, ``uniform``.

    Example:
        >>> gate = DepthGate(2, 4)
        >>> gate(torch.tensor([[4.0, 8.0]])).tolist()
        [[1.0, 2.0]]
    """

    def __init__(
        self, dim: int, num_depths: int, start: Literal["mean", "uniform"] = "mean"
    ) -> None:
        super().__init__()
        if num_depths < 2:
            raise ValueError(f"expected two depths or more, got {num_depths}.")
        self.num_depths, self.start = num_depths, start
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(1))
        self.initialize()

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """The mean, for which nothing is drawn, or uniform numbers."""
        with torch.no_grad():
            if self.start == "uniform":
                limit = 1 / math.sqrt(len(self.weight))
                for values in (self.weight, self.bias):
                    draws = torch.rand(values.shape, generator=generator)
                    values.copy_((2 * draws - 1) * limit)
                return
            self.weight.zero_()
            self.bias.fill_(-math.log(self.num_depths - 1))  # logit(1 / num_depths)

    def shares(self, layer: Tensor) -> Tensor:
        """How much of a depth every node takes, (N,) between 0 and 1.

        Args:
            layer: h_k, (N, D).
        """
        return torch.sigmoid(layer @ self.weight + self.bias)

    def forward(self, layer: Tensor) -> Tensor:
        """What a depth adds to the sum."""
        return self.shares(layer).unsqueeze(1) * layer
