"""Pairwise dot products of fields.

Stability: caller
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DotInteraction(nn.Module):
    """Every dot product ``<t_i, t_j>`` with ``i < j``, in the order (0,1), (0,2), ..., (1,2), ...

    Args:
        num_fields: Number of vectors (F).

    Shape:
        - input: (B, F, D)
        - output: (B, F * (F - 1) / 2)

    Source:
        Naumov et al., "Deep Learning Recommendation Model for Personalization and
        Recommendation Systems", 2019, Section 2.1.4.

    Example:
        >>> layer = DotInteraction(num_fields=3)
        >>> layer(torch.tensor([[[1.0, 0.0], [2.0, 3.0], [0.0, 5.0]]]))
        tensor([[ 2.,  0., 15.]])

    Stability: caller
    """

    def __init__(self, num_fields: int) -> None:
        super().__init__()
        self.num_fields = num_fields
        self.out_features = num_fields * (num_fields - 1) // 2

    def forward(self, fields_BFD: Tensor) -> Tensor:
        """Input (B, F, D), output (B, pairs)."""
        products_BFF = torch.bmm(fields_BFD, fields_BFD.transpose(1, 2))
        # Made here and not kept: a buffer would be lost by a model that is built on `meta`.
        first, second = torch.triu_indices(
            self.num_fields, self.num_fields, offset=1, device=fields_BFD.device
        )
        return products_BFF.flatten(1).index_select(1, first * self.num_fields + second)
