"""Product quantization in turned coordinates, with centroids that learn from queries (BiDR).

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys.errors import DataError
from recsys.losses.in_batch import in_batch
from recsys.retrieval.code_products import few, table_sums
from recsys.retrieval.codes import Basis, ScannedCodes, directions, half, sample, take_state
from recsys.retrieval.training_pairs import TrainingPairs

_CENTROIDS = 256
_TURNS, _ROUNDS = 12, 12  # of the rotation, then of the centroids alone
_BLOCK = 4096
_PAIRS, _BATCH = 20_000, 256
_LEARNING_RATE, _TEMPERATURE = 1e-3, 0.1


class ProductCodes(ScannedCodes):
    """A byte for every part of a vector: the number of the nearest of 256 centroids.

    The direction of a vector is turned, cut into parts of equal width, and every part is replaced
    by a centroid; the length is kept apart (two bytes) and is the one that loses least. The
    rotation and the centroids are fitted to lose little (OPQ). With ``pairs`` the centroids then
    learn from queries: an item's code should score highest for the queries it belongs to, which is
    not the same as to be near its vector.

    Measure before you give pairs (benchmarks/index.py): on the vectors of LightGCN that are given
    and not trained along, OPQ alone found more held-out items.

    Centroids want vectors: below some 10,000 of them a code of as many bits from `ScalarCodes`
    keeps more.

    Args:
        parts: Bytes of a code; where they do not divide the dimension, zeros fill it up.
        rotate: Whether to fit a rotation.
        pairs: Queries with their items, say users with what they took in training.
        epochs: Of learning from pairs, of at most 20,000 each.
        fidelity: Weight of the squared distance between vectors and codes in that learning; 0 and
            1e-6 in the paper, where the vectors are trained as well.
        seed: Of the start and the order of pairs.

    Raises:
        DataError: A number is out of range.

    Source:
        Xiao et al., "Progressively Optimized Bi-Granular Document Representation for Scalable
        Embedding Based Retrieval" (BiDR), WWW 2022, the sparse stage, as the official code has it:
        assignment by a softmax of negative distances with a straight-through one-hot, start from
        OPQ (Ge et al., CVPR 2013), rotation fixed. What differs: vectors are given, so only
        centroids learn; lengths are kept apart; negatives are those of the batch, corrected for
        how often an item comes (logQ). Its dense stage is the float table that scores candidates
        again.

    Example:
        >>> vectors = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
        >>> losses = []
        >>> for parts in (2, 4, 8):
        ...     codes = ProductCodes(parts).fitted(vectors)
        ...     rest = codes.decode(codes.encode(vectors)) - vectors
        ...     losses.append(float(rest.square().sum() / vectors.square().sum()))
        >>> losses[0] > 2 * losses[1] > 20 * losses[2]
        True
    """

    kind = "pq"

    def __init__(
        self,
        parts: int = 16,
        *,
        rotate: bool = True,
        pairs: TrainingPairs | None = None,
        epochs: int = 5,
        fidelity: float = 1.0,
        seed: int = 0,
    ) -> None:
        if parts < 1 or epochs < 1:
            raise DataError(f"`parts` and `epochs` must be at least 1, got {parts}, {epochs}.")
        if not fidelity >= 0:
            raise DataError(f"`fidelity` must be at least 0, got {fidelity}.")
        self.parts, self.rotate, self.pairs = parts, rotate, pairs
        self.epochs, self.fidelity, self.seed = epochs, fidelity, seed
        self._matrix = self._book = torch.zeros(0)
        self._unit = torch.ones(())

    @property
    def name(self) -> str:
        """``opq16``, or ``pq16`` without a rotation."""
        return f"{'opq' if self.rotate else 'pq'}{self.parts}"

    def options(self) -> dict[str, int | float | bool | str | None]:
        """See `Codes`."""
        return {
            "parts": self.parts,
            "rotate": self.rotate,
            "epochs": self.epochs,
            "fidelity": self.fidelity,
            "seed": self.seed,
        }

    def fit(self, vectors: Tensor) -> None:
        """See `Codes`.

        Args:
            vectors: Float vectors, (N, D).

        Raises:
            DataError: There are more parts than values, pairs do not fit the vectors, or all
                vectors are zero.
        """
        dim = vectors.shape[1]
        if self.parts > dim:
            raise DataError(
                f"`parts` must be at most the {dim} values of a vector, got {self.parts}."
            )
        random = torch.Generator().manual_seed(self.seed)
        rows, lengths = directions(sample(vectors))
        self._unit = lengths.max().clamp(min=1e-30)
        width = -(-dim // self.parts) * self.parts
        self._matrix = torch.eye(dim, width)
        if self.rotate:
            turned = Basis(None, rotate=True, seed=self.seed)
            turned.fit(torch.zeros(1, width))
            assert turned.matrix is not None
            self._matrix = turned.matrix[:dim]
        first = torch.randperm(len(rows), generator=random)[:_CENTROIDS]
        self._book = self._cut(rows[first]).transpose(0, 1).contiguous()
        for _ in range(_TURNS if self.rotate else 0):
            self._move_centroids(rows, random)
            near = self._centroids(self._assigned(rows))
            left, _, right = torch.linalg.svd(rows.double().T @ near.double(), full_matrices=False)
            self._matrix = (left @ right).float()
        for _ in range(_ROUNDS):
            self._move_centroids(rows, random)
        if self.pairs is not None:
            with torch.enable_grad():
                self._learn(self.pairs.usable(vectors), vectors, random)

    def _cut(self, rows: Tensor) -> Tensor:
        """Turned vectors in parts, (n, parts, width of a part)."""
        return (rows @ self._matrix).unflatten(1, (self.parts, -1))

    def _assigned(self, rows: Tensor) -> Tensor:
        """Numbers of the nearest centroids of directions, (n, parts)."""
        squares = self._book.square().sum(2)[:, None]
        found = []
        for block in rows.split(_BLOCK):
            cut = self._cut(block).transpose(0, 1)
            far = torch.baddbmm(squares, cut, self._book.transpose(1, 2), alpha=-2)
            found.append(far.argmin(2).T)
        return torch.cat(found)

    def _centroids(self, numbers: Tensor) -> Tensor:
        """In turned coordinates, (n, width)."""
        size = self._book.shape[1]
        flat = numbers.int() + size * torch.arange(self.parts, dtype=torch.int32)
        return self._book.flatten(0, 1).index_select(0, flat.flatten()).view(len(numbers), -1)

    def _move_centroids(self, rows: Tensor, random: torch.Generator) -> None:
        """To the mean of their parts; those that no part is near to start at a part elsewhere."""
        size = self._book.shape[1]
        flat = (self._assigned(rows) + size * torch.arange(self.parts)).flatten()
        cut = self._cut(rows)
        total = torch.zeros(self.parts * size, cut.shape[2])
        total.index_add_(0, flat, cut.flatten(0, 1))
        counts = torch.bincount(flat, minlength=len(total))
        book = total / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty):
            drawn = torch.randint(len(rows), (len(empty),), generator=random)
            book[empty] = cut[drawn, empty // size]
        self._book = book.unflatten(0, (self.parts, size))

    def _learn(self, pairs: TrainingPairs, vectors: Tensor, random: torch.Generator) -> None:
        book = self._book.clone().requires_grad_()
        optimizer = torch.optim.Adam([book], lr=_LEARNING_RATE)
        shares = pairs.log_shares(len(vectors))
        long = torch.linalg.vector_norm(vectors[pairs.rows.unique()], dim=1).mean()
        for _ in range(self.epochs):
            for batch in pairs.batches(_BATCH, _PAIRS, random):
                queries = directions(batch.queries)[0] @ self._matrix
                rows, lengths = directions(vectors[batch.rows])
                cut = self._cut(rows)
                near = _straight_through(cut, book).flatten(1)
                keys = near * _fitted(rows @ self._matrix, near).detach()[:, None]
                loss = in_batch(
                    queries,
                    keys * (lengths / long)[:, None],
                    ids=batch.rows,
                    known=batch.known,
                    log_q=shares[batch.rows],
                    normalize=False,
                    temperature=_TEMPERATURE,
                )
                lost = (cut.flatten(1) - near).square().sum(1).mean()
                optimizer.zero_grad()
                (loss + self.fidelity * lost).backward()
                optimizer.step()
        self._book = book.detach()

    def encode(self, vectors: Tensor) -> dict[str, Tensor]:
        """See `Codes`."""
        rows, lengths = directions(vectors)
        numbers = self._assigned(rows)
        fitted = _fitted(rows @ self._matrix, self._centroids(numbers)) * lengths
        return {"codes": numbers.to(torch.uint8), "length": half(fitted, self._unit)}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Approximate vectors, (n, D).

        Args:
            parts: From `encode`.
        """
        near = self._centroids(parts["codes"]) @ self._matrix.T
        return near * (parts["length"].float() * self._unit)[:, None]

    def prepare(self, queries: Tensor) -> Tensor:
        """See `ScannedCodes`: turned queries."""
        return queries @ (self._matrix * self._unit)

    def products(self, prepared: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """See `ScannedCodes`: by products with all centroids, or with those of the codes."""
        if few(len(prepared)):
            cut = prepared.unflatten(1, (self.parts, -1))
            tables = torch.einsum("bpw,pcw->bpc", cut, self._book)
            tables = torch.nn.functional.pad(tables, (0, _CENTROIDS - tables.shape[2]))
            scores = table_sums(tables, parts["codes"])
        else:
            scores = prepared @ self._centroids(parts["codes"]).T
        return scores.mul_(parts["length"].float())

    def state(self) -> dict[str, Tensor]:
        """See `Codes`."""
        return {"matrix": self._matrix, "book": self._book, "unit": self._unit}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Codes`."""
        shapes = {"matrix": 2, "book": 3, "unit": 0}
        self._matrix, self._book, self._unit = take_state(state, shapes)


def _straight_through(cut: Tensor, book: Tensor) -> Tensor:
    """Nearest centroids; the gradient is that of a softmax of negative distances.

    Shape:
        - cut, output: (n, parts, width)
        - book: (parts, centroids, width)
    """
    products = torch.bmm(cut.transpose(0, 1), book.transpose(1, 2)).transpose(0, 1)
    far = cut.square().sum(2, keepdim=True) - 2 * products + book.square().sum(2)
    share = (-far).softmax(2)
    one_hot = torch.zeros_like(share).scatter_(2, far.argmin(2, keepdim=True), 1.0)
    share = share + (one_hot - share).detach()
    return torch.bmm(share.transpose(0, 1), book).transpose(0, 1)


def _fitted(rows: Tensor, near: Tensor) -> Tensor:
    """The factor that brings every code nearest to its vector; 1 where the code is zero."""
    squares = near.square().sum(1)
    return torch.where(squares > 1e-12, (rows * near).sum(1) / squares.clamp(min=1e-12), 1.0)
