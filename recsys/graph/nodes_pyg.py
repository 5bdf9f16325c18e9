"""Nodes with classes as objects of PyTorch Geometric.

Stability: caller
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data, HeteroData

from recsys.graph.labelled_nodes import SPLITS, LabelledNodes


def to_pyg(nodes: LabelledNodes) -> Data | HeteroData:
    """Labels as ``y``, splits as ``train_mask``, ``val_mask`` and ``test_mask``, features as ``x``.

    Sparse features become a sparse tensor. Edges keep their types and directions; those of a
    graph with one type of nodes become one ``edge_index``.

    Args:
        nodes: The graph.

    Returns:
        ``Data`` for one type of nodes, else ``HeteroData``.

    Example:
        >>> nodes = LabelledNodes(
        ...     "paper", {"paper": 2}, np.array([0, 1]), ("AI", "DB"), {"train": np.array([1])},
        ...     {("paper", "cites", "paper"): np.array([[0], [1]])})
        >>> data = to_pyg(nodes)
        >>> data.edge_index.tolist(), data.y.tolist(), data.train_mask.tolist()
        ([[0], [1]], [0, 1], [False, True])
    """
    if nodes.homogeneous:
        found: Data | HeteroData = Data()
        store: Any = found
        pairs = [np.zeros((2, 0), np.int64), *nodes.edges.values()]
        store.edge_index = torch.from_numpy(np.concatenate(pairs, 1))
        _fill(store, nodes, nodes.target)
        return found
    found = HeteroData()
    for node_type in nodes.counts:
        _fill(found[node_type], nodes, node_type)
    for edge_type, ends in nodes.edges.items():
        found[edge_type].edge_index = torch.from_numpy(np.ascontiguousarray(ends))
    return found


def _fill(store: Any, nodes: LabelledNodes, node_type: str) -> None:
    """What is known of the nodes of a type."""
    store.num_nodes = nodes.counts[node_type]
    if node_type in nodes.features:
        store.x = _rows(nodes.features[node_type])
    if node_type != nodes.target:
        return
    store.y = torch.from_numpy(nodes.labels)
    for name, pyg_name in zip(SPLITS, ("train", "val", "test")):
        mask = torch.zeros(nodes.counts[node_type], dtype=torch.bool)
        if name in nodes.splits:
            mask[torch.from_numpy(nodes.splits[name])] = True
        store[f"{pyg_name}_mask"] = mask


def _rows(rows: Any) -> Tensor:
    if isinstance(rows, np.ndarray):
        return torch.from_numpy(rows)
    pairs = rows.tocoo()
    places = torch.from_numpy(np.stack([pairs.row, pairs.col]).astype(np.int64))
    values = torch.from_numpy(pairs.data)
    found = torch.sparse_coo_tensor(places, values, pairs.shape, check_invariants=True)
    return found.coalesce()
