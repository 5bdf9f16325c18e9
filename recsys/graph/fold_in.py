"""Vectors of new users and items by the neighbours they have, without propagating again.

Stability: experimental
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.graph.propagation import Adjacency


def mean_messages(adjacency: Adjacency, rows: Tensor, num_layers: int, first: int = 0) -> Tensor:
    """What every node passes on to the vector of a new neighbour of degree 1.

    Vectors are ``(h_first + ... + h_K) / (K + 1 - first)`` with ``h_k = A^k rows`` and A the
    symmetric normalization. A new node n with neighbours N has no row, so that its layers are
    ``h_n^(k) = sum_N h_m^(k-1) / sqrt(d_n d_m)`` for k > 0. That leaves out what a new node does to
    its neighbours: their degrees and, from layer 2, its own echo.

    Args:
        adjacency: Symmetric, without self-loops.
        rows: Of layer 0, (N, D).
        num_layers: K.
        first: The lowest layer in the mean.

    Returns:
        (N, D): ``d_m^-1/2 sum_k h_m^(k-1) / (K + 1 - first)`` over the layers k > 0 of the mean;
        0 for nodes without neighbours.

    Source:
        The layers of He et al., "LightGCN", SIGIR 2020, eq. 3, for a node without a row.

    Example:
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> graph = InteractionGraph(2, 1, torch.tensor([0, 1]), torch.tensor([0, 0]))
        >>> adj = Adjacency.bipartite(graph)
        >>> mean_messages(adj, torch.tensor([[0.0], [0.0], [4.0]]), 1)[2]  # 4 / sqrt(2) / 2
        tensor([1.4142])
    """
    with torch.no_grad():
        start = rows
        for _ in range(first - 1):
            start = adjacency @ start
        powers = num_layers - max(first, 1)  # of the layer below the lowest one
        if powers < 0:
            return torch.zeros_like(rows)
        total = adjacency.propagate(start, powers, "sum") / (num_layers + 1 - first)
        return total * _inverse_roots(adjacency)[:, None]


def _inverse_roots(adjacency: Adjacency) -> Tensor:
    """``d^-1/2``, 0 for nodes without edges; weights of edges count."""
    weights = adjacency.weights
    if weights is None:
        weights = torch.ones_like(adjacency.values)
    degrees = torch.zeros(adjacency.shape[0], dtype=torch.float64, device=adjacency.device)
    degrees.index_add_(0, adjacency.row.long(), weights.double())
    return torch.where(degrees > 0, degrees.clamp(min=1e-12).rsqrt(), 0.0).float()
