"""A linear layer over the features of all nodes, which are mostly zeros.

Stability: experimental
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional

from recsys.graph.products import size
from recsys.graph.propagation import Adjacency


class FeatureProjection(nn.Module):
    """``dropout(X) W + b`` for features X that the layer keeps; X is no part of its state.

    Sparse rows are multiplied as they are. Dropout of what is not zero is the same as of all,
    because zeros stay zeros.

    Args:
        features: X, sparse or not.
        out_features: D.
        dropout: Share of features left out in training.
        bias: Whether there is a b.

    Shape:
        - features: (N, F)
        - output: (N, D), or (n, D) for n rows

    Example:
        >>> layer = FeatureProjection(csr_array(np.eye(3, dtype=np.float32)), 2)
        >>> bool((layer() == layer.linear.weight.T + layer.linear.bias).all())
        True
    """

    def __init__(
        self,
        features: csr_array | np.ndarray,
        out_features: int,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(size(features)[1], out_features, bias=bias)
        self.dropout = dropout
        self._rows = features
        self._whole = _operand(features)

    def forward(self, nodes: Tensor | None = None) -> Tensor:
        """Of all nodes, or of some.

        Args:
            nodes: Numbers, (n,); None for all.
        """
        weight = self.linear.weight.T
        if nodes is None:
            operand = self._whole = self._whole.to(weight.device)
        else:
            operand = _operand(self._rows[nodes.cpu().numpy()]).to(weight.device)
        if isinstance(operand, Tensor):
            found = functional.dropout(operand, self.dropout, self.training) @ weight
        else:
            values = functional.dropout(operand.values, self.dropout, self.training)
            found = operand.reweight(values) @ weight.contiguous()
        return found if self.linear.bias is None else found + self.linear.bias


def _operand(rows: csr_array | np.ndarray) -> Tensor | Adjacency:
    """What a weight is multiplied by."""
    if isinstance(rows, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(rows, np.float32))
    pairs = csr_array(rows).tocoo()
    row, col = (torch.from_numpy(ends.astype(np.int64)) for ends in (pairs.row, pairs.col))
    values = torch.from_numpy(pairs.data.astype(np.float32))
    return Adjacency.from_edges(row, col, *size(rows), values)
