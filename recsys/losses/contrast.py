"""The contrastive part of a loss: InfoNCE between two views, with POT as a plug-in.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from recsys.losses.info_nce import info_nce
from recsys.losses.pot import compactness_loss, pot_score
from recsys.schema import Frozen


class PotConfig(Frozen):
    """Regularization by node compactness, see `recsys.losses.pot`."""

    kappa: float = Field(default=0.2, ge=0, le=1)
    """Its share of the contrastive loss; InfoNCE keeps the rest."""
    mode: Literal["score", "budget"] = "score"
    """``score``: the bound of the paper, which for linear propagation is the compactness of the
    views themselves. ``budget``: the exact worst case over all ways to drop a share of a node's
    own edges."""
    rate: float = Field(default=0.1, ge=0, le=1)
    """Of ``budget``: which share."""
    num_nodes: int = Field(default=256, ge=2)
    """Of ``budget``: how many nodes of a kind are looked at in a step, chosen at random."""


@dataclasses.dataclass(frozen=True, slots=True)
class Contrast:
    """How two views of nodes are told from those of others.

    Args:
        temperature: Of InfoNCE.
        pot: None leaves POT out.
        normalize: Whether products are cosines.
        limit: See `recsys.losses.info_nce.info_nce`.
        dtype: See `recsys.losses.info_nce.info_nce`.

    Example:
        >>> import torch
        >>> views = torch.eye(2)
        >>> Contrast(1.0)(views, views)  # -ln(e / (e + 1))
        tensor(0.3133)
    """

    temperature: float
    pot: PotConfig | None = None
    normalize: bool = True
    limit: float | None = None
    dtype: torch.dtype | None = None

    def __call__(
        self,
        first: Tensor,
        second: Tensor,
        among: Tensor | None = None,
        weights: Tensor | None = None,
        worst: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """``(1 - kappa) InfoNCE + kappa POT`` of the nodes of one kind, each node once.

        Args:
            first: One view of the nodes.
            second: The other.
            among: What second views are chosen from; None for those of these nodes.
            weights: How often each node counts; None for once. POT counts every node once.
            worst: Bounds of the compactness in both directions, for ``mode: budget``.

        Raises:
            ValueError: Shapes do not fit, or bounds are needed and missing.

        Shape:
            - first, second: (N, D)
            - among: (M, D)
            - weights, worst: (N,), worst of any length
            - output: scalar
        """
        loss = info_nce(
            first, second, self.temperature, among=among, normalize=self.normalize,
            weights=weights, limit=self.limit, dtype=self.dtype,
        )  # fmt: skip
        if self.pot is None or len(first) < 2:  # compactness is about the others
            return loss
        if self.pot.mode == "score":
            bound = pot_score(first, second)
        elif worst is None:
            raise ValueError("POT with mode=budget needs the bounds: give `worst`.")
        else:
            bound = (compactness_loss(worst[0]) + compactness_loss(worst[1])) / 2
        return (1 - self.pot.kappa) * loss + self.pot.kappa * bound
