"""Differentiable product quantization: codes and codebooks learned with the model.

Stability: experimental
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from recsys.embeddings.compression.codes import Centroids, refuse_integers
from recsys.embeddings.compression.quantizer import (
    Mode,
    Sizes,
    centroid_options,
    frozen_codes,
    part_options,
    plan_codes,
    quantized_part,
)
from recsys.embeddings.scheme import Dtype, Part, Scheme, Successor, Trained
from recsys.schema import TableSpec

_PARTS, _CENTROIDS = 8, 32


class DPQ(Scheme):
    """Trains a full table of queries, serves ``num_parts`` codes an id and codebooks.

    Each part of a query is replaced by one of ``num_centroids`` learned vectors, in the forward
    of training already. Prefer it where serving must be small and training may be large: while
    training it holds the whole fp32 table (4 n D bytes), the codebooks, and the optimizer state
    of both, so more than no compression at all.

    Without a budget it takes 8 parts (or the next fewer that divide the width) of 32 centroids.
    With one, each table gets the longest codes that fit its share, in the largest codebooks.

    Memory: ``4 n D + 4 K D`` bytes while training (``8 K D`` for ``sx``), frozen that of `Codes`.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=100_000, embedding_dim=16,
        ...                   feature_names=("user",), pooling="sum")
        >>> plan = DPQ().plan([table], budget=320_000)["user"]
        >>> plan.num_parts, plan.num_centroids
        (4, 64)

    Source:
        Chen, Li, Sun, "Differentiable Product Quantization for End-to-End Embedding Compression",
        ICML 2020: DPQ-VQ and DPQ-SX. Differs: no batch normalisation of the scores. It made codes
        depend on the batch, and its running statistics make evaluation choose other codes than
        training did; here the code is the nearest centroid in both, and frozen codes need
        nothing but the codebooks. Queries and centroids start alike, which is what keeps
        centroids in use instead. Parts do not share centroids.
    """

    kind: Literal["dpq"] = "dpq"
    """Name in configurations."""
    num_parts: int | None = Field(default=None, ge=1)
    """Codes of an id; divides the width. None is set by the budget."""
    num_centroids: Centroids | None = None
    """Rows of a codebook, a power of two. None is set by the budget."""
    mode: Mode = "vq"
    """``vq``: nearest centroid, straight-through. ``sx``: softmax over keys, values apart."""
    weight: float = Field(default=1.0, ge=0)
    """Of the loss that moves centroids to their queries (``vq``)."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """The longest codes that fit."""
        return plan_codes(self.kind, tables, budget, self._options, self._resolved)

    def _options(self, table: TableSpec) -> list[Sizes]:
        return [
            Sizes(parts, centroids)
            for parts in part_options(table.embedding_dim, self.num_parts, _PARTS)
            for centroids in centroid_options(table.num_embeddings, self.num_centroids, _CENTROIDS)
        ]

    def _resolved(self, sizes: Sizes) -> Scheme:
        update = {"num_parts": sizes.parts, "num_centroids": sizes.centroids}
        return self.model_copy(update=update)

    def _sizes(self) -> Sizes:
        self.need(num_parts=self.num_parts, num_centroids=self.num_centroids)
        assert self.num_parts is not None and self.num_centroids is not None
        return Sizes(self.num_parts, self.num_centroids)

    def part(self, table: TableSpec) -> Part:
        """Queries before a quantizer."""
        return quantized_part(table, self._sizes(), self.mode, self.weight)

    def frozen(self, trained: Trained) -> Successor:
        """Codes of all queries, and the codebooks."""
        return frozen_codes(trained, self._sizes())

    def frozen_scheme(self) -> Scheme:
        """Codes."""
        return self._sizes().codes()

    def check_dtype(self, dtype: Dtype) -> None:
        """Codebooks are fp32 or fp16."""
        refuse_integers(self.kind, dtype)
