"""Nodes with classes to learn: a graph of one or several types of nodes, features, labels, splits.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import xxhash
from scipy.sparse import csr_array

from recsys.errors import DataError
from recsys.graph.interactions import Names

EdgeType = tuple[str, str, str]
"""Type of the node an edge leaves, name of the relation, type of the node it enters."""
SPLITS = ("train", "valid", "test")
"""Names of the splits."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class LabelledNodes:
    """A graph whose nodes of one type have classes.

    Args:
        target: The type of nodes that have classes.
        counts: Number of nodes of every type.
        labels: Class of every node of the target type, -1 where it is not known.
        classes: Names of the classes.
        splits: Nodes of the target type by the name of the split; ``train`` must be there.
        edges: Ends of the edges by type. Other directions are not implied.
        features: Rows of numbers by type of node; a type without features gets trained vectors.
        ids: The caller's ids by type of node; numbers where there are none.
        report: What reading left out, by name: counts to show.

    Shape:
        - labels: (N of the target type,) int64
        - values of splits: (number of nodes,) int64
        - values of edges: (2, E) int64
        - values of features: (N of the type, F) float32, sparse or not

    Raises:
        DataError: Parts do not fit each other, a number is out of range or not finite, a node is
            in two splits or in one without a class.

    Example:
        >>> nodes = LabelledNodes(
        ...     "paper", {"paper": 3}, np.array([0, 1, 1]), ("AI", "DB"),
        ...     {"train": np.array([0, 1]), "test": np.array([2])},
        ...     {("paper", "cites", "paper"): np.array([[0, 1, 1], [1, 0, 2]])})
        >>> [ends.tolist() for ends in nodes.undirected()]
        [[0, 1, 1, 2], [1, 0, 2, 1]]
    """

    target: str
    counts: Mapping[str, int]
    labels: np.ndarray
    classes: tuple[str, ...]
    splits: Mapping[str, np.ndarray]
    edges: Mapping[EdgeType, np.ndarray]
    features: Mapping[str, csr_array | np.ndarray] = dataclasses.field(default_factory=dict)
    ids: Mapping[str, Names] = dataclasses.field(default_factory=dict)
    report: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.target not in self.counts or min(self.counts.values()) < 1:
            raise DataError(
                f"nodes: expected one or more of every type and the target `{self.target}` among "
                f"them, got {dict(self.counts)}."
            )
        self._check_labels()
        for node_type, rows in self.features.items():
            self._check_features(node_type, rows)
        for edge_type, pairs in self.edges.items():
            self._check_edges(edge_type, pairs)
        for node_type, names in self.ids.items():
            if len(names) != self.counts.get(node_type):
                raise DataError(
                    f"nodes: expected ids of {self.counts.get(node_type)} nodes of type "
                    f"`{node_type}`, got {len(names)}."
                )

    def _check_labels(self) -> None:
        labels, count = self.labels, self.counts[self.target]
        if labels.shape != (count,):
            raise DataError(f"labels: expected one of each of {count} nodes, got {labels.shape}.")
        if len(self.classes) < 2 or labels.min() < -1 or labels.max() >= len(self.classes):
            raise DataError(
                f"labels: expected two classes or more and numbers from -1 (not known) to "
                f"{len(self.classes) - 1}, got {labels.min()} to {labels.max()}."
            )
        if set(self.splits) - set(SPLITS) or not len(self.splits.get("train", ())):
            raise DataError(
                f"splits: expected a train split with nodes, and valid and test where there are "
                f"any, got { {name: len(nodes) for name, nodes in self.splits.items()} }."
            )
        for name, nodes in self.splits.items():
            if len(nodes) and not 0 <= nodes.min() <= nodes.max() < count:
                raise DataError(f"split {name}: expected nodes from 0 to {count - 1}.")
            if (labels[nodes] < 0).any():
                node = nodes[labels[nodes] < 0][0]
                raise DataError(f"split {name}: node {node} has no class. Leave it out.")
        found, times = np.unique(np.concatenate(list(self.splits.values())), return_counts=True)
        if (times > 1).any():
            raise DataError(f"splits: node {found[times > 1][0]} is there twice.")

    def _check_features(self, node_type: str, rows: csr_array | np.ndarray) -> None:
        expected, shape = self.counts.get(node_type), tuple(rows.shape or ())
        if len(shape) != 2 or shape[0] != expected or shape[1] < 1:
            raise DataError(
                f"features of `{node_type}`: expected a row for each of {expected} nodes, got "
                f"{shape}."
            )
        values = rows if isinstance(rows, np.ndarray) else rows.data
        if not np.isfinite(values).all():
            raise DataError(f"features of `{node_type}`: expected finite numbers, got NaN or inf.")

    def _check_edges(self, edge_type: EdgeType, pairs: np.ndarray) -> None:
        if pairs.ndim != 2 or pairs.shape[0] != 2:
            raise DataError(f"edges {edge_type}: expected ends (2, E), got {pairs.shape}.")
        for ends, node_type in zip(pairs, (edge_type[0], edge_type[2])):
            limit = self.counts.get(node_type)
            if limit is None:
                raise DataError(
                    f"edges {edge_type}: there are no nodes of type `{node_type}`, only "
                    f"{list(self.counts)}."
                )
            if len(ends) and not 0 <= ends.min() <= ends.max() < limit:
                raise DataError(
                    f"edges {edge_type}: expected `{node_type}` from 0 to {limit - 1}, got "
                    f"{ends.min()} to {ends.max()}."
                )

    @property
    def homogeneous(self) -> bool:
        """Whether there is one type of nodes."""
        return len(self.counts) == 1

    @property
    def num_edges(self) -> int:
        """Edges of all types."""
        return sum(pairs.shape[1] for pairs in self.edges.values())

    def undirected(self) -> tuple[np.ndarray, np.ndarray]:
        """Edges between nodes of the target type in both directions, each once, without loops.

        Returns:
            Both ends, (E,) int64 each, by the first, then the second.
        """
        size = self.counts[self.target]
        keys = [np.zeros(0, np.int64)]
        for (source, _, goal), (first, second) in self.edges.items():
            if source == goal == self.target:
                other = first != second
                keys += [(first * size + second)[other], (second * size + first)[other]]
        found = np.unique(np.concatenate(keys))
        return found // size, found % size

    def names(self, node_type: str) -> np.ndarray:
        """Ids of the nodes of a type, numbers where there are none.

        Args:
            node_type: One of ``counts``.
        """
        found = self.ids.get(node_type)
        return np.arange(self.counts[node_type]) if found is None else found.values

    def fingerprint(self) -> str:
        """Changes with everything that a model learns from."""
        digest = xxhash.xxh64(repr((self.target, dict(self.counts), self.classes)).encode())
        arrays = [self.labels, *(self.splits[name] for name in sorted(self.splits))]
        arrays += [self.edges[name] for name in sorted(self.edges)]
        for name in sorted(self.features):
            rows = self.features[name]
            dense = isinstance(rows, np.ndarray)
            arrays += [rows] if dense else [rows.indptr, rows.indices, rows.data]
        for array in arrays:
            digest.update(np.ascontiguousarray(array).data)
        digest.update(repr(sorted(self.edges)).encode())
        return digest.hexdigest()
