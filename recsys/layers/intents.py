"""Intents: mixtures of relations that users have more or less of.

Stability: caller
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.layers.initialization import xavier_normal_


class Intents(nn.Module):
    """What neighbours mean to a user, by P intents that are mixtures of relations.

        e_p = sum of softmax(w_p)_r e_r
        out_u = x_u * (1 + sum of softmax(e_u . c_p) e_p)

    with x_u what comes from the user's items.

    Args:
        num_intents: P.
        num_relations: R.
        width: D.

    Source:
        Wang et al., "Learning Intents behind Interactions with Knowledge Graph for Recommendation",
        WWW 2021, as the official code computes it (the paper has no 1 in the second factor).

    Example:
        >>> layer = Intents(2, 3, 4)
        >>> layer(torch.zeros(5, 4), torch.ones(5, 4)).shape
        torch.Size([5, 4])
    """

    def __init__(self, num_intents: int, num_relations: int, width: int) -> None:
        super().__init__()
        self.relations = nn.Parameter(torch.empty(num_relations, width))
        self.mixture = nn.Parameter(torch.empty(num_intents, num_relations))
        self.latent = nn.Parameter(torch.empty(num_intents, width))
        self.initialize()

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """All Xavier-normal.

        Args:
            generator: Of the draws.
        """
        for parameter in self.parameters():
            xavier_normal_(parameter, parameter.shape[0], parameter.shape[1], generator)

    def shares(self, users: Tensor) -> Tensor:
        """How much of every intent users have, (U, P); rows add up to 1.

        Args:
            users: (U, D).
        """
        return (users @ self.latent.T).softmax(1)

    def meanings(self) -> Tensor:
        """Vectors of the intents, (P, D)."""
        return self.mixture.softmax(1) @ self.relations

    def forward(self, users: Tensor, around: Tensor) -> Tensor:
        """What users take from their items.

        Args:
            users: (U, D).
            around: Of their items, (U, D).

        Returns:
            (U, D).
        """
        return around * (1 + self.shares(users) @ self.meanings())
