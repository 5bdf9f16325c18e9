"""Pairs and triples as relations between users, items and other entities.

Stability: experimental
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from recsys.graph.collaborative_knowledge import CollaborativeKnowledge
from recsys.graph.meta_relations import MetaRelation


class TypedRelations(NamedTuple):
    """The edges of a graph, one relation for each of its relations and pair of types."""

    counts: dict[str, int]
    """Nodes by type, in the order of their numbers: ``user``, ``item``, ``entity``."""
    relations: tuple[MetaRelation, ...]
    """Both directions of everything."""
    positions: tuple[Tensor, ...]
    """Of every relation's edges in the graph, by row, then column."""


def typed_relations(graph: CollaborativeKnowledge) -> TypedRelations:
    """The edges by relation and by the types of their ends.

    Args:
        graph: On the CPU.

    Example:
        >>> edges = torch.tensor([[0, 0, 1], [1, 1, 2], [1, 2, 0], [2, 3, 1]]).T.contiguous()
        >>> graph = CollaborativeKnowledge(
        ...     1, 1, 3, ("interact", "by", "inverse interact", "inverse by"), *edges)
        >>> found = typed_relations(graph).relations
        >>> [f"{r.head} {r.name} {r.tail}" for r in found[:3]]
        ['user interact item', 'item by entity', 'item inverse interact user']
    """
    others = graph.num_nodes - graph.num_users - graph.num_items
    counts = {"user": graph.num_users, "item": graph.num_items, "entity": others}
    counts = {name: count for name, count in counts.items() if count}
    starts = np.concatenate([[0], np.cumsum(list(counts.values()))])
    names = list(counts)
    head, relation, tail = (part.numpy() for part in (graph.head, graph.relation, graph.tail))
    of_head, of_tail = (np.searchsorted(starts, ends, side="right") - 1 for ends in (head, tail))
    relations, positions = [], []
    for number, name in enumerate(graph.relations):
        for first, source in enumerate(names):
            for second, goal in enumerate(names):
                chosen = (relation == number) & (of_head == first) & (of_tail == second)
                if not chosen.any():
                    continue
                places = np.flatnonzero(chosen)
                ends = head[places] - starts[first], tail[places] - starts[second]
                ones = np.ones(len(places), np.float32)
                matrix = csr_array((ones, ends), shape=(counts[source], counts[goal]))
                relations.append(MetaRelation(source, goal, (name,), matrix))
                positions.append(torch.from_numpy(places))
    return TypedRelations(counts, tuple(relations), tuple(positions))
