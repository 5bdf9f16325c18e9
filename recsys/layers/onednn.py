"""Training of large ``Linear -> ReLU`` stacks in oneDNN.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.fx import Proxy

MIN_PRODUCTS = 1 << 27
"""Multiplications of one forward pass (rows times weights) from which oneDNN is used. Below, its
0.1 ms a layer is not won back."""


def fits(x: Tensor, layers: Iterable[nn.Module]) -> bool:
    """Whether a stack is trained faster on ``x.to_mkldnn()`` than on ``x``.

    Torch multiplies float32 matrices in MKL, which took 10 % longer than oneDNN on an AMD processor
    with AVX-512 (others were not measured). Results differ by rounding. Gradients of gradients are
    not available. ``torch.backends.mkldnn.flags(enabled=False)`` turns it off.

    Args:
        x: Input of the stack, (B, in_features).
        layers: The stack. Only ``Linear`` and ``ReLU`` fit.

    Returns:
        False also wherever no gradient is recorded, so serving is the same on every machine.
    """
    if isinstance(x, Proxy) or torch.compiler.is_compiling():
        return False
    if not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    layers = list(layers)
    if not all(isinstance(layer, (nn.Linear, nn.ReLU)) for layer in layers):
        return False
    weights = [layer.weight for layer in layers if isinstance(layer, nn.Linear)]
    products = x.shape[0] * sum(weight.numel() for weight in weights)
    return (
        0 < products >= MIN_PRODUCTS
        and all(_is_plain(tensor) for tensor in (x, *weights))
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


def _is_plain(tensor: Tensor) -> bool:
    """A CPU float32 tensor and not a subclass (fake, distributed)."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    return plain and tensor.device.type == "cpu" and tensor.dtype == torch.float32
