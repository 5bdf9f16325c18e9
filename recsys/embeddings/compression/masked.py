"""Tables whose pruned values stay zero while the others are trained.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.embeddings.scheme import Decoder


class Masked(Decoder):
    """The only probe's vector with some elements set to zero, for good.

    Args:
        rows: n.
        width: D.

    Shape:
        - input: v (L, D), indices (L,)
        - output: (L, D)
    """

    linear = False

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.mask: Tensor
        self.register_buffer("mask", torch.empty(rows, -(-width // 8), dtype=torch.uint8))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Everything stays."""
        del generator
        self.mask.fill_(255)

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """What the mask keeps."""
        assert indices is not None
        bits = self.mask[indices.long()].unsqueeze(2) >> torch.arange(
            8, dtype=torch.uint8, device=indices.device
        )
        return probes[0] * (bits & 1).flatten(1)[:, : self.width].to(probes[0].dtype)


def pack_mask(keep: Tensor) -> Tensor:
    """Booleans (n, D) as bits (n, ceil(D / 8)) uint8, the first column in the lowest bit.

    Args:
        keep: What stays.

    Example:
        >>> pack_mask(torch.tensor([[True, False, True]])).tolist()
        [[5]]
    """
    rows, width = keep.shape
    padded = torch.zeros(rows, -(-width // 8), 8, dtype=torch.uint8, device=keep.device)
    padded.view(rows, -1)[:, :width] = keep
    weights = torch.ones(8, dtype=torch.uint8, device=keep.device) << torch.arange(
        8, dtype=torch.uint8, device=keep.device
    )
    return (padded * weights).sum(dim=2, dtype=torch.uint8)
