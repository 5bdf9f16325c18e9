"""What a code of vectors must do, and the basis that codes work in.

Lengths are kept: a code is a direction and a length (one float16 a vector), for scores are inner
products, and the length of an item often carries its popularity.

Stability: experimental
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor

from recsys.errors import CheckpointError, DataError
from recsys.retrieval.rows import Rows

_DECODED_ROWS = 4096
_SAMPLE = 20_000


class Codes(abc.ABC):
    """Short forms of vectors that can be scored against float queries.

    ``fit`` learns from vectors; afterwards ``encode`` gives parts (tensors with a row a vector),
    which the index keeps, and ``scores`` gives inner products with their decoded vectors.
    """

    kind: ClassVar[str]
    """Name in a saved index."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Short, for tables."""

    @abc.abstractmethod
    def options(self) -> dict[str, int | bool | None]:
        """Arguments of the constructor."""

    @abc.abstractmethod
    def fit(self, vectors: Tensor) -> None:
        """Learns from vectors.

        Args:
            vectors: Float vectors, (N, D).
        """

    @abc.abstractmethod
    def encode(self, vectors: Tensor) -> dict[str, Tensor]:
        """The parts of some vectors.

        Args:
            vectors: Float vectors, (n, D).
        """

    @abc.abstractmethod
    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Approximate vectors, (n, D).

        Args:
            parts: From `encode`.
        """

    @abc.abstractmethod
    def prepare(self, queries: Tensor) -> Tensor:
        """Queries in the form that `products` wants, made once a search.

        Args:
            queries: Float vectors, (B, D).
        """

    @abc.abstractmethod
    def products(self, prepared: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """Inner products with decoded vectors, (B, n).

        Args:
            prepared: From `prepare`.
            parts: From `encode`.
        """

    @abc.abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What `fit` learned."""

    @abc.abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave.

        Args:
            state: Tensors by name.
        """

    def fitted(self, vectors: Tensor) -> Self:
        """Itself after `fit`.

        Args:
            vectors: Float vectors, (N, D).
        """
        self.fit(vectors)
        return self

    def scores(self, prepared: Tensor, rows: Mapping[str, Rows], start: int, stop: int) -> Tensor:
        """Inner products with a range of rows, decoded a few thousand at a time.

        Args:
            prepared: From `prepare`.
            rows: Parts of all rows.
            start: First row.
            stop: Behind the last.

        Shape:
            - output: (B, stop - start)
        """
        out = prepared.new_empty((len(prepared), stop - start))
        for low in range(start, stop, _DECODED_ROWS):
            high = min(low + _DECODED_ROWS, stop)
            parts = {name: table.block(low, high) for name, table in rows.items()}
            out[:, low - start : high - start] = self.products(prepared, parts)
        return out


class Basis:
    """An orthogonal change of coordinates: the main directions of vectors, mixed by a rotation.

    Main directions are those of the vectors as they are, not of their deviation from a mean, so
    that a vector twice as long still has coordinates twice as large.

    Args:
        dims: Main directions to keep; None keeps all.
        rotate: Whether to mix the directions at random, so that none is wider than the others.
        seed: Of the rotation.
    """

    def __init__(self, dims: int | None, rotate: bool, seed: int = 0) -> None:
        if dims is not None and dims < 1:
            raise DataError(f"`dims` must be at least 1, got {dims}.")
        self.dims, self.rotate, self.seed = dims, rotate, seed
        self.matrix: Tensor | None = None

    def fit(self, vectors: Tensor) -> None:
        """Finds the directions.

        Args:
            vectors: Float vectors, (N, D).

        Raises:
            DataError: More directions are asked for than there are.
        """
        full = vectors.shape[1]
        if self.dims is not None and self.dims > full:
            raise DataError(
                f"`dims` must be at most the {full} values of a vector, got {self.dims}."
            )
        matrix = torch.eye(full, dtype=torch.float64)
        if self.dims is not None:
            rows = vectors.double()
            matrix = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)[:, : self.dims]
        if self.rotate:
            random = torch.Generator().manual_seed(self.seed)
            size = matrix.shape[1]
            normal = torch.randn(size, size, generator=random, dtype=torch.float64)
            matrix = matrix @ torch.linalg.qr(normal).Q
        self.matrix = matrix.float()

    def into(self, vectors: Tensor) -> Tensor:
        """Coordinates of vectors, (n, dims).

        Args:
            vectors: (n, D).
        """
        assert self.matrix is not None, "fit first"
        return vectors @ self.matrix

    def back(self, coordinates: Tensor) -> Tensor:
        """Vectors of coordinates, (n, D).

        Args:
            coordinates: (n, dims).
        """
        assert self.matrix is not None, "fit first"
        return coordinates @ self.matrix.T


def sample(vectors: Tensor) -> Tensor:
    """At most 20,000 of the vectors that are not zero, evenly spaced.

    Args:
        vectors: (N, D).

    Raises:
        DataError: There are none to learn from.
    """
    step = max(1, len(vectors) // _SAMPLE)
    found = vectors[::step]
    found = found[found.any(1)]
    if not len(found):
        raise DataError("codes are learned from vectors, and there are none that are not zero.")
    return found


def half(lengths: Tensor, unit: Tensor) -> Tensor:
    """Lengths as float16 multiples of a unit; a length beyond its range becomes the longest.

    Args:
        lengths: Any shape.
        unit: A scalar.
    """
    return (lengths / unit).clamp(max=65504.0).half()


def take_state(state: Mapping[str, Tensor], shapes: Mapping[str, int]) -> list[Tensor]:
    """Tensors of a saved state, checked for their number of dimensions.

    Args:
        state: Tensors by name.
        shapes: Dimensions by name, in the order wanted.

    Raises:
        CheckpointError: One is missing or of another shape.
    """
    wrong = [n for n, dims in shapes.items() if n not in state or state[n].dim() != dims]
    if wrong:
        raise CheckpointError(f"the codes do not fit: {', '.join(wrong)} is missing or misshapen.")
    return [state[name] for name in shapes]
