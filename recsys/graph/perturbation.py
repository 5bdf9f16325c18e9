"""Noise on propagated rows: what contrastive encoders add instead of changing the graph.

Stability: caller
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recsys.errors import ConfigError
from recsys.graph import spmm

_LOW = 0xFFFFFFFF
_MOST_KEY = 2**63 - 1


def perturb(x: Tensor, eps: float, generator: torch.Generator | None = None) -> Tensor:
    """``x + eps * sign(x) * u / |u|`` with u of every row uniform in [0, 1): SimGCL's noise.

    The draw takes one number from the generator, whatever the shape; the rest is a hash of that
    number, the row and the column. So the noise is the same on every device, with and without the
    compiled kernel and for any number of threads (up to rounding).

    Args:
        x: (N, D).
        eps: Length of the noise of every row, 0 or more.
        generator: Of the draw.

    Returns:
        (N, D); its gradient is the identity.

    Raises:
        ConfigError: ``eps`` is negative.

    Source:
        Yu et al., "Are Graph Augmentations Necessary?", SIGIR 2022, eq. 7 and 8, as in SELFRec.

    Example:
        >>> x = torch.tensor([[3.0, -4.0], [0.0, 2.0]])
        >>> noise = perturb(x, 0.5, torch.Generator().manual_seed(0)) - x
        >>> noise.sign()
        tensor([[ 1., -1.],
                [ 0.,  1.]])
    """
    if eps < 0:
        raise ConfigError(f"noise: expected a length of 0 or more, got {eps}.")
    return _Perturb.apply(x, _key(generator), eps)  # type: ignore[return-value]


class _Perturb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, key: int, eps: float) -> Tensor:
        if spmm.fit(x):
            return spmm.perturbed(x, key, eps)
        u = _uniform(key, *x.shape, device=x.device).to(x.dtype)
        length = u.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
        return x + x.sign() * (u * (eps / length))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # type: ignore[override]
        return grads[0], None, None


def _key(generator: torch.Generator | None) -> int:
    place = "cpu" if generator is None else generator.device
    return int(torch.randint(0, _MOST_KEY, (1,), generator=generator, device=place))


def _uniform(key: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """The numbers of ``recsys_perturb`` in spmm.c, (rows, columns) float32."""
    k = key + torch.arange(rows, device=device) * _signed(0x9E3779B97F4A7C15)
    k = (k ^ _shifted(k, 30)) * _signed(0xBF58476D1CE4E5B9)
    k = (k ^ _shifted(k, 27)) * _signed(0x94D049BB133111EB)
    start = (k ^ _shifted(k, 31)) & _LOW
    u = (start[:, None] + torch.arange(columns, device=device) * 0x9E3779B9) & _LOW
    u = ((u ^ (u >> 16)) * 0x21F0AAAD) & _LOW
    u = ((u ^ (u >> 15)) * 0xD35A2D97) & _LOW
    u = u ^ (u >> 15)
    return (u >> 8).float() * 2.0**-24


def _signed(value: int) -> int:
    """The int64 with the same bits."""
    return value - (1 << 64) if value >> 63 else value


def _shifted(value: Tensor, bits: int) -> Tensor:
    """A shift to the right that fills up with zeros."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def drop_messages(x: Tensor, p: float, generator: torch.Generator | None = None) -> Tensor:
    """Entries set to 0 with probability p, the others divided by 1 - p: message dropout.

    Draws as `perturb` does, so one number is all that is kept for the gradient.

    Args:
        x: (N, D).
        p: From 0, below 1; rounded to a multiple of 2^-24.
        generator: Of the draws.

    Raises:
        ConfigError: p is out of range.

    Example:
        >>> drop_messages(torch.ones(2, 4), 0.5, torch.Generator().manual_seed(0))
        tensor([[2., 2., 2., 0.],
                [0., 2., 0., 0.]])
    """
    if not 0 <= p < 1:
        raise ConfigError(f"dropout: expected a probability from 0, below 1, got {p}.")
    if p == 0:
        return x
    return _Drop.apply(x, _key(generator), p)  # type: ignore[return-value]


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, key: int, p: float) -> Tensor:
        ctx.draw = key, p
        return _dropped(x, key, p)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # type: ignore[override]
        return _dropped(grads[0], *ctx.draw), None, None


def _dropped(x: Tensor, key: int, p: float) -> Tensor:
    least = min(round(p * 2**24), 2**24 - 1)
    if spmm.fit(x):
        return spmm.dropped(x, key, least, 1 / (1 - p))
    u = _uniform(key, *x.shape, device=x.device)
    return x * ((u >= least * 2.0**-24).to(x.dtype) / (1 - p))
