"""What is known about items: triples of a knowledge graph.

Stability: caller
"""

from __future__ import annotations

import dataclasses

import numpy as np

from recsys.errors import DataError
from recsys.graph.interactions import Names


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class KnowledgeGraph:
    """Triples of head, relation and tail, each at most once.

    The first ``num_items`` entities are the items of the interactions, with the same numbers; then
    come the other entities. An item that no triple names is an entity without triples.

    Args:
        entities: Ids of all entities, the items first.
        relations: Ids of the relations.
        num_items: How many entities are items.
        head: Number of the head of every triple.
        relation: Number of its relation.
        tail: Number of its tail.
        report: What reading left out, by name: counts to show.

    Shape:
        - head, relation, tail: (T,) int64

    Raises:
        DataError: Arrays of different lengths, or a number out of range.
    """

    entities: Names
    relations: Names
    num_items: int
    head: np.ndarray
    relation: np.ndarray
    tail: np.ndarray
    report: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        limits = {"head": self.entities, "relation": self.relations, "tail": self.entities}
        for name, names in limits.items():
            values = getattr(self, name)
            if values.shape != self.head.shape:
                raise DataError(
                    f"knowledge graph: expected {len(self)} values of `{name}`, got {values.shape}."
                )
            if len(values) and not 0 <= values.min() <= values.max() < len(names):
                raise DataError(
                    f"knowledge graph: expected `{name}` from 0 to {len(names) - 1}, got "
                    f"{values.min()} to {values.max()}."
                )

    def __len__(self) -> int:
        return len(self.head)
