"""What the pruning schemes share: plans, thresholds that meet a budget exactly, the final cut.

Magnitudes are compared by the bits of their floats, which are ordered like the floats. Two
histograms (the high 16 bits, then the low 16 of one bin) give an exact threshold in two passes
and 64 K counters, without sorting.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from recsys.embeddings.compression.budget import check_fixed, fit
from recsys.embeddings.compression.pruned import Pruned, pruned, smallest, smallest_bytes
from recsys.embeddings.scheme import Dtype, Full, Scheme, Successor, Trained
from recsys.errors import ConfigError
from recsys.schema import TableSpec

_BINS = 1 << 16
_CHUNK = 1 << 22  # values at a time

Fits = Callable[[Tensor, Tensor], Tensor]
"""(kept rows, values) -> whether that is allowed; all of one shape. False may not follow True
when both grow."""


def magnitude_bits(weight: Tensor) -> Tensor:
    """Integers in the order of |w|, 0 for zero; int32."""
    return weight.detach().float().abs().contiguous().view(torch.int32)


def _pieces(weight: Tensor) -> Iterator[Tensor]:
    """Bits of all rows but PAD, some rows at a time."""
    step = max(1, _CHUNK // weight.shape[1])
    for begin in range(1, weight.shape[0], step):
        yield magnitude_bits(weight[begin : min(begin + step, weight.shape[0])])


def _at_least(counts: Tensor) -> Tensor:
    """How many are in a bin or above it, for every bin and one past the last."""
    total = counts.flip(0).cumsum(0).flip(0)
    return torch.cat([total, total.new_zeros(1)])


def _counts(weight: Tensor, high: int | None) -> tuple[Tensor, Tensor]:
    """Rows (by their largest value) and values in every bin or above, zeros left out.

    Args:
        weight: (n, D).
        high: None: bins of the high 16 bits. Else: bins of the low 16 bits, of those values
            whose high bits are these.
    """
    rows = torch.zeros(_BINS, dtype=torch.int64, device=weight.device)
    values = torch.zeros_like(rows)
    for bits in _pieces(weight):
        for found, into in ((bits.amax(dim=1), rows), (bits.flatten(), values)):
            found = found[found > 0]
            bins = found >> 16 if high is None else found[(found >> 16) == high] & (_BINS - 1)
            into += torch.bincount(bins, minlength=_BINS)
    return _at_least(rows), _at_least(values)


def threshold(weight: Tensor, fits: Fits) -> int:
    """The smallest magnitude that may stay when the largest ones stay: as many as fit.

    Equal magnitudes stay or go together.

    Args:
        weight: (n, D); row 0 (PAD) does not count.
        fits: What is allowed. Nothing kept always is.

    Returns:
        As `magnitude_bits`: keep ``magnitude_bits(w) >= threshold``. At least 1.

    Example:
        >>> weight = torch.tensor([[9., 9], [1, -4], [3, 2]])
        >>> least = threshold(weight, lambda kept, nnz: nnz <= 2)
        >>> (magnitude_bits(weight) >= least)[1:].tolist()
        [[False, True], [True, False]]
    """
    rows, values = _counts(weight, None)
    high = _first(fits(rows, values))
    if high == 0:
        return 1
    in_rows, in_values = _counts(weight, high - 1)
    low = _first(fits(rows[high] + in_rows, values[high] + in_values))
    return max(1, ((high - 1) << 16) + low)


def _first(allowed: Tensor) -> int:
    """The first bin that is allowed; the last (nothing kept) counts as allowed."""
    return min(int((~allowed).sum()), allowed.shape[0] - 1)


def cut(weight: Tensor, least: int) -> Tensor:
    """The weight with magnitudes below a threshold set to zero.

    Args:
        weight: (n, D).
        least: From `threshold`.
    """
    return weight * (magnitude_bits(weight) >= least)


Served = Annotated[Full | Pruned, Field(discriminator="kind")]


class PruningScheme(Scheme):
    """A scheme whose tables are served as `Pruned`.

    The budget is one of bytes. A plan assumes the worst case, every value in a row of its own;
    the final cut counts the bytes of the layout that the trained values really need, so more of
    them stay.
    """

    narrow: ClassVar[bool] = True
    density: float | None = Field(default=None, gt=0, le=1)
    """Share of the values that stay; None is set by the budget, which is met in bytes."""
    scope: Literal["global", "table"] = "global"
    """``global``: one threshold for all tables of a group, found when the model is first trained;
    it says what share of the budget each table gets from then on. ``table``: every table keeps
    its share of the budget."""
    served: Served | None = None
    """Largest form that the table may be served in. Written by recsys."""

    def plan(self, tables: Sequence[TableSpec], budget: int | None) -> dict[str, Scheme]:
        """The same share of the values in every table."""
        kind = str(getattr(self, "kind", "?"))
        if self.served is not None:
            plan: dict[str, Scheme] = {table.name: self for table in tables}
            return check_fixed(kind, tables, budget, plan)
        if self.density is not None or budget is None:
            self.need(density=self.density)
            assert self.density is not None
            return check_fixed(kind, tables, budget, self._at(tables, self.density))
        return fit(kind, tables, budget, lambda share: self._at(tables, share))

    def _at(self, tables: Sequence[TableSpec], share: float) -> dict[str, Scheme]:
        """The plan that keeps this share of the values."""
        plan: dict[str, Scheme] = {}
        for table in tables:
            served = worst_case(table, share)
            if isinstance(served, Full):
                plan[table.name] = served
            else:
                plan[table.name] = self.model_copy(update={"served": served})
        return plan

    def frozen_scheme(self) -> Scheme:
        """The largest form that the table may be served in."""
        self.need(served=self.served)
        assert self.served is not None
        return self.served

    def check_dtype(self, dtype: Dtype) -> None:
        """Refuses integer dtypes: pruned rows have few values to share a scale."""
        if dtype not in ("fp32", "fp16"):
            raise ConfigError(
                f"scheme `{getattr(self, 'kind', '?')}` freezes single values, in fp32 or fp16; "
                f"got {dtype}: the integer dtypes have one scale a row, and pruned rows have few "
                "values. Freeze to fp16."
            )

    def limit(self, table: TableSpec) -> Fits:
        """What the table may keep: values where `density` is stated, else bytes.

        Args:
            table: It.
        """
        if self.density is not None:
            most = round(self.density * _size(table))
            return lambda kept, nnz: nnz <= most
        rows, width, size = table.num_embeddings, table.embedding_dim, self.served_bytes(table)
        return lambda kept, nnz: smallest_bytes(rows, width, kept, nnz) <= size

    def served_bytes(self, table: TableSpec) -> int:
        """Most bytes of the frozen table.

        Args:
            table: It.
        """
        full = 4 * table.num_embeddings * table.embedding_dim
        return min(full, self.served.bytes(table)) if isinstance(self.served, Pruned) else full

    def serve(self, table: TableSpec, weight: Tensor) -> Successor:
        """The final cut to the budget, packed.

        Args:
            table: What the model asks for.
            weight: Its trained vectors (n, D), zeros included.
        """
        weight = cut(weight.detach().float(), threshold(weight, self.limit(table)))
        found = pruned(table, weight)
        assert isinstance(found.scheme, Pruned)
        full = 4 * table.num_embeddings * table.embedding_dim
        return found if found.scheme.bytes(table) < full else Successor(Full(), (weight,))

    def with_share(self, table: TableSpec, kept: int, nnz: int) -> Self:
        """The same scheme with another share of the budget.

        Args:
            table: It.
            kept: Rows that may stay.
            nnz: Values that may stay.
        """
        served: Scheme = smallest(table, kept, nnz)
        assert isinstance(served, Pruned)
        full = 4 * table.num_embeddings * table.embedding_dim
        served = served if served.bytes(table) < full else Full()
        density = None if self.density is None else max(nnz, 1) / max(_size(table), 1)
        return self.model_copy(update={"served": served, "density": density})


def _size(table: TableSpec) -> int:
    """Values that can be trained."""
    return (table.num_embeddings - 1) * table.embedding_dim


def worst_case(table: TableSpec, share: float) -> Full | Pruned:
    """The largest form that a share of the values can take: each in another row.

    Args:
        table: It.
        share: Of its values, in [0, 1]; at least one stays.
    """
    nnz = min(_size(table), max(1, round(share * _size(table))))
    served = smallest(table, min(nnz, table.num_embeddings - 1), nnz)
    full = 4 * table.num_embeddings * table.embedding_dim
    return served if served.bytes(table) < full else Full()


def share_out(
    trained: Mapping[str, Trained], weights: Mapping[str, Tensor]
) -> dict[str, PruningScheme]:
    """The scheme of every table, with its share of the budget by one threshold a group.

    The threshold is found among the high 16 bits of the floats: to a part in 128.

    Args:
        trained: By ``<group>.<table>``, all of one pruning scheme.
        weights: What is compared, by the same names.

    Returns:
        By ``<group>.<table>``. With ``scope="table"`` the schemes as they are.
    """
    found: dict[str, PruningScheme] = {}
    groups: dict[str, list[str]] = {}
    for name, one in trained.items():
        assert isinstance(one.scheme, PruningScheme)
        found[name] = one.scheme
        if one.scheme.scope == "global":
            groups.setdefault(name.partition(".")[0], []).append(name)
    for names in groups.values():
        sizes, spent, budget = {}, torch.zeros((), dtype=torch.int64), 0
        for name in names:
            table, scheme = trained[name].table, found[name]
            kept, nnz = sizes[name] = _counts(weights[name].cpu(), None)
            if scheme.density is None:
                spent = spent + smallest_bytes(table.num_embeddings, table.embedding_dim, kept, nnz)
                budget += scheme.served_bytes(table)
            else:
                spent, budget = spent + nnz, budget + round(scheme.density * _size(table))
        first = _first(spent <= budget)
        for name in names:
            kept, nnz = (int(counts[first]) for counts in sizes[name])
            found[name] = found[name].with_share(trained[name].table, kept, nnz)
    return found
