"""Multi-granular quantized embeddings: rare ids choose among fewer centroids.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

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

_PARTS, _CENTROIDS = 4, 256
_FEWER = 4  # times, for rare ids


class MGQE(Scheme):
    """`DPQ` whose rare ids choose among the first ``rare_centroids`` of each codebook.

    The first ``hot_rows`` indices, which are the most frequent ones, choose among all
    ``num_centroids``. Rare ids get shorter codes, and vectors that many ids have trained. While
    training it holds the whole fp32 table, like `DPQ`.

    Without a budget it takes 4 parts (or the next fewer that divide the width) of 256 centroids.
    Rare ids get a quarter of the centroids. With a budget, each table gets the longest codes
    that fit its share.

    Memory: ``4 n D + 4 K D`` bytes while training (``8 K D`` for ``sx``), frozen that of `Codes`.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=100_000, embedding_dim=16,
        ...                   feature_names=("user",), pooling="sum")
        >>> plan = MGQE().plan([table], budget=None)["user"]
        >>> plan.num_parts, plan.num_centroids, plan.hot_rows, plan.rare_centroids
        (4, 256, 10000, 64)

    Source:
        Kang et al., "Learning Multi-granular Quantized Embeddings for Large-Vocab Categorical
        Features in Recommender Systems", WWW 2020 companion, variable number of centroids
        (Section 3.3), two groups, on DPQ-VQ. Differs: as `DPQ`; which ids are frequent is the
        order of the indices and costs no byte (there, a flag an id); codes of rare ids are
        really stored in fewer bits.
    """

    by_frequency: ClassVar[bool] = True
    kind: Literal["mgqe"] = "mgqe"
    """Name in configurations."""
    num_parts: int | None = Field(default=None, ge=1)
    """Codes of an id; divides the width. None is set by the budget."""
    num_centroids: Centroids | None = None
    """Rows of a codebook, a power of two. None is set by the budget."""
    rare_centroids: Centroids | None = None
    """Rows of a codebook that rare ids choose among; None: a quarter."""
    hot_rows: int | None = Field(default=None, ge=0)
    """Frequent indices; None: `hot_share` of the table."""
    hot_share: float = Field(default=0.1, ge=0, le=1)
    """Part of the indices that is frequent."""
    mode: Mode = "vq"
    """``vq``: nearest centroid, straight-through. ``sx``: softmax over keys, values apart."""
    weight: float = Field(default=1.0, ge=0)
    """Of the loss that moves centroids to their queries (``vq``)."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """The longest codes that fit."""
        return plan_codes(self.kind, tables, budget, self._options, self._resolved)

    def _options(self, table: TableSpec) -> list[Sizes]:
        hot = self.hot_rows
        if hot is None:
            hot = math.ceil(self.hot_share * table.num_embeddings)
        return [
            Sizes(parts, centroids, hot, self.rare_centroids or max(2, centroids // _FEWER))
            for parts in part_options(table.embedding_dim, self.num_parts, _PARTS)
            for centroids in centroid_options(table.num_embeddings, self.num_centroids, _CENTROIDS)
        ]

    def _resolved(self, sizes: Sizes) -> Scheme:
        update = {
            "num_parts": sizes.parts,
            "num_centroids": sizes.centroids,
            "hot_rows": sizes.hot_rows,
            "rare_centroids": sizes.rare_centroids,
        }
        return self.model_copy(update=update)

    def _sizes(self) -> Sizes:
        self.need(
            num_parts=self.num_parts,
            num_centroids=self.num_centroids,
            hot_rows=self.hot_rows,
            rare_centroids=self.rare_centroids,
        )
        assert self.num_parts is not None and self.num_centroids is not None
        return Sizes(self.num_parts, self.num_centroids, self.hot_rows, self.rare_centroids)

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
