"""Mixed dimensions: the larger the vocabulary, the narrower its rows.

Stability: experimental
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys.embeddings.compression.budget import check_fixed, fit, smaller_of
from recsys.embeddings.scheme import Decoder, Encoder, Part, Scheme
from recsys.errors import ConfigError
from recsys.layers.initialization import normal_
from recsys.schema import TableSpec


class Projection(Decoder):
    """``e W`` with a learned W (d, D), applied to pooled rows.

    Args:
        narrow: d.
        wide: D.

    Shape:
        - as `Decoder`, one probe
    """

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(narrow, wide))

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Gaussian columns of length 1: outputs have exactly the deviation of the rows."""
        normal_(self.weight, 1.0, generator)
        if not self.weight.is_meta:
            with torch.no_grad():
                self.weight.div_(self.weight.norm(dim=0).clamp(min=1e-6))

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """One matrix product."""
        return probes[0] @ self.weight


class MixedDimension(Scheme):
    """A table of n narrow rows and one matrix: ``e(x) = E[x] W``, E (n, d), W (d, D).

    The plan gives table f the width ``d_f = D (n_min / n_f)^alpha``, rounded, at least 1; n_min is
    the smallest vocabulary planned. The budget sets alpha in [0, 1]. Where alpha = 1 is too large
    (say tables of one size, on which alpha does nothing) all widths are scaled down by one factor.

    Memory: ``4 (n d + d D)`` bytes a table; ``4 n D`` where d = D. The floor is d = 1, above 1/D
    of the full tables.

    Example:
        >>> tables = [TableSpec(name=name, num_embeddings=rows, embedding_dim=16,
        ...                     feature_names=(name,), pooling="sum")
        ...           for name, rows in (("city", 100), ("shop", 1600), ("item", 25600))]
        >>> plan = MixedDimension(alpha=0.5).plan(tables, budget=None)
        >>> plan["city"].kind, plan["shop"].dim, plan["item"].dim
        ('full', 4, 1)

    Source:
        Ginart et al., "Mixed Dimension Embeddings with Application to Memory-Efficient
        Recommendation Systems", arXiv:1909.11810, Algorithm 2 (popularity by vocabulary size) and
        section 3. The matrix is applied after pooling (they commute) and starts with unit columns,
        not as a tiny uniform. The scaling below alpha = 1 is ours.
    """

    kind: Literal["mixed_dimension"] = "mixed_dimension"
    """Name in configurations."""
    dim: int | None = Field(default=None, ge=1)
    """Width of the rows; None is set by alpha."""
    alpha: float | None = Field(default=None, ge=0, le=1)
    """How fast widths fall with vocabulary size; None is set by the budget."""
    power_of_two: bool = True
    """Round widths to powers of two, as in the paper. Off: to whole numbers, which uses up more
    of a budget."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """Widths by vocabulary size."""
        if self.dim is not None:
            fixed = {t.name: smaller_of(t, self._of(t, self.dim)) for t in tables}
            return check_fixed(self.kind, tables, budget, fixed)
        if budget is None:
            self.need(alpha=self.alpha)
            return self._at(tables, 1.0)
        return fit(self.kind, tables, budget, lambda share: self._at(tables, share))

    def _at(self, tables: Sequence[TableSpec], share: float) -> dict[str, Scheme]:
        """The plan at a size: from 1 to 1/2 alpha rises from 0 to 1, then widths are scaled."""
        alpha, scale = self.alpha, share
        if alpha is None:
            alpha, scale = min(1.0, 2.0 - 2.0 * share), min(1.0, 2.0 * share)
        fewest = min(table.num_embeddings for table in tables)
        plan: dict[str, Scheme] = {}
        for table in tables:
            wide = scale * table.embedding_dim * (fewest / table.num_embeddings) ** alpha
            width = max(1, round(wide) if self.power_of_two else int(wide))
            if self.power_of_two:
                width = 2 ** round(math.log2(width))
            plan[table.name] = smaller_of(table, self._of(table, width))
        return plan

    def _of(self, table: TableSpec, width: int) -> MixedDimension:
        return self.model_copy(update={"dim": min(width, table.embedding_dim)})

    def part(self, table: TableSpec) -> Part:
        """One narrow probe and its matrix; no matrix where it is as wide as the table."""
        self.need(dim=self.dim)
        assert self.dim is not None
        wide = table.embedding_dim
        if self.dim > wide:
            raise ConfigError(
                f"scheme `{self.kind}`, table `{table.name}`: expected a `dim` of at most the "
                f"table's width {wide}, got {self.dim}. Lower `dim`."
            )
        probe = table.model_copy(
            update={"name": f"{table.name}@mixed_dimension", "embedding_dim": self.dim}
        )
        decoder = Decoder() if self.dim == wide else Projection(self.dim, wide)
        return Part((probe,), Encoder(), decoder)
