"""Several vectors of an item, one from each thing that is known of it.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.layers.mlp import MLP, MLPConfig
from recsys.layers.set_encoder import PlainSelfAttention


class ItemTokens(nn.Module):
    """Tokens of items from contents, a row of their own and user feedback; one vector of them.

    The content is the sum of what is known of it, each encoded and scaled to length 1. Where none
    is, the row stands in; where the row is not trained or there is no feedback, the content does.

    Args:
        widths: Of every content.
        feedback: Width of user feedback; 0 for none.
        width: D, of rows and tokens.
        hidden: Width of the last hidden layer of the encoders of contents.

    Source:
        Ma et al., "Leveraging Multimodal Features and Item-level User Feedback for Bundle
        Construction", WSDM 2024, section 3.1. Differs: what stands in for what is missing.

    Example:
        >>> layer = ItemTokens([], 0, width=2, hidden=4)
        >>> tokens = layer(torch.tensor([[3.0, 4.0]]), torch.tensor([True]), [], None)
        >>> [round(value, 3) for value in tokens[0, 0].tolist()]  # the row alone, of length 1
        [0.6, 0.8]
    """

    def __init__(self, widths: Sequence[int], feedback: int, width: int, hidden: int) -> None:
        super().__init__()
        self.contents = nn.ModuleList(
            MLP(each, MLPConfig(hidden_units=(each, hidden)), width) for each in widths
        )
        self.feedback = nn.Linear(feedback, width) if feedback else None
        self.attention = PlainSelfAttention(width)

    def forward(
        self, ids: Tensor, warm: Tensor, contents: Sequence[Tensor], feedback: Tensor | None
    ) -> Tensor:
        """Tokens of length 1, (n, T, D).

        Args:
            ids: Rows of the items, (n, D).
            warm: Whether a row is trained, (n,) bool.
            contents: (n, width) each; rows of zeros where nothing is known.
            feedback: Likewise.
        """
        found = [ids]
        content = ids
        if contents:
            content, known = torch.zeros_like(ids), torch.zeros_like(warm)
            for encode, rows in zip(self.contents, contents):
                here = rows.any(1)
                made = functional.normalize(encode(rows), dim=1)
                content = content + torch.where(here[:, None], made, 0.0)
                known = known | here
            content = torch.where(known[:, None], content, ids)
            found = [content, torch.where((warm | ~known)[:, None], ids, content)]
        if self.feedback is not None and feedback is not None:
            told = torch.where(feedback.any(1)[:, None], self.feedback(feedback), content)
            found.append(told)
        return functional.normalize(torch.stack(found, dim=1), dim=2)

    def fuse(self, tokens: Tensor) -> Tensor:
        """The mean of tokens after attention, (n, D).

        Args:
            tokens: (n, T, D).
        """
        return self.attention(tokens).mean(1)
