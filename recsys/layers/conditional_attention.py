"""Conditional cross-attention: one query a condition, which looks through the tokens of an item.

Stability: experimental
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.layers.initialization import normal_


class ConditionalCrossAttention(nn.Module):
    """What a condition sees in the tokens of every item; each item has tokens of its own number.

        a_l   = softmax over the tokens of the item of (q_c . W_k x_l / sqrt(D / H) + ln w_l)
        out   = LN(W_o sum_l a_l W_v x_l)

    in H heads side by side; q_c is the vector of condition c, w_l the weight of a token. An item
    without tokens gets what the norm makes of zeros. As there is one query, keys and values are
    never written out: W_k moves to the query and W_v behind the sum.

    Args:
        num_conditions: Queries.
        width: D, of tokens and of the output.
        num_heads: H.

    Raises:
        ValueError: H does not divide D.

    Shape:
        - tokens: (L, D), of all items
        - item: (L,) int64, from 0 to B - 1
        - weights: (L,), above 0
        - output: (B, D)

    Source:
        Song et al., "Conditional Cross Attention Network for Multi-Space Embedding without
        Entanglement in Only a SINGLE Network", ICCV 2023. Differs: tokens are fields of an item,
        not patches of a picture, and there is one layer.

    Example:
        >>> layer = ConditionalCrossAttention(2, 4, num_heads=1)
        >>> layer(torch.ones(3, 4), torch.tensor([0, 0, 2]), 3, condition=1).shape
        torch.Size([3, 4])
    """

    def __init__(self, num_conditions: int, width: int, num_heads: int = 4) -> None:
        super().__init__()
        if num_heads < 1 or width % num_heads:
            raise ValueError(
                f"`num_heads`: expected a number that divides the width {width}, got {num_heads}."
            )
        self.num_heads = num_heads
        self.queries = nn.Parameter(torch.zeros(num_conditions, width))
        self.keys = nn.Linear(width, width, bias=False)
        self.values = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Queries are drawn from N(0, 1)."""
        normal_(self.queries, 1.0, generator)

    def forward(
        self, tokens: Tensor, item: Tensor, size: int, condition: int, weights: Tensor | None = None
    ) -> Tensor:
        """What a condition sees.

        Args:
            tokens: Of all items.
            item: Of every token.
            size: B.
            condition: Which.
            weights: Of every token; None for all 1.
        """
        shares = self.shares(tokens, item, size, condition, weights)
        seen = torch.stack([
            tokens.new_zeros(size, tokens.shape[1]).index_add(0, item, share[:, None] * tokens)
            for share in shares.unbind(1)
        ], dim=1)  # fmt: skip
        values = self.values.weight.unflatten(0, (self.num_heads, -1))
        heads = torch.einsum("bhd,hed->bhe", seen, values).flatten(1)
        return self.norm(self.output(heads))

    def shares(
        self, tokens: Tensor, item: Tensor, size: int, condition: int, weights: Tensor | None = None
    ) -> Tensor:
        """How much every token counts, (L, H); those of an item sum to 1. See `forward`."""
        query = self.queries[condition].view(self.num_heads, -1)
        moved = torch.einsum(
            "he,hed->hd", query, self.keys.weight.unflatten(0, (self.num_heads, -1))
        )
        scores = tokens @ moved.T / query.shape[1] ** 0.5
        if weights is not None:
            scores = scores + weights.log()[:, None]
        columns = item[:, None].expand_as(scores)
        highest = scores.new_full((size, self.num_heads), -torch.inf)
        highest = highest.scatter_reduce(0, columns, scores.detach(), "amax")
        raised = (scores - highest[item]).exp()
        total = scores.new_zeros(size, self.num_heads).index_add(0, item, raised)
        return raised / total[item]
