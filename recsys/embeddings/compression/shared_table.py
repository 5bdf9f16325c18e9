"""What schemes share that put all tables into one, whatever their widths.

Stability: internal
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recsys.embeddings.compression.budget import full_bytes, infeasible, planned_bytes
from recsys.embeddings.scheme import Concat, Decoder, Scheme
from recsys.schema import TableSpec


def half_width(widest: int) -> int:
    """Half of a width, rounded up to a multiple of 4 (which fused GPU kernels want).

    So a vector has two probes, or one where it is narrow.

    Args:
        widest: Of the tables that share.

    Example:
        >>> [half_width(width) for width in (1, 4, 10, 16, 64)]
        [1, 4, 8, 8, 32]
    """
    return min(widest, 4 * math.ceil(widest / 8))


def by_start(tables: Sequence[TableSpec]) -> list[list[TableSpec]]:
    """Tables that can share rows: those whose start values have one distribution.

    Args:
        tables: Of one group.
    """
    pools: dict[str, list[TableSpec]] = {}
    for table in tables:
        pools.setdefault(table.init.model_dump_json(), []).append(table)
    return list(pools.values())


def share_out(
    kind: str,
    budget: int,
    pools: Sequence[Sequence[TableSpec]],
    row_bytes: Sequence[int],
    at: Callable[[int, int], Scheme],
) -> dict[str, Scheme]:
    """The largest shared tables that fit, the pools' sizes in proportion to their tables'.

    Args:
        kind: Of the scheme, for the error.
        budget: Most bytes.
        pools: Tables by the physical table that they share.
        row_bytes: Of a row of each pool.
        at: The scheme of the tables of a pool (by number) with so many rows, at least 1.

    Raises:
        BudgetInfeasible: One row each is above the budget.
    """
    tables = [table for mine in pools for table in mine]

    def plan(rows: Sequence[int]) -> dict[str, Scheme]:
        schemes = [at(number, count) for number, count in enumerate(rows)]
        return {table.name: scheme for mine, scheme in zip(pools, schemes) for table in mine}

    least = planned_bytes(tables, plan([1] * len(pools)))
    if least > budget:
        raise infeasible(kind, tables, budget, least)
    whole, left = full_bytes(tables), budget - least
    return plan(
        [1 + left * full_bytes(mine) // whole // size for mine, size in zip(pools, row_bytes)]
    )


def side_by_side(width: int, dim: int) -> Decoder:
    """The probes' vectors one after the other, cut off where they are too wide.

    Args:
        width: Of all probes together.
        dim: What is wanted.
    """
    return Concat() if width == dim else Head(dim)


class Head(Decoder):
    """The first ``dim`` columns of the probes' vectors side by side.

    Args:
        dim: D.

    Shape:
        - as `Decoder`
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, probes: Sequence[Tensor], indices: Tensor | None) -> Tensor:
        """Concatenates and cuts."""
        return torch.cat(list(probes), dim=1)[:, : self.dim]
