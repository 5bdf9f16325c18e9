"""MUVERA: one vector for a set of vectors, whose inner product stands for the likeness of sets.

Stability: experimental
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.errors import DataError
from recsys.retrieval.vector_sets import VectorSets

_FLOATS = 1 << 24  # of the encodings made at a time


class FixedEncodings:
    """Encodings of sets such that ``<query(Q), document(D)>`` is about ``sum_i max_j <q_i, d_j>``.

    In every repetition, random hyperplanes cut space into ``2^bits`` buckets. In each, a query has
    the sum of its vectors and a document their mean; a bucket that a document leaves empty stays
    zero, or takes its vector of the nearest bucket (``fill``). Buckets are sketched to
    ``projected`` values by random signs, and all of them stand one after the other.

    For sets of a few vectors the mean and an exact second look are as good at a fraction of the
    size; see `recsys.retrieval.set_index.SetIndex`.

    Args:
        dim: Of the vectors.
        bits: Hyperplanes.
        repetitions: Cuts, each with hyperplanes of its own.
        projected: Values a bucket is sketched to; None keeps all ``dim``.
        fill: Whether a document's empty buckets are filled.
        final: Values that the whole is sketched to; None keeps it.
        seed: Of hyperplanes and signs. Both sides need the same.

    Raises:
        DataError: A number is out of range.

    Source:
        Dhulipala et al., "MUVERA: Multi-Vector Retrieval via Fixed Dimensional Encoding", NeurIPS
        2024, and the official code (google/graph-mining, sketching/point_cloud). There buckets are
        numbered by Gray code, which changes their order alone, and the product grows with the
        repetitions; here queries are divided by their number.

    Example:
        >>> sets = VectorSets.of([torch.eye(4)[:2], torch.eye(4)[2:]])
        >>> encodings = FixedEncodings(4, bits=3, repetitions=40)
        >>> scores = encodings.queries(sets) @ encodings.documents(sets).T
        >>> scores.shape, bool(scores[0, 0] > scores[0, 1]), encodings.width
        (torch.Size([2, 2]), True, 1280)
    """

    def __init__(
        self,
        dim: int,
        *,
        bits: int = 3,
        repetitions: int = 10,
        projected: int | None = None,
        fill: bool = False,
        final: int | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 <= bits <= 12:
            raise DataError(f"`bits` must be from 0 to 12, got {bits}.")
        for name, given in (
            ("dim", dim), ("repetitions", repetitions), ("projected", projected), ("final", final),
        ):  # fmt: skip
            if given is not None and given < 1:
                raise DataError(f"`{name}` must be at least 1, got {given}.")
        self.dim, self.bits, self.repetitions = dim, bits, repetitions
        self.projected, self.fill, self.final, self.seed = projected, fill, final, seed
        random = torch.Generator().manual_seed(seed)
        self._planes = torch.randn(repetitions, dim, bits, generator=random)
        self._sketches = None
        if projected is not None:
            every = [_sketch(dim, projected, random) for _ in range(repetitions)]
            self._sketches = torch.stack(every)
        self._last = None
        if final is not None:
            self._last = _sketch_of(self._long, final, random)

    @property
    def _long(self) -> int:
        """Values before the last sketch."""
        return self.repetitions * 2**self.bits * (self.projected or self.dim)

    @property
    def width(self) -> int:
        """Values of an encoding."""
        return self.final or self._long

    def options(self) -> dict[str, int | bool | None]:
        """Arguments of the constructor."""
        return {
            "dim": self.dim,
            "bits": self.bits,
            "repetitions": self.repetitions,
            "projected": self.projected,
            "fill": self.fill,
            "final": self.final,
            "seed": self.seed,
        }

    def queries(self, sets: VectorSets) -> Tensor:
        """Encodings of queries; that of a set of none is zero.

        Args:
            sets: Of vectors of ``dim`` values.

        Raises:
            DataError: Their width is another.

        Shape:
            - output: (N, width)
        """
        return self._encoded(sets, False) / self.repetitions

    def documents(self, sets: VectorSets) -> Tensor:
        """Encodings of documents; that of a set of none is zero.

        Args:
            sets: Of vectors of ``dim`` values.

        Raises:
            DataError: Their width is another.

        Shape:
            - output: (N, width)
        """
        return self._encoded(sets, True)

    def _encoded(self, sets: VectorSets, documents: bool) -> Tensor:
        if sets.dim != self.dim:
            raise DataError(
                f"encodings are of vectors of {self.dim} values, got sets of {sets.dim}."
            )
        out = torch.empty(len(sets), self.width)
        step = max(1, _FLOATS // self._long)
        for numbers in torch.arange(len(sets)).split(step):
            part = self._block(sets.take(numbers), documents)
            out[numbers] = part if self._last is None else self._sketched(part)
        return out

    def _block(self, sets: VectorSets, documents: bool) -> Tensor:
        buckets, cells, size = 2**self.bits, self.repetitions * 2**self.bits, len(sets)
        side = torch.einsum("td,rdk->trk", sets.values, self._planes) > 0
        powers = 2 ** torch.arange(self.bits)
        bucket = (side * powers).sum(2)  # (T, R)
        values = sets.values[:, None].expand(-1, self.repetitions, -1)
        if self._sketches is not None:
            values = torch.einsum("td,rdp->trp", sets.values, self._sketches)
        owner = sets.owners()
        cell = owner[:, None] * cells + torch.arange(self.repetitions) * buckets + bucket
        out = torch.zeros(size * cells, values.shape[2])
        out.index_add_(0, cell.flatten(), values.flatten(0, 1))
        if documents:
            counts = torch.bincount(cell.flatten(), minlength=size * cells)
            out /= counts.clamp(min=1)[:, None]
            if self.fill and self.bits:
                self._fill(out, counts == 0, sets, bucket, values)
        return out.view(size, -1)

    def _fill(
        self, out: Tensor, empty: Tensor, sets: VectorSets, bucket: Tensor, values: Tensor
    ) -> None:
        """The vector whose bucket differs in fewest hyperplanes, the first of equals."""
        if not len(sets.values):
            return
        size, total = len(sets), len(sets.values)
        every = torch.arange(2**self.bits)
        apart = torch.zeros(2**self.bits, dtype=torch.int64)
        for bit in range(self.bits):
            apart += (every >> bit) & 1
        far = apart[bucket[:, :, None] ^ every]  # (T, R, buckets)
        key = far * total + torch.arange(total)[:, None, None]
        best = torch.full((size, self.repetitions, 2**self.bits), torch.iinfo(torch.int64).max)
        owner = sets.owners()[:, None, None].expand_as(key)
        best.scatter_reduce_(0, owner, key, "amin")
        cell = empty & (best.flatten() < torch.iinfo(torch.int64).max)
        places = cell.nonzero()[:, 0]
        vector = best.flatten()[places] % total
        repetition = places // 2**self.bits % self.repetitions
        out[places] = values[vector, repetition]

    def _sketched(self, rows: Tensor) -> Tensor:
        assert self._last is not None
        target, signs = self._last
        return torch.zeros(len(rows), self.width).index_add_(1, target, rows * signs)


def _sketch_of(size: int, width: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """For every value its place among fewer, and a sign."""
    target = torch.randint(width, (size,), generator=random)
    return target, 2.0 * torch.randint(2, (size,), generator=random) - 1.0


def _sketch(size: int, width: int, random: torch.Generator) -> Tensor:
    """The same as a matrix; products are kept in expectation."""
    target, signs = _sketch_of(size, width, random)
    return torch.zeros(size, width).scatter_(1, target[:, None], signs[:, None])
