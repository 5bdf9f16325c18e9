"""What a code of vectors must do, and the basis that codes work in.

Lengths are kept: a code is a direction and a length (one float16 a vector), for scores are inner
products, and the length of an item often carries its popularity.

Stability: experimental
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from recsys.errors import CheckpointError, DataError
from recsys.retrieval.code_products import few
from recsys.retrieval.rows import Rows
from recsys.retrieval.scan import Hidden, scan

_DECODED_ROWS = 4096
_ENCODED_ROWS = 1 << 16
_SAMPLE = 20_000


class Codes(abc.ABC):
    """What an index looks through in place of its vectors.

    ``fit`` learns from vectors; afterwards ``encode`` gives parts (tensors with a row a vector),
    which the index keeps, and ``best`` finds candidates, which the index scores again.
    """

    kind: ClassVar[str]
    """Name in a saved index."""
    sees_all: ClassVar[bool] = True
    """Whether `best` looks at every row; if not, a list that comes out short is searched anew."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Short, for tables."""

    @abc.abstractmethod
    def options(self) -> dict[str, int | float | bool | str | None]:
        """Arguments of the constructor, for a saved index."""

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
    def best(
        self,
        queries: Tensor,
        parts: Mapping[str, Rows],
        table: Rows,
        count: int,
        masks: Sequence[tuple[Tensor, Tensor]],
        hidden: Hidden | None,
    ) -> tuple[Tensor, Tensor]:
        """The rows of the highest scores, see `recsys.retrieval.scan.scan`.

        Args:
            queries: Float vectors, (B, D).
            parts: Of all rows.
            table: Float vectors of all rows.
            count: Rows wanted.
            masks: Numbers of queries, and which rows they may find.
            hidden: Further rows that single queries may not find.

        Returns:
            Scores, falling, ``-inf`` where there is nothing more, and rows, both (B, count). Never
            a row that a query may not find.
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

    def build(self, vectors: Tensor) -> dict[str, Tensor]:
        """Learns from vectors and gives their parts.

        Args:
            vectors: Of all items, (N, D).
        """
        self.fit(vectors)
        return self.encode_all(vectors)

    def encode_all(self, vectors: Tensor) -> dict[str, Tensor]:
        """The parts of many vectors, made some thousands at a time.

        Args:
            vectors: Float vectors, (n, D).
        """
        blocks = [self.encode(part) for part in vectors.split(_ENCODED_ROWS)]
        return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}

    def row_bytes(self, parts: Mapping[str, Rows]) -> int:
        """Bytes a vector of what is looked through.

        Args:
            parts: Of all rows.
        """
        return sum(part.row_bytes for part in parts.values())


class ScannedCodes(Codes):
    """Short forms of vectors, all of which are scored against a query.

    What stands for the inner product with a vector is, where codes have a ``decode``, that with the
    decoded vector.
    """

    @abc.abstractmethod
    def prepare(self, queries: Tensor) -> Tensor:
        """Queries in the form that `products` wants, made once a search.

        Args:
            queries: Float vectors, (B, D).
        """

    @abc.abstractmethod
    def products(self, prepared: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """What stands for inner products with the vectors, (B, n).

        Args:
            prepared: From `prepare`.
            parts: From `encode`.
        """

    def best(
        self,
        queries: Tensor,
        parts: Mapping[str, Rows],
        table: Rows,
        count: int,
        masks: Sequence[tuple[Tensor, Tensor]],
        hidden: Hidden | None,
    ) -> tuple[Tensor, Tensor]:
        """See `Codes`."""
        scores = functools.partial(self.scores, self.prepare(queries), parts)
        return scan(scores, len(table), count, masks, hidden)

    def scores(self, prepared: Tensor, rows: Mapping[str, Rows], start: int, stop: int) -> Tensor:
        """Scores of a range of rows, decoded a few thousand at a time where they are decoded.

        Args:
            prepared: From `prepare`.
            rows: Parts of all rows.
            start: First row.
            stop: Behind the last.

        Shape:
            - output: (B, stop - start)
        """
        out = prepared.new_empty((len(prepared), stop - start))
        step = stop - start if few(len(prepared)) else _DECODED_ROWS
        for low in range(start, stop, step):
            high = min(low + step, stop)
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


def directions(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors of length 1, zeros where a vector is zero, and their lengths.

    Args:
        vectors: (n, D).

    Returns:
        (n, D) and (n,).
    """
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    return vectors / lengths.clamp(min=1e-30)[:, None], lengths


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
