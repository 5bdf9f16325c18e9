"""Hash embeddings: shared rows, weighted by numbers that ids learn.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from recsys.embeddings.compression.budget import check_fixed
from recsys.embeddings.compression.hashing import HashEncoder
from recsys.embeddings.compression.multiplex import fit_share, keep_full, spans
from recsys.embeddings.scheme import Decoder, Encoder, Part, Scheme
from recsys.schema import PAD_INDEX, Init, TableSpec


class ExactFirst(Encoder):
    """Row ``offset + x`` of the first probe, hashed rows of the others.

    Args:
        offset: Rows of the tables before this one.
        hashes: Of the other probes.

    Shape:
        - as `Encoder`
    """

    def __init__(self, offset: int, hashes: HashEncoder) -> None:
        super().__init__()
        self.offset, self.hashes = offset, hashes

    def forward(self, indices: Tensor) -> tuple[Tensor, ...]:
        """One tensor of rows a probe."""
        own = indices
        if self.offset:
            own = (indices + self.offset).masked_fill(indices == PAD_INDEX, PAD_INDEX)
        return (own, *self.hashes(indices))


class Weighted(Decoder):
    """``sum_k (1 + w_k) E_k`` of the probes w (width K), E_1 .. E_K.

    Weights are held less one, so that weights of 1 are rows of zeros.

    Shape:
        - as `Decoder`
    """

    linear = False

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """The weighted sum, one vector an index."""
        weights = (probes[0] + 1.0).unbind(1)
        result = probes[1] * weights[0].unsqueeze(1)
        for weight, rows in zip(weights[1:], probes[2:]):
            result = result.addcmul(rows, weight.unsqueeze(1))
        return result


class HashEmbedding(Scheme):
    """K shared rows a id, weighted by learned importance: ``e(x) = sum_k p_k(x) E[h_k(x)]``.

    The importance p(x) is a row of K numbers. Ids that share rows of E are told apart by it. Of
    the budget, importance gets at most ``importance_share``: exact (a row of its own for every
    id) where that is enough, else hashed to as many rows as fit. The rest goes to E. With
    ``multiplex`` one E and one p serve all logical tables of a width, each with its own hashes.

    p starts at 1, rows of E with ``std / sqrt(K)``.

    Memory: ``4 (M + 1) D + 4 (P + 1) K + 8 (K + 1)`` bytes a table (8 K where importance is
    exact), multiplexed the rows once. P is the number of importance rows. It reaches any budget.

    Configuration::

        compression: {scheme: {kind: hash_embedding, num_hashes: 2}, ratio: 0.25}

    Example:
        >>> table = TableSpec(name="user", num_embeddings=1001, embedding_dim=8,
        ...                   feature_names=("user",), pooling="sum")
        >>> plan = HashEmbedding().plan([table], budget=20_000)["user"]
        >>> plan.num_buckets, plan.num_importance, plan.importance_offset
        (373, 1000, 0)
        >>> plan = HashEmbedding().plan([table], budget=8_000)["user"]
        >>> plan.num_buckets, plan.num_importance, plan.importance_offset
        (124, 495, None)

    Source:
        Svenstrup, Hansen, Winther, "Hash Embeddings for Efficient Word Representations", NeurIPS
        2017 (K = 2 and far more importance rows than buckets; half of the numbers in each is the
        rule of thomasahle/cce). p starts at 1 and not at random: with E random,
        nothing is symmetric, and rows start with the deviation asked for. p is not appended to
        the vector, whose width is D.
    """

    kind: Literal["hash_embedding"] = "hash_embedding"
    """Name in configurations."""
    num_hashes: int = Field(default=2, ge=2)
    """K, rows of E and weights an id."""
    num_buckets: int | None = Field(default=None, ge=1)
    """M, the rows of E; None is set by the budget."""
    num_importance: int | None = Field(default=None, ge=1)
    """P, the rows of importance; None is set by the budget, and exact without one. As many as
    there are ids, or more, is exact."""
    importance_share: float = Field(default=0.5, gt=0, lt=1)
    """Most that importance takes of the budget."""
    importance_offset: int | None = Field(default=None, ge=0)
    """First importance row of the table where importance is exact. Written by `plan`; None hashes
    importance."""
    multiplex: bool = False
    """One E and one p for all features of one width."""
    salt: int = Field(default=0, ge=0)
    """Seed of the hashes."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """Sizes in proportion to the rows of each table, or of all together."""
        found = spans(tables, self.multiplex)
        sizes = (self.num_buckets, self.num_importance)

        def of(table: TableSpec, buckets: int, importance: int) -> Scheme:
            offset, total = found[table.name]
            update = {
                "num_buckets": buckets,
                "num_importance": min(importance, total),
                "importance_offset": offset if importance >= total else None,
            }
            return self.model_copy(update=update)

        if budget is None or None not in sizes:
            self.need(num_buckets=self.num_buckets)
            assert self.num_buckets is not None
            fixed = {
                t.name: of(t, self.num_buckets, self.num_importance or found[t.name][1])
                for t in tables
            }
            fixed = keep_full(tables, fixed, self.multiplex)
            return check_fixed(self.kind, tables, budget, fixed)

        def at(share: float) -> dict[str, Scheme]:
            return {
                t.name: of(t, *self._sizes(found[t.name][1], t.embedding_dim, share))
                for t in tables
            }

        return fit_share(self.kind, tables, budget, self.multiplex, at)

    def _sizes(self, ids: int, dim: int, share: float) -> tuple[int, int]:
        """Buckets and importance rows that hold a share of ``ids * dim`` numbers."""
        numbers, buckets, importance = share * ids * dim, self.num_buckets, self.num_importance
        if importance is None:
            most = self.importance_share * numbers
            if buckets is not None:
                most = numbers - buckets * dim
            spent = min(max(most, 0.0), ids * self.num_hashes)
            importance = max(1, int(spent / self.num_hashes))
        else:
            spent = importance * self.num_hashes
        if buckets is None:
            buckets = max(1, math.ceil((numbers - spent) / dim))
        return buckets, importance

    def part(self, table: TableSpec) -> Part:
        """Importance, then K probes of the shared rows."""
        self.need(num_buckets=self.num_buckets, num_importance=self.num_importance)
        assert self.num_buckets is not None and self.num_importance is not None
        hashes, dim = self.num_hashes, table.embedding_dim
        owners = [f"{table.name}@importance", f"{table.name}@hash_embedding"]
        if self.multiplex:
            owners = [f"shared@importance{dim}", f"shared@hash_embedding{dim}"]
        names = [f"{table.name}#{number}" for number in range(hashes)]
        buckets = [self.num_buckets] * hashes
        importance = table.model_copy(
            update={
                "name": owners[0],
                "num_embeddings": self.num_importance + 1,
                "embedding_dim": hashes,
                "init": Init(kind="zeros"),
            }
        )
        std = table.init.std / math.sqrt(hashes)
        rows = table.model_copy(
            update={
                "name": owners[1],
                "num_embeddings": self.num_buckets + 1,
                "init": table.init.model_copy(update={"std": std}),
            }
        )
        if self.importance_offset is not None:
            hashed = HashEncoder(names, buckets, self.salt)
            encoder = ExactFirst(self.importance_offset, hashed)
        else:
            names, buckets = [f"{table.name}#p", *names], [self.num_importance, *buckets]
            encoder = HashEncoder(names, buckets, self.salt)
        return Part((importance, *[rows] * hashes), encoder, Weighted())
