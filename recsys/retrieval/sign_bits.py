"""Signs as bits, eight to a byte, and back.

Stability: internal
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from recsys.retrieval.code_products import few, table_sums

_SIGNS = 2.0 * ((torch.arange(256)[:, None] >> torch.arange(8)) & 1) - 1.0
_POWERS = 2 ** torch.arange(8)


def pack_signs(positive: Tensor) -> Tensor:
    """Bits of rows, the first in the lowest place; rows are filled up to whole bytes with zeros.

    Args:
        positive: (n, width) bool.

    Returns:
        (n, ceil(width / 8)) uint8.

    Example:
        >>> pack_signs(torch.tensor([[True, False, True]]))
        tensor([[5]], dtype=torch.uint8)
    """
    padded = functional.pad(positive, (0, -positive.shape[1] % 8))
    return (padded.unflatten(1, (-1, 8)) * _POWERS).sum(2).to(torch.uint8)


def unpack_signs(packed: Tensor) -> Tensor:
    """Plus and minus ones of packed rows, those that filled a byte up too.

    Args:
        packed: (n, bytes) uint8.

    Returns:
        (n, 8 bytes) float32.

    Example:
        >>> unpack_signs(torch.tensor([[5]], dtype=torch.uint8))
        tensor([[ 1., -1.,  1., -1., -1., -1., -1., -1.]])
    """
    return _SIGNS.index_select(0, packed.flatten().int()).view(len(packed), -1)


def sign_products(weights: Tensor, packed: Tensor) -> Tensor:
    """Inner products of weights with the signs of packed rows.

    Args:
        weights: Of every query, one a sign; zeros for those that filled a byte up.
        packed: From `pack_signs`.

    Shape:
        - weights: (B, 8 W)
        - packed: (n, W) uint8
        - output: (B, n)

    Example:
        >>> weights = torch.tensor([[1.0, 2.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
        >>> sign_products(weights, torch.tensor([[0b000], [0b101], [0b111]], dtype=torch.uint8))
        tensor([[-7.,  3.,  7.]])
    """
    if few(len(weights)):
        return table_sums(weights.unflatten(1, (-1, 8)) @ _SIGNS.T, packed)
    return weights @ unpack_signs(packed).T
