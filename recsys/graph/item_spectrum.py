"""Vectors of items from who took them, without training.

Stability: internal
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from recsys.graph.fitted_buffers import FittedBuffers
from recsys.graph.interactions import Interactions
from recsys.graph.products import scaled, sums
from recsys.graph.text_features import principal_axes


class ItemSpectrum(FittedBuffers):
    """Items along the principal axes of ``D_u^-1/2 R D_i^-1/2``: who takes what, not trained.

    Rows have length 1; items that nobody took have zeros.

    Args:
        pairs: R, of users and items.
        width: Number of axes.

    Example:
        >>> from recsys.graph.interactions import Names
        >>> users, items = Names([0, 1, 2]), Names([0, 1, 2])
        >>> pairs = Interactions(users, items, np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2]))
        >>> spectrum = ItemSpectrum(pairs, 2)
        >>> spectrum.initialize()
        >>> cosines = spectrum.values @ spectrum.values[0]  # items 0 and 1 share a user
        >>> [round(float(value), 3) + 0 for value in cosines]
        [1.0, 1.0, 0.0]
    """

    values: Tensor

    def __init__(self, pairs: Interactions, width: int) -> None:
        super().__init__()
        self._pairs, self._width = pairs, width
        self.add_buffers(values=torch.float32)

    def initialize(self, generator: object = None) -> None:
        """Computes the axes; nothing is drawn."""
        del generator
        pairs = self._pairs
        parts = (np.ones(len(pairs), np.float32), pairs.item, pairs.offsets())
        matrix = csr_array(parts, shape=(pairs.num_users, pairs.num_items))
        roots = [1 / np.sqrt(np.maximum(sums(matrix, axis), 1)) for axis in (1, 0)]
        axes = principal_axes(scaled(matrix, *roots), self._width)
        known = (pairs.item_degrees() > 0)[:, None]
        found = np.where(known, unit_rows(axes), 0).astype(np.float32)
        self.values = torch.from_numpy(found).to(self.values.device)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; those of zeros stay.

    Args:
        rows: (n, width).

    Returns:
        float32.

    Example:
        >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
