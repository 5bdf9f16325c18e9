"""The cross network of DCN-V2: full matrix, low rank, and mixture of low-rank experts.

Stability: caller
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys.layers.initialization import initialize, xavier_normal_
from recsys.schema import Frozen


class CrossNetConfig(Frozen):
    """Options of a cross network."""

    kind: Literal["matrix", "low_rank", "mixture"] = "matrix"
    """``matrix``: a full square weight a layer. ``low_rank``: its factors. ``mixture``: several
    low-rank experts with a gate."""
    num_layers: int = Field(default=3, ge=1)
    """Cross layers; the highest order of interaction is one more."""
    rank: int = Field(default=32, ge=1)
    """Width of the factors (``low_rank`` and ``mixture``)."""
    num_experts: int = Field(default=4, ge=1)
    """Experts a layer (``mixture``)."""


class CrossNetV2(nn.Module):
    """``x_{l+1} = x_0 * (W_l x_l + b_l) + x_l``, elementwise product.

    Args:
        in_features: Width of ``x_0`` (H).
        num_layers: Cross layers.

    Shape:
        - input and output: (B, H)

    Source:
        Wang et al., "DCN V2: Improved Deep & Cross Network", WWW 2021, Equation 1.

    Example:
        >>> net = CrossNetV2(in_features=2, num_layers=1)
        >>> _ = torch.nn.init.ones_(net.layers[0].weight)
        >>> net(torch.tensor([[1.0, 2.0]])).tolist()  # [1 * 3 + 1, 2 * 3 + 2]
        [[4.0, 8.0]]

    Stability: caller
    """

    def __init__(self, in_features: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(in_features, in_features) for _ in range(num_layers))
        initialize(self)

    def forward(self, x0: Tensor) -> Tensor:
        """Input and output (B, H)."""
        x = x0
        for layer in self.layers:
            x = torch.addcmul(x, x0, layer(x))
        return x


class LowRankCrossNet(nn.Module):
    """``x_{l+1} = x_0 * (U_l (V_l^T x_l) + b_l) + x_l`` with U and V of shape (H, rank).

    Args:
        in_features: Width of ``x_0`` (H).
        num_layers: Cross layers.
        rank: Width of the factors.

    Shape:
        - input and output: (B, H)

    Source:
        Wang et al., "DCN V2", WWW 2021, Section 3.5 (Cost-Effective Mixture of Low-Rank DCN),
        Equation 2.

    Example:
        >>> net = LowRankCrossNet(in_features=2, num_layers=1, rank=1)
        >>> for layer in (net.down[0], net.up[0]):
        ...     _ = torch.nn.init.ones_(layer.weight)
        >>> net(torch.tensor([[1.0, 2.0]])).tolist()
        [[4.0, 8.0]]

    Stability: caller
    """

    def __init__(self, in_features: int, num_layers: int, rank: int) -> None:
        super().__init__()
        depth = range(num_layers)
        self.down = nn.ModuleList(nn.Linear(in_features, rank, bias=False) for _ in depth)
        self.up = nn.ModuleList(nn.Linear(rank, in_features) for _ in depth)
        initialize(self)

    def forward(self, x0: Tensor) -> Tensor:
        """Input and output (B, H)."""
        x = x0
        for down, up in zip(self.down, self.up):
            x = torch.addcmul(x, x0, up(down(x)))
        return x


class MixtureCrossNet(nn.Module):
    """A gated sum of low-rank cross experts in every layer.

    ``x_{l+1} = sum_k G_k(x_l) * E_k(x_l) + x_l`` with
    ``E_k(x_l) = x_0 * (U_k tanh(C_k tanh(V_k^T x_l)) + b_l)`` and ``G = softmax(W_g x_l)``.

    The gates sum to 1 and are applied before U, so one product with all experts' U side by side
    gives the sum, and ``b_l`` is added once.

    Args:
        in_features: Width of ``x_0`` (H).
        num_layers: Cross layers.
        rank: Width of the factors (R).
        num_experts: Experts a layer (K).

    Shape:
        - input and output: (B, H)

    Source:
        Wang et al., "DCN V2", WWW 2021, Section 3.5, Equations 3 and 4. The gate has no layer
        index there and is shared by all layers here, as in torchrec's ``LowRankMixtureCrossNet``.

    Example:
        >>> net = MixtureCrossNet(in_features=2, num_layers=1, rank=1, num_experts=3)
        >>> net(torch.zeros(1, 2)).tolist()
        [[0.0, 0.0]]

    Stability: caller
    """

    def __init__(self, in_features: int, num_layers: int, rank: int, num_experts: int) -> None:
        super().__init__()
        self.num_experts, self.rank = num_experts, rank
        wide, depth = num_experts * rank, range(num_layers)
        self.gate = nn.Linear(in_features, num_experts, bias=False)
        self.down = nn.ModuleList(nn.Linear(in_features, wide, bias=False) for _ in depth)
        self.core = nn.ParameterList(torch.empty(num_experts, rank, rank) for _ in depth)
        self.up = nn.ModuleList(nn.Linear(wide, in_features) for _ in depth)
        initialize(self)

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Every expert's factors start as matrices of their own."""
        width = self.gate.in_features
        for core in self.core:
            xavier_normal_(core, self.rank, self.rank, generator)
        for factor in (*self.down, *self.up):
            if isinstance(factor, nn.Linear):
                xavier_normal_(factor.weight, width, self.rank, generator)

    def forward(self, x0: Tensor) -> Tensor:
        """Input and output (B, H)."""
        x = x0
        for down, core, up in zip(self.down, self.core, self.up):
            gates_KB1 = torch.softmax(self.gate(x), dim=1).t().unsqueeze(2)
            inner_BKR = torch.tanh(down(x)).view(-1, self.num_experts, self.rank)
            # bmm and cat, not einsum and reshape: those tie an exported program to B > 1.
            outer_KBR = torch.tanh(torch.bmm(inner_BKR.transpose(0, 1), core.transpose(1, 2)))
            experts = torch.cat((gates_KB1 * outer_KBR).unbind(0), dim=1)
            x = torch.addcmul(x, x0, up(experts))
        return x


def cross_net(in_features: int, config: CrossNetConfig) -> nn.Module:
    """The cross network that a config asks for.

    Args:
        in_features: Width of ``x_0``.
        config: Its kind and sizes.

    Example:
        >>> type(cross_net(6, CrossNetConfig(kind="low_rank", rank=2))).__name__
        'LowRankCrossNet'
    """
    if config.kind == "matrix":
        return CrossNetV2(in_features, config.num_layers)
    if config.kind == "low_rank":
        return LowRankCrossNet(in_features, config.num_layers, config.rank)
    return MixtureCrossNet(in_features, config.num_layers, config.rank, config.num_experts)
