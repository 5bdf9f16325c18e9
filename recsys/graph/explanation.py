"""Why a user may want an item: paths that lead to it, and how much each gives.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

NodeKind = Literal["user", "item", "entity", "concept"]


class Node(NamedTuple):
    """A node of the graph."""

    kind: NodeKind
    id: Any
    """Its number; the caller's id where a `Recommender` gives the explanation."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reason:
    """One path that leads to an item.

    Args:
        weight: What it adds to the score; of attention its product along the path.
        path: Nodes on the way to the item, which is not among them. An item that the user has seen
            and that speaks for the other by itself is a path of one node.
        relations: What connects each node with the next one, and the last with the item; may be
            empty for a path of one node.
    """

    weight: float
    path: tuple[Node, ...]
    relations: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    """Why a user may want an item.

    Args:
        item: Number of the item, or its id.
        reasons: By falling weight.
        score: What the weights of all reasons and the rest add up to; None where weights are
            attention, which adds up to nothing.
        rest: What of the score no reason here gives: the user's own vector, reasons left out.

    Example:
        >>> found = Explanation(7, (Reason(0.5, (Node("item", 3),)),), score=0.75, rest=0.25)
        >>> print(found.text())
        7: 0.75000
          +0.50000  item 3
          +0.25000  the rest
    """

    item: Any
    reasons: tuple[Reason, ...]
    score: float | None
    rest: float = 0.0

    @staticmethod
    def of_items(
        item: int, seen: np.ndarray, given: np.ndarray, score: float, rest: float = 0.0
    ) -> Explanation:
        """By the items that were seen; those that give nothing are no reasons.

        Args:
            item: Number of the item.
            seen: Numbers, (N,).
            given: What each adds to the score, (N,).
            score: What all of it adds up to.
            rest: What of the score is not theirs.

        Example:
            >>> Explanation.of_items(7, np.array([3, 4]), np.array([0.0, 0.5]), 0.5).reasons
            (Reason(weight=0.5, path=(Node(kind='item', id=4),), relations=()),)
        """
        order = np.argsort(-given, kind="stable")
        reasons = tuple(
            Reason(float(given[place]), (Node("item", int(seen[place])),))
            for place in order
            if given[place] != 0
        )
        return Explanation(item, reasons, score, rest)

    def first(self, count: int) -> Explanation:
        """The same with fewer reasons; what the others gave is in the rest.

        Args:
            count: How many to keep.
        """
        rest = self.rest
        if self.score is not None:
            rest += sum(reason.weight for reason in self.reasons[count:])
        return dataclasses.replace(self, reasons=self.reasons[:count], rest=rest)

    def named(self, item: Any, name: Callable[[Node], Any]) -> Explanation:
        """The same with ids in place of numbers.

        Args:
            item: Id of the item.
            name: Id of a node.
        """
        reasons = tuple(
            dataclasses.replace(
                reason, path=tuple(Node(node.kind, name(node)) for node in reason.path)
            )
            for reason in self.reasons
        )
        return dataclasses.replace(self, item=item, reasons=reasons)

    def text(self) -> str:
        """One line a reason."""
        lines = [str(self.item) if self.score is None else f"{self.item}: {self.score:.5f}"]
        for reason in self.reasons:
            steps = [f"{node.kind} {node.id}" for node in reason.path]
            parts = [steps[0]] if steps else []
            for relation, step in zip(reason.relations, [*steps[1:], f"item {self.item}"]):
                parts.append(f"-[{relation}]-> {step}")
            lines.append(f"  {reason.weight:+.5f}  {' '.join(parts)}")
        if self.score is not None and self.rest:
            lines.append(f"  {self.rest:+.5f}  the rest")
        return "\n".join(lines)
