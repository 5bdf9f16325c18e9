"""Sets of vectors, and the exact likeness of two sets: every vector of one asks for its best match.

Stability: experimental
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.errors import DataError
from recsys.retrieval.checks import as_vectors
from recsys.retrieval.item_ids import plain

_FLOATS = 1 << 22  # products at a time


class VectorSets:
    """Sets of vectors of one width, one set after the other.

    Args:
        values: Vectors of all sets.
        offsets: Where every set begins, and the end of the last.
        name: What they are, for the error text.

    Raises:
        DataError: Vectors are not finite, or offsets do not fit.

    Shape:
        - values: (T, D)
        - offsets: (N + 1,) int64

    Example:
        >>> sets = VectorSets.of([[[1.0, 0.0], [0.0, 1.0]], [[2.0, 2.0]]])
        >>> len(sets), sets.dim, sets.offsets.tolist(), sets[1].tolist()
        (2, 2, [0, 2, 3], [[2.0, 2.0]])
    """

    def __init__(self, values: Any, offsets: Any, name: str = "sets") -> None:
        self.values = as_vectors(values, name)
        self.offsets = torch.from_numpy(np.array(plain(offsets), dtype=np.int64))
        ends = self.offsets.tolist() if self.offsets.dim() == 1 else []
        rising = bool(ends) and all(a <= b for a, b in itertools.pairwise(ends))
        if not rising or ends[0] != 0 or ends[-1] != len(self.values):
            raise DataError(
                f"offsets of `{name}` must rise from 0 to the {len(self.values):,} vectors, a "
                "start for every set and the end of the last."
            )

    @classmethod
    def of(cls, sets: Iterable[Any], name: str = "sets", dim: int | None = None) -> VectorSets:
        """From a matrix for every set.

        Args:
            sets: Matrices of one width. An empty list is a set of no vectors.
            name: What they are, for the error text.
            dim: Width they must have; None takes that of the first.

        Raises:
            DataError: A set is not a matrix of finite numbers, or widths differ.
        """
        matrices, ends = [], [0]
        for number, one in enumerate(sets, 1):
            rows = plain(one)
            if len(rows):
                matrix = as_vectors(rows, f"{name}[{number - 1}]")
                dim = matrix.shape[1] if dim is None else dim
                if matrix.shape[1] != dim:
                    raise DataError(
                        f"`{name}` must have {dim} values in every vector, got "
                        f"{matrix.shape[1]} in set {number:,}. Are they of another model?"
                    )
                matrices.append(matrix)
            ends.append(ends[-1] + len(rows))
        if dim is None:
            raise DataError(f"`{name}` must have a vector in at least one set.")
        return cls(torch.cat(matrices) if matrices else torch.zeros(0, dim), ends, name)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def dim(self) -> int:
        """D."""
        return self.values.shape[1]

    @property
    def sizes(self) -> Tensor:
        """Vectors in every set, (N,)."""
        return self.offsets.diff()

    def __getitem__(self, number: int) -> Tensor:
        if not 0 <= number < len(self):
            raise IndexError(f"set {number} of {len(self)}")
        return self.values[int(self.offsets[number]) : int(self.offsets[number + 1])]

    def owners(self) -> Tensor:
        """Number of the set of every vector, (T,)."""
        return torch.repeat_interleave(torch.arange(len(self)), self.sizes)

    def take(self, numbers: Tensor) -> VectorSets:
        """Some of the sets, in the order given.

        Args:
            numbers: Of the sets, (n,) int64.
        """
        sizes = self.sizes[numbers]
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
        inside = torch.arange(int(ends[-1])) - torch.repeat_interleave(ends[:-1], sizes)
        rows = torch.repeat_interleave(self.offsets[:-1][numbers], sizes) + inside
        made = VectorSets.__new__(VectorSets)
        made.values, made.offsets = self.values[rows], ends
        return made

    def joined(self, others: VectorSets) -> VectorSets:
        """These sets, then others of the same width.

        Args:
            others: The sets that follow.
        """
        made = VectorSets.__new__(VectorSets)
        made.values = torch.cat([self.values, others.values])
        made.offsets = torch.cat([self.offsets, others.offsets[1:] + self.offsets[-1]])
        return made

    def means(self) -> Tensor:
        """The mean vector of every set, zeros for a set of none, (N, D)."""
        total = torch.zeros(len(self), self.dim)
        total.index_add_(0, self.owners(), self.values)
        return total / self.sizes.clamp(min=1)[:, None]


def max_sim(query: Tensor, documents: VectorSets) -> Tensor:
    """``sum_i max_j <q_i, d_j>`` of a set with every set of others: MaxSim, or Chamfer likeness.

    The sum runs over the query, so it is not symmetric; a set of none scores ``-inf``.

    Args:
        query: Vectors of the query.
        documents: Sets.

    Raises:
        DataError: Widths differ.

    Shape:
        - query: (m, D)
        - output: (N,)

    Source:
        Khattab and Zaharia, "ColBERT", SIGIR 2020, eq. 3.

    Example:
        >>> documents = VectorSets.of([[[1.0, 0.0]], [[1.0, 0.0], [0.0, 3.0]]])
        >>> max_sim(torch.eye(2), documents)
        tensor([1., 4.])
    """
    if query.dim() != 2 or query.shape[1] != documents.dim:
        raise DataError(
            f"expected a query of vectors of {documents.dim} values, got {tuple(query.shape)}."
        )
    owners = documents.owners()
    total = torch.zeros(len(documents))
    step = max(1, _FLOATS // max(1, len(documents.values)))
    for part in query.split(step):
        products = part @ documents.values.T
        best = torch.full((len(part), len(documents)), -torch.inf)
        best.scatter_reduce_(1, owners.expand(len(part), -1), products, "amax")
        total += best.sum(0)
    return total.masked_fill_(documents.sizes == 0, -torch.inf)
