"""How dense layers start: weights Xavier-normal, biases zero, the same on every device.

Stability: internal
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Initializable(Protocol):
    """A layer with parameters of its own (not those of the layers inside it)."""

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Draws the start values of the layer's own parameters."""
        ...


def normal_(tensor: Tensor, std: float, generator: torch.Generator | None = None) -> None:
    """Fills a tensor from N(0, std^2), drawn on the CPU so that no device changes the values.

    Args:
        tensor: Filled in place. On ``meta`` nothing happens.
        std: Standard deviation.
        generator: A CPU generator; torch's global one by default.
    """
    if not tensor.is_meta:
        values = torch.randn(tensor.shape, generator=generator, dtype=torch.float32, device="cpu")
        with torch.no_grad():
            tensor.copy_(values.mul_(std))


def xavier_normal_(
    tensor: Tensor, fan_in: int, fan_out: int, generator: torch.Generator | None = None
) -> None:
    """Fills a tensor from N(0, 2 / (fan_in + fan_out)).

    Args:
        tensor: Filled in place.
        fan_in: Inputs of one output.
        fan_out: Outputs of one input.
        generator: A CPU generator; torch's global one by default.
    """
    normal_(tensor, math.sqrt(2.0 / max(fan_in + fan_out, 1)), generator)


def initialize(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draws start values for a module and everything inside it.

    Linear layers: weights Xavier-normal, bias zero. Norm layers: their own neutral start. Layers
    with an ``initialize`` method: that method.

    Args:
        module: Changed in place. Parameters on ``meta`` are left alone.
        generator: A CPU generator; torch's global one by default.

    Example:
        >>> layer = torch.nn.Linear(3, 2)
        >>> initialize(layer, torch.Generator().manual_seed(1))
        >>> layer.bias.tolist()
        [0.0, 0.0]
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            xavier_normal_(part.weight, part.in_features, part.out_features, generator)
            if part.bias is not None and not part.bias.is_meta:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm1d | nn.LayerNorm):
            part.reset_parameters()
        elif isinstance(part, Initializable):
            part.initialize(generator)
