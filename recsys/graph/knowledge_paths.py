"""Paths from a user to an item through what is known about items.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from recsys.graph.collaborative_knowledge import CollaborativeKnowledge
from recsys.graph.explanation import Reason


def paths_to(
    graph: CollaborativeKnowledge, weights: Tensor, user: int, item: int, seen: ArrayLike
) -> tuple[Reason, ...]:
    """Paths user - seen item - item, and user - seen item - entity - item, by falling weight.

    The weight of a path is the product of those of its edges. Steps behind the seen item are
    triples: no path leads over another user. The item itself is no step on the way.

    Args:
        graph: Users, items, entities.
        weights: Of every edge of it, say attention, (E,).
        user: Number.
        item: Number.
        seen: Numbers of items that the user has seen; those without an edge are left out.

    Returns:
        Without paths of weight 0.

    Example:
        >>> edges = torch.tensor([[0, 0, 1], [1, 1, 3], [3, 2, 2]]).T.contiguous()
        >>> graph = CollaborativeKnowledge(1, 2, 4, ("interact", "by", "inverse by"), *edges)
        >>> paths_to(graph, torch.tensor([0.5, 1.0, 0.5]), 0, 1, [0])[0].relations
        ('interact', 'by', 'inverse by')
    """
    users = graph.num_users
    known = torch.from_numpy(np.asarray(seen, np.int64))
    target = torch.tensor([item + users])
    first = graph.between(torch.tensor([user]), known[known != item] + users)
    first = first[graph.relation[first] == 0]
    last = graph.between(torch.arange(users, graph.num_nodes), target)
    last = last[graph.head[last] != target]
    middle = graph.between(graph.tail[first], graph.head[last])
    middle = middle[graph.head[middle] != graph.tail[middle]]
    ends, middles = _by_head(graph, last), _by_head(graph, middle)
    found: list[tuple[int, ...]] = []
    for edge, seen_node in zip(first.tolist(), graph.tail[first].tolist()):
        found += [(edge, end) for end, _ in ends.get(seen_node, ())]
        for step, node in middles.get(seen_node, ()):
            found += [(edge, step, end) for end, _ in ends[node]]
    return _reasons(graph, weights, found)


def _by_head(graph: CollaborativeKnowledge, edges: Tensor) -> dict[int, list[tuple[int, int]]]:
    """Edges and their tails by their head."""
    found: dict[int, list[tuple[int, int]]] = {}
    heads, tails = graph.head[edges].tolist(), graph.tail[edges].tolist()
    for edge, head, tail in zip(edges.tolist(), heads, tails):
        found.setdefault(head, []).append((edge, tail))
    return found


def _reasons(
    graph: CollaborativeKnowledge, weights: Tensor, paths: Sequence[tuple[int, ...]]
) -> tuple[Reason, ...]:
    """Paths of edges as reasons, by falling weight."""
    reasons = []
    for path in paths:
        edges = torch.tensor(path)
        nodes = tuple(graph.node(number) for number in graph.head[edges].tolist())
        names = tuple(graph.relations[number] for number in graph.relation[edges].tolist())
        reasons.append(Reason(float(weights[edges].prod()), nodes, names))
    reasons.sort(key=lambda reason: -reason.weight)
    return tuple(reason for reason in reasons if reason.weight > 0)
