"""Meta-relations: kinds of paths between kinds of nodes, each with its pairs and their weights.

Stability: experimental
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from scipy.sparse import csr_array

from recsys.errors import ConfigError, DataError
from recsys.graph.labelled_nodes import EdgeType
from recsys.graph.products import size

_BLOCK_ENTRIES = 1 << 22  # of a product before its rows are cut


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class MetaRelation:
    """A kind of path: which node takes from which, and how near they are.

    Args:
        head: Type of the nodes that take.
        tail: Type of the nodes that give.
        steps: Names of the relations on the way.
        matrix: Weight of every pair, above 0 and up to 1; heads in rows.

    Shape:
        - matrix: (N of head, N of tail) float32
    """

    head: str
    tail: str
    steps: tuple[str, ...]
    matrix: csr_array

    @property
    def name(self) -> str:
        """The steps, say ``by > rev by``."""
        return " > ".join(self.steps)

    @property
    def key(self) -> tuple[str, str, str]:
        """Head, name and tail: different for all relations of a layer."""
        return self.head, self.name, self.tail


def base_relations(
    counts: Mapping[str, int], edges: Mapping[EdgeType, np.ndarray]
) -> tuple[MetaRelation, ...]:
    """Every type of edges and its reverse.

    Edges among nodes of one type that are there in both directions are one relation.

    Args:
        counts: Number of nodes of every type.
        edges: Ends of the edges by type, (2, E) each; repeated ones count once.

    Raises:
        DataError: There is no edge.

    Example:
        >>> found = base_relations({"paper": 2, "author": 1},
        ...                        {("paper", "by", "author"): np.array([[0, 1], [0, 0]])})
        >>> [(r.head, r.name, r.tail, r.matrix.toarray().tolist()) for r in found]
        [('paper', 'by', 'author', [[1.0], [1.0]]), ('author', 'rev by', 'paper', [[1.0, 1.0]])]
    """
    found: list[MetaRelation] = []
    for (source, name, goal), (first, second) in edges.items():
        if not len(first):
            continue
        there = _ones(first, second, counts[source], counts[goal])
        found.append(MetaRelation(source, goal, (name,), there))
        back = csr_array(there.T)
        if source != goal or abs(there - back).sum():
            found.append(MetaRelation(goal, source, (f"rev {name}",), back))
    if not found:
        raise DataError("the graph has no edge: expected at least one.")
    return tuple(found)


def unions(relations: Iterable[MetaRelation]) -> tuple[MetaRelation, ...]:
    """One relation for every pair of types, with the pairs of all of them.

    Args:
        relations: Of one step.

    Example:
        >>> one = csr_array(np.array([[1.0, 0.0]], np.float32))
        >>> two = csr_array(np.array([[1.0, 1.0]], np.float32))
        >>> (both,) = unions([MetaRelation("a", "b", ("x",), one),
        ...                   MetaRelation("a", "b", ("y",), two)])
        >>> both.name, both.matrix.toarray().tolist()
        ('x or y', [[1.0, 1.0]])
    """
    groups: dict[tuple[str, str], list[MetaRelation]] = {}
    for relation in relations:
        groups.setdefault((relation.head, relation.tail), []).append(relation)
    found = []
    for (head, tail), group in groups.items():
        total = csr_array(group[0].matrix, copy=True)
        for relation in group[1:]:
            total = csr_array(total + relation.matrix)
        total.data[:] = 1
        names = [relation.name for relation in group]
        shown = names if len(names) < 4 else [*names[:2], f"{len(names) - 2} more"]
        found.append(MetaRelation(head, tail, (" or ".join(shown),), total))
    return tuple(found)


def join(first: MetaRelation, second: MetaRelation, top: int) -> MetaRelation:
    """Paths of one relation, then another, through nodes that have few others to go to.

        v_ij = sum_m a_im b_mj / (in_m + out_m)

    with ``in_m`` and ``out_m`` the number of pairs of m in the first and in the second, as in the
    index of Adamic and Adar but for its logarithm. A node is never its own neighbour; of every row
    the largest are kept (of equal ones those of lower number), and all are divided by the largest
    of the matrix. Computed in blocks of rows.

    Args:
        first: From the head to what lies between.
        second: From there to the tail.
        top: Pairs of every head that are kept.

    Raises:
        ConfigError: The relations do not meet, or ``top`` is not positive.
    """
    if first.tail != second.head or top < 1:
        raise ConfigError(
            f"join: expected relations that meet and top of 1 or more, got one to `{first.tail}`, "
            f"one from `{second.head}`, and top={top}."
        )
    left, right = first.matrix, second.matrix
    degrees = np.bincount(left.indices, minlength=size(left)[1]) + np.diff(right.indptr)
    scale = np.divide(1.0, degrees, out=np.zeros(len(degrees)), where=degrees > 0)
    weighted = csr_array(right.multiply(scale[:, None]), dtype=np.float32)
    work = np.concatenate([[0], np.cumsum(np.diff(right.indptr)[left.indices])])[left.indptr]
    parts, start, rows = [], 0, size(left)[0]
    while start < rows:
        stop = int(np.searchsorted(work, work[start] + _BLOCK_ENTRIES, side="right")) - 1
        stop = min(max(stop, start + 1), rows)
        block = csr_array(left[start:stop] @ weighted).tocoo()
        row, col = block.row.astype(np.int64) + start, block.col.astype(np.int64)
        other = (row != col) if first.head == second.tail else np.ones(len(row), bool)
        parts.append(_largest(row[other], col[other], block.data[other], top))
        start = stop
    row, col, value = (np.concatenate(part) for part in zip(*parts))
    shape = (rows, size(right)[1])
    matrix = csr_array((value / max(value.max(initial=0), 1e-30), (row, col)), shape=shape)
    return MetaRelation(
        first.head, second.tail, (*first.steps, *second.steps), csr_array(matrix, dtype=np.float32)
    )


def decompose(
    base: Sequence[MetaRelation], num_layers: int, wanted: Collection[str], top: int
) -> tuple[tuple[MetaRelation, ...], ...]:
    """The relations of every layer: those of layer t are paths of t steps.

    The first layer has every relation; later ones join `unions` of relations, whose number does
    not grow with that of relations. The last layer has the wanted heads alone.

    Args:
        base: Of one step.
        num_layers: T.
        wanted: Types whose vectors are needed in the end.
        top: Pairs of every head that joined relations keep.

    Raises:
        ConfigError: No relation has a wanted head.

    Source:
        Tran et al., "LATTE: Layer-Stacked Attention for Heterogeneous Network Embedding", 2020,
        its meta-relation decomposition. Differs: joined once from the graph, instead of anew from
        the attention of the layer below with entries under 0.5 dropped; the largest of every row
        instead of draws.
    """
    missing = [name for name in wanted if all(relation.head != name for relation in base)]
    if missing:
        raise ConfigError(
            f"nodes of type {missing} have no edge, so there is nothing to attend to. Use a model "
            "without a graph."
        )
    step = unions(base)
    layers: list[tuple[MetaRelation, ...]] = [tuple(base)]
    last, counted = step, {relation.head for relation in base}
    for number in range(1, num_layers):
        needed = wanted if number == num_layers - 1 else counted
        joined = [
            join(one, two, top)
            for one in last
            for two in step
            if one.tail == two.head and one.head in needed
        ]
        last = tuple(relation for relation in joined if relation.matrix.nnz)
        layers.append(last)
    layers[-1] = tuple(relation for relation in layers[-1] if relation.head in wanted)
    return tuple(layers)


def _largest(
    row: np.ndarray, col: np.ndarray, value: np.ndarray, top: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The largest entries of every row."""
    order = np.lexsort((col, -value, row))
    row, col, value = row[order], col[order], value[order]
    first = np.searchsorted(row, row)  # where the row begins
    kept = np.arange(len(row)) - first < top
    return row[kept], col[kept], value[kept]


def _ones(row: np.ndarray, col: np.ndarray, num_rows: int, num_cols: int) -> csr_array:
    found = csr_array((np.ones(len(row), np.float32), (row, col)), shape=(num_rows, num_cols))
    found.sum_duplicates()
    found.data[:] = 1
    return found
