"""Interactions as objects of PyTorch Geometric, and back.

Stability: caller
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import HeteroData

from recsys.errors import DataError
from recsys.graph.cleaning import Cleaning, merged_pairs
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.interactions import Interactions, InteractionSplits, Names
from recsys.graph.knowledge import KnowledgeGraph

EdgeType = tuple[str, str, str]

INTERACTS: EdgeType = ("user", "interacts", "item")
"""Type of the edges of interactions."""


def to_hetero_data(
    interactions: Interactions | InteractionSplits, knowledge: KnowledgeGraph | None = None
) -> HeteroData:
    """Users, items and entities as nodes; training pairs and triples as edges, and all reversed.

    Edges are ``(user, interacts, item)`` with ``edge_index`` and, where they are known, ``time``,
    ``weight`` and ``kind``; ``(item, rev_interacts, user)``; and for triples one type for every
    relation and pair of node types, say ``(item, style, entity)`` and ``(entity, rev_style,
    item)``. Nodes have ``num_nodes`` and their ids as ``ids`` (numpy). Held-out pairs are no edges:
    they are ``valid_label_index`` and ``test_label_index`` of the interactions.

    Args:
        interactions: Pairs, or splits whose training pairs become edges.
        knowledge: About the items.

    Raises:
        DataError: The knowledge graph is about another number of items, or has a relation that is
            called like the reverse of another.

    Example:
        >>> from recsys.graph.cleaning import clean
        >>> log, _ = clean(["ann", "bob"], [3, 5])
        >>> data = to_hetero_data(log)
        >>> data.edge_types
        [('user', 'interacts', 'item'), ('item', 'rev_interacts', 'user')]
        >>> data["user", "interacts", "item"].edge_index.tolist(), data["item"].ids.tolist()
        ([[0, 1], [0, 1]], [3, 5])
    """
    held_out: dict[str, Interactions] = {}
    train = interactions
    if isinstance(train, InteractionSplits):
        held_out = {name: split for name, split in train.items() if name != "train"}
        train = train.train
    data = HeteroData()
    for node, names in (("user", train.users), ("item", train.items)):
        data[node].num_nodes = len(names)
        data[node].ids = names.values
    store = data[INTERACTS]
    store.edge_index = _edges(train.user, train.item)
    for name in ("time", "weight", "kind"):
        values = getattr(train, name)
        if values is not None:
            store[name] = torch.from_numpy(np.ascontiguousarray(values))
    if train.kinds:
        store.kinds = train.kinds
    for name, split in held_out.items():
        store[f"{name}_label_index"] = _edges(split.user, split.item)
    data[_reversed(INTERACTS)].edge_index = store.edge_index.flip(0)
    if knowledge is not None:
        _add_knowledge(data, knowledge)
    return data


def _add_knowledge(data: HeteroData, knowledge: KnowledgeGraph) -> None:
    num_items = knowledge.num_items
    if num_items != data["item"].num_nodes:
        raise DataError(
            f"the knowledge graph is about {num_items:,} items, the interactions about "
            f"{data['item'].num_nodes:,}. Read it with the items of these interactions."
        )
    data["entity"].num_nodes = len(knowledge.entities) - num_items
    data["entity"].ids = knowledge.entities.values[num_items:]
    for number, relation in enumerate(knowledge.relations.values):
        rows = knowledge.relation == number
        head, tail = knowledge.head[rows], knowledge.tail[rows]
        for of_item in (True, False):
            for to_item in (True, False):
                here = ((head < num_items) == of_item) & ((tail < num_items) == to_item)
                if not here.any():
                    continue
                nodes = [("entity", "item")[flag] for flag in (of_item, to_item)]
                shift = [0 if flag else num_items for flag in (of_item, to_item)]
                edge_type = (nodes[0], str(relation), nodes[1])
                edges = _edges(head[here] - shift[0], tail[here] - shift[1])
                for name, pairs in ((edge_type, edges), (_reversed(edge_type), edges.flip(0))):
                    if name in data.edge_types:
                        raise DataError(f"two relations become the edge type {name}. Rename one.")
                    data[name].edge_index = pairs


def _edges(source: np.ndarray, target: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack([source, target]).astype(np.int64))


def _reversed(edge_type: EdgeType) -> EdgeType:
    return (edge_type[2], f"rev_{edge_type[1]}", edge_type[0])


def from_hetero_data(data: HeteroData, edge_type: EdgeType = INTERACTS) -> Interactions:
    """The edges of one type as interactions.

    Edges that repeat become one, with the latest time and the sum of the weights.

    Args:
        data: With ``ids`` on both kinds of nodes, else numbers are the ids; with ``time``,
            ``weight`` (or ``edge_weight``) and ``kind`` on the edges where they are known.
        edge_type: Head, relation and tail; the heads become users.

    Raises:
        DataError: There is no such edge type, it has no edges, or an edge leads outside the nodes.
    """
    if edge_type not in data.edge_types:
        raise DataError(f"expected the edge type {edge_type}, got {data.edge_types}.")
    store = data[edge_type]
    edges = store.get("edge_index")
    if edges is None or edges.numel() == 0:
        raise DataError(f"{edge_type} has no edges.")
    named = (_names(data, edge_type[0]), _names(data, edge_type[2]))
    pairs = edges.as_tensor() if isinstance(edges, EdgeIndex) else edges
    source, target = (part.cpu().numpy().astype(np.int64) for part in pairs)
    for end, names, node in ((source, named[0], edge_type[0]), (target, named[1], edge_type[2])):
        if end.min() < 0 or end.max() >= len(names):
            raise DataError(
                f"{edge_type}: expected {node} from 0 to {len(names) - 1}, got {end.min()} to "
                f"{end.max()}."
            )
    time, kind = _values(store, "time"), _values(store, "kind")
    weight = _values(store, "weight")
    weight = _values(store, "edge_weight") if weight is None else weight
    return merged_pairs(
        named, (source, target), time=time, weight=weight, kind=kind,
        kinds=tuple(store.get("kinds") or ()), options=Cleaning(merge_weight="sum"),
    )  # fmt: skip


def _names(data: HeteroData, node: str) -> Names:
    ids = data[node].get("ids")
    if isinstance(ids, Tensor):
        ids = ids.cpu().numpy()
    return Names(np.arange(data[node].num_nodes) if ids is None else ids)


def _values(store: Any, name: str) -> np.ndarray | None:
    values = store.get(name)
    return None if values is None else values.cpu().numpy()


def to_edge_index(graph: InteractionGraph, joint: bool = False) -> EdgeIndex:
    """The edges of a graph as PyG's sorted, cached edge list.

    Args:
        graph: Users, items and edges.
        joint: Users and items as nodes of one graph (item i is node ``num_users + i``), with every
            edge in both directions, instead of users to items.

    Shape:
        - output: (2, E), sparse size (U, I); joint: (2, 2 E), sparse size (U + I, U + I). Sorted by
          row, so that ``edge_index.matmul`` and fused message passing are quick.

    Example:
        >>> graph = InteractionGraph(2, 3, torch.tensor([0, 1, 1]), torch.tensor([2, 0, 2]))
        >>> edges = to_edge_index(graph, joint=True)
        >>> edges.tolist(), edges.is_undirected, edges.sparse_size()
        ([[0, 1, 1, 2, 4, 4], [4, 2, 4, 1, 0, 1]], True, (5, 5))
    """
    if not joint:
        edges = torch.stack([graph.user, graph.item])
        size = (graph.num_users, graph.num_items)
        return cast(Any, EdgeIndex)(edges, sparse_size=size, sort_order="row")
    item = graph.item + graph.num_users
    by_item = torch.argsort(graph.item, stable=True)
    rows = torch.cat([graph.user, item[by_item]])
    columns = torch.cat([item, graph.user[by_item]])
    nodes = graph.num_users + graph.num_items
    return cast(Any, EdgeIndex)(
        torch.stack([rows, columns]), sparse_size=(nodes, nodes), sort_order="row",
        is_undirected=True,
    )  # fmt: skip
