"""Paths to an item by hand; against enumeration: tests/models/graph/test_kgat.py."""

import torch

from recsys.graph.collaborative_knowledge import CollaborativeKnowledge
from recsys.graph.knowledge_paths import paths_to


def test_paths_by_hand():
    """Users 0, 1; items 2 to 4; entity 5. Wanted: item 4. User 1 is on no path."""
    names = ("interact", "by", "like", "inverse interact", "inverse by", "inverse like")
    triples = [
        (0, 0, 2, 0.5), (0, 0, 3, 0.25), (0, 0, 4, 0.25), (1, 0, 3, 1.0), (1, 0, 4, 1.0),
        (2, 1, 5, 0.5), (2, 2, 4, 0.25), (3, 2, 2, 0.5), (3, 3, 1, 0.25), (5, 4, 4, 0.5),
        (3, 1, 5, 0.0), (4, 3, 1, 1.0), (1, 0, 2, 1.0),
    ]  # fmt: skip
    triples.sort()
    head, relation, tail = (torch.tensor([t[n] for t in triples]) for n in range(3))
    graph = CollaborativeKnowledge(2, 3, 6, names, head, relation, tail)
    weights = torch.tensor([t[3] for t in triples])
    found = paths_to(graph, weights, 0, 2, [0, 1, 2])
    got = [(r.weight, [(n.kind, n.id) for n in r.path], r.relations) for r in found]
    user, first, second = ("user", 0), ("item", 0), ("item", 1)
    assert got == [
        (0.125, [user, first], ("interact", "like")),
        (0.125, [user, first, ("entity", 3)], ("interact", "by", "inverse by")),
        (0.03125, [user, second, first], ("interact", "like", "like")),
    ]
    assert [r.path[1].id for r in paths_to(graph, weights, 0, 2, [1])] == [1]
    assert paths_to(graph, weights, 0, 2, []) == ()
    assert paths_to(graph, weights, 1, 0, [0]) == ()
