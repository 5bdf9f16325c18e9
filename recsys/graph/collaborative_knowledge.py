"""Users, items and other entities in one graph, with interactions as one more relation.

Stability: caller
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from recsys.errors import ConfigError, DataError
from recsys.graph.explanation import Node
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.knowledge import KnowledgeGraph

INTERACT = "interact"
"""Name of the relation between a user and a seen item."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class CollaborativeKnowledge:
    """Pairs and triples as edges between nodes, every one in both directions.

    Nodes are the users, then the entities (items first): entity e is node ``num_users + e``. With
    R relations of the knowledge graph there are 2 (R + 1) here: 0 is ``interact`` from user to
    item, 1 + r is relation r, and R + 1 + n is the inverse of relation n.

    Args:
        num_users: U.
        num_items: I.
        num_nodes: U and the number of entities.
        relations: Names of all 2 (R + 1) relations.
        head: Of every edge; edges are sorted by head, relation and tail.
        relation: Of every edge.
        tail: Of every edge.

    Shape:
        - head, relation, tail: (E,) int64

    Example:
        >>> from recsys.graph.interactions import Names
        >>> one = np.zeros(1, np.int64)
        >>> known = KnowledgeGraph(Names(["song", "band"]), Names(["by"]), 1, one, one, one + 1)
        >>> pairs = InteractionGraph(1, 1, torch.tensor([0]), torch.tensor([0]), knowledge=known)
        >>> graph = CollaborativeKnowledge.of(pairs)  # user 0, song 1, band 2
        >>> [(h, graph.relations[r], t) for h, r, t in graph.triples()]
        [(0, 'interact', 1), (1, 'by', 2), (1, 'inverse interact', 0), (2, 'inverse by', 1)]
    """

    num_users: int
    num_items: int
    num_nodes: int
    relations: tuple[str, ...]
    head: Tensor
    relation: Tensor
    tail: Tensor

    @classmethod
    def of(cls, graph: InteractionGraph) -> CollaborativeKnowledge:
        """The edges of a graph of pairs that has a knowledge graph.

        Args:
            graph: On the CPU.

        Raises:
            ConfigError: It has no knowledge graph.
            DataError: That is about other items.
        """
        known = checked_knowledge(graph)
        users = graph.num_users
        parts = [
            (graph.user, torch.zeros_like(graph.user), graph.item + users),
            *[tuple(torch.from_numpy(p) for p in
                    (known.head + users, known.relation + 1, known.tail + users))],
        ]  # fmt: skip
        head, relation, tail = (torch.cat(part) for part in zip(*parts))
        names = [INTERACT, *(str(name) for name in known.relations.values)]
        head, tail = torch.cat([head, tail]), torch.cat([tail, head])
        relation = torch.cat([relation, relation + len(names)])
        order = torch.from_numpy(np.lexsort([part.numpy() for part in (tail, relation, head)]))
        return cls(
            users, graph.num_items, users + len(known.entities),
            (*names, *(f"inverse {name}" for name in names)),
            head[order], relation[order], tail[order],
        )  # fmt: skip

    def __len__(self) -> int:
        """E, both directions of an edge counted."""
        return len(self.head)

    def node(self, number: int) -> Node:
        """What a node is: a user, an item, or another entity with its number.

        Args:
            number: Of the node.
        """
        if number < self.num_users:
            return Node("user", number)
        entity = number - self.num_users
        return Node("item" if entity < self.num_items else "entity", entity)

    def triples(self) -> list[tuple[int, int, int]]:
        """All edges: for small graphs."""
        return list(zip(self.head.tolist(), self.relation.tolist(), self.tail.tolist()))

    def facts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Edges between entities, without interactions: head, relation and tail of each.

        Entities are numbered from 0; of R relations, R + n is the inverse of relation n.

        Returns:
            (F,) int64 each.
        """
        known = len(self.relations) // 2 - 1
        inverse = self.relation > known
        relation = self.relation - 1 - inverse.long()
        chosen = (self.relation != 0) & (self.relation != known + 1)
        parts = self.head - self.num_users, relation, self.tail - self.num_users
        head, relation, tail = (part[chosen] for part in parts)
        return head, relation, tail

    def between(self, sources: Tensor, targets: Tensor) -> Tensor:
        """Positions of the edges from some nodes to some nodes, rising.

        Args:
            sources: Nodes, (N,).
            targets: Nodes, (M,).
        """
        chosen = torch.zeros(2, self.num_nodes, dtype=torch.bool)
        chosen[0, sources] = True
        chosen[1, targets] = True
        return (chosen[0][self.head] & chosen[1][self.tail]).nonzero()[:, 0]

    def to(self, device: torch.device | str) -> CollaborativeKnowledge:
        """The same on another device; itself where it is there already."""
        if torch.empty(0, device=device).device == self.head.device:
            return self
        moved = {name: getattr(self, name).to(device) for name in ("head", "relation", "tail")}
        return dataclasses.replace(self, **moved)


def checked_knowledge(graph: InteractionGraph) -> KnowledgeGraph:
    """The knowledge graph of a graph of pairs.

    Args:
        graph: Any.

    Raises:
        ConfigError: It has none.
        DataError: That is about other items.
    """
    known = graph.knowledge
    if known is None:
        raise ConfigError(
            "the model learns from a knowledge graph and the data set has none. Use a data set "
            "with `knowledge`, say KnowledgeFolder, or a model of pairs alone, say LightGCN."
        )
    if known.num_items != graph.num_items:
        raise DataError(
            f"the interactions have {graph.num_items} items and the knowledge graph is about "
            f"{known.num_items}. Read both from one data set."
        )
    return known
