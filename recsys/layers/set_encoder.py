"""Vectors of sets: a mean, or self-attention and then a mean.

Stability: caller
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class PlainSelfAttention(nn.Module):
    """Self-attention with one head that mixes its inputs as they are: no values, no residual.

        softmax((X W_q)(X W_k)^T / sqrt(D)) X

    Args:
        width: D.

    Shape:
        - input: (B, N, D)
        - output: (B, N, D)

    Source:
        Ma et al., "Leveraging Multimodal Features and Item-level User Feedback for Bundle
        Construction", WSDM 2024, eq. 3.

    Example:
        >>> layer = PlainSelfAttention(2)
        >>> torch.nn.init.zeros_(layer.queries.weight)  # then all shares are equal
        Parameter containing:
        tensor([[0., 0.],
                [0., 0.]], requires_grad=True)
        >>> layer(torch.tensor([[[1.0, 0.0], [3.0, 2.0]]]))[0, 0].tolist()
        [2.0, 1.0]
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries = nn.Linear(width, width, bias=False)
        self.keys = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """Mixed inputs.

        Args:
            x: Of every place.
            real: Which places count, (B, N) bool; None for all.
        """
        scores = self.queries(x) @ self.keys(x).transpose(1, 2) / x.shape[2] ** 0.5
        if real is not None:
            scores = scores.masked_fill(~real[:, None], torch.finfo(scores.dtype).min)
        return scores.softmax(2) @ x


class SetEncoder(nn.Module):
    """One vector for a set of vectors, in any order.

    ``mean``: the mean of the layer-normed vectors. ``attention``: before it `PlainSelfAttention`
    over the layer-normed vectors, ``num_layers`` times. Layer norms have no parameters; they set
    the scale of the products that are made with the output. An empty set gives zeros.

    Args:
        width: D.
        pool: How.
        num_layers: Of attention.
        layer_norm: Whether vectors are layer-normed; without it products are small and a softmax
            over them hardly learns.

    Shape:
        - x: (B, N, D)
        - real: (B, N) bool
        - output: (B, D)

    Example:
        >>> sets = SetEncoder(2, "mean", layer_norm=False)
        >>> sets(torch.tensor([[[1.0, 2.0], [9.0, 9.0]]]), torch.tensor([[True, False]]))
        tensor([[1., 2.]])
    """

    def __init__(
        self,
        width: int,
        pool: Literal["mean", "attention"] = "mean",
        num_layers: int = 1,
        layer_norm: bool = True,
    ) -> None:
        super().__init__()
        self.width, self.layer_norm = width, layer_norm
        count = num_layers if pool == "attention" else 0
        self.layers = nn.ModuleList(PlainSelfAttention(width) for _ in range(count))

    def normed(self, x: Tensor) -> Tensor:
        """Layer-normed vectors.

        Args:
            x: Of any shape that ends in D.
        """
        return functional.layer_norm(x, (self.width,)) if self.layer_norm else x

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """The vector of every set.

        Args:
            x: Of every place.
            real: Which places are of the set.
        """
        if not len(self.layers):
            x = self.normed(x)
        for layer in self.layers:
            x = layer(self.normed(x), real)
        counts = real.sum(1, keepdim=True).clamp(min=1)
        return x.masked_fill(~real[:, :, None], 0).sum(1) / counts
