"""Signs as bits, eight to a byte, and back.

Stability: internal
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

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
