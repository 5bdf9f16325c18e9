"""The local store: all tables of one width in one flat tensor, in one process.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.embeddings import kernels, sparse, start_values
from recsys.embeddings.ids import Ids, is_traced, select
from recsys.schema import PAD_INDEX, TableSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Lookup:
    """One slot of the indices looked up in one physical table.

    Args:
        group: Whose output it is part of.
        key: The feature, for messages and plans.
        slot: Position in the indices.
        table: Position in the store's tables.
        mean: Divide by the number of indices.
    """

    group: str
    key: str
    slot: int
    table: int
    mean: bool


@dataclasses.dataclass(frozen=True, slots=True)
class PhysicalTable:
    """One table as it is stored."""

    group: str
    spec: TableSpec

    @property
    def name(self) -> str:
        """``<group>.<table>``, as in state dicts."""
        return f"{self.group}.{self.spec.name}"


class Store(Protocol):
    """Holds physical tables and looks rows up. The only part that a backend replaces.

    Every store is also an ``nn.Module``.
    """

    tables: tuple[PhysicalTable, ...]
    lookups: tuple[Lookup, ...]

    def pooled(self, ids: Ids) -> dict[str, Tensor]:
        """Per group (B, sum of the widths of its lookups), in the order of ``lookups``."""
        ...

    def rows(self, ids: Ids, lookup: Lookup) -> Tensor:
        """The unpooled rows of one lookup, (L of its slot, D)."""
        ...

    def fill(self, seed: int) -> None:
        """Writes the start values."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """Every whole table by ``<group>.<table>``. A view where the store can give one."""
        ...

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copies whole tables in, by ``<group>.<table>``."""
        ...

    def read_rows(self, name: str, rows: Tensor | None = None) -> Tensor:
        """A copy of some rows (R, D) of ``<group>.<table>``, or of all. Collective."""
        ...

    def write_rows(self, name: str, rows: Tensor, values: Tensor) -> None:
        """Replaces rows, on each rank those it holds. PAD stays zero."""
        ...

    def table_bytes(self) -> int:
        """Bytes of the tables held by this process."""
        ...

    def table_parameters(self) -> list[nn.Parameter]:
        """The tables held by this process."""
        ...

    @property
    def device(self) -> torch.device:
        """Where outputs are made."""
        ...


class LocalStore(nn.Module):
    """Tables in the memory of one process, CPU or GPU.

    All tables of one width form one flat tensor, so a lookup of many features is one operation.
    The flat tensors are the module's parameters. After `attach_sparse` they take no gradient
    themselves: backward puts the row gradients aside and the optimizer applies them.

    Args:
        tables: The physical tables.
        lookups: Who looks up which, pooled; lookups of one group stay together in its output.
        row_lookups: Who reads rows one by one.
        device: Where the tables are made. ``meta`` is allowed.

    Shape:
        - pooled: (L,) indices to (B, width of the group) a group, float32
    """

    def __init__(
        self,
        tables: Sequence[PhysicalTable],
        lookups: Sequence[Lookup],
        row_lookups: Sequence[Lookup] = (),
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.tables, self.lookups = tuple(tables), tuple(lookups)
        self.row_lookups = tuple(row_lookups)
        self.first_row: list[int] = []
        rows: dict[int, int] = {}
        for table in self.tables:
            dim = table.spec.embedding_dim
            self.first_row.append(rows.get(dim, 0))
            rows[dim] = rows.get(dim, 0) + table.spec.num_embeddings
        self.dims = tuple(rows)
        for dim, total in rows.items():
            self.register_parameter(
                f"width_{dim}", nn.Parameter(torch.empty(total, dim, device=device))
            )
        self.by_group: dict[str, tuple[Lookup, ...]] = {}
        for lookup in self.lookups:
            self.by_group[lookup.group] = (*self.by_group.get(lookup.group, ()), lookup)

        self.layout = kernels.layout_of(self)
        self.is_sparse = False
        self.anchor = torch.zeros((), requires_grad=True)  # makes autograd call sparse backward
        self.pending: list[sparse.RowGradients] = []

    def attach_sparse(self) -> None:
        """From now on backward puts row gradients into ``pending``."""
        self.is_sparse = True
        for dim in self.dims:
            self.flat(dim).requires_grad_(False)
            self.flat(dim).grad = None

    # ------------------------------------------------------------------------------- storage

    def flat(self, dim: int) -> nn.Parameter:
        """The flat tensor of one width, (rows of all its tables, dim)."""
        return getattr(self, f"width_{dim}")  # FX wants plain attribute access

    def dim(self, lookup: Lookup) -> int:
        """Width of what a lookup returns."""
        return self.tables[lookup.table].spec.embedding_dim

    def table_slice(self, table: int, flat: Tensor) -> Tensor:
        """The rows of one table in a flat tensor (weights or optimizer state), a view."""
        first = self.first_row[table]
        return flat[first : first + self.tables[table].spec.num_embeddings]

    def weights(self) -> dict[str, Tensor]:
        """Every table by ``<group>.<table>``, views."""
        return {
            table.name: self.table_slice(i, self.flat(table.spec.embedding_dim))
            for i, table in enumerate(self.tables)
        }

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copies tables in, by ``<group>.<table>``. PAD rows become zero."""
        with torch.no_grad():
            views = self.weights()
            for name, weight in weights.items():
                views[name].copy_(weight[:])
                views[name][PAD_INDEX].zero_()

    def read_rows(self, name: str, rows: Tensor | None = None) -> Tensor:
        """A copy of some rows of a table, or of all."""
        weight = self.weights()[name].detach()
        return weight.clone() if rows is None else weight.index_select(0, rows.long())

    def write_rows(self, name: str, rows: Tensor, values: Tensor) -> None:
        """Replaces rows. PAD stays zero."""
        with torch.no_grad():
            weight = self.weights()[name]
            weight.index_copy_(0, rows.long(), values.to(weight.dtype))
            weight[PAD_INDEX].zero_()

    def fill(self, seed: int) -> None:
        """Writes the start values."""
        views = self.weights()
        for table in self.tables:
            name = (table.group, table.spec.name)
            start_values.fill(views[table.name].detach(), table.spec.init, seed, name)

    def table_bytes(self) -> int:
        """Bytes of all tables."""
        return sum(self.flat(dim).untyped_storage().nbytes() for dim in self.dims)

    def table_parameters(self) -> list[nn.Parameter]:
        """The flat tensors."""
        return list(self.parameters())

    @property
    def device(self) -> torch.device:
        """Where the tables are."""
        return self.flat(self.dims[0]).device if self.dims else torch.device("cpu")

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Nothing: the collection writes the tables, under names that no backend changes."""

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Nothing, see above."""

    # ------------------------------------------------------------------------------- lookup

    def pooled(self, ids: Ids) -> dict[str, Tensor]:
        """Looks everything up.

        Args:
            ids: Checked indices.

        Returns:
            Per group (B, sum of widths), columns in the order of the lookups.
        """
        if is_traced(ids.values):
            return {group: self.plain_group(ids, group) for group in self.by_group}
        if self.is_sparse and torch.is_grad_enabled():
            outputs = sparse.SparsePooled.apply(self.anchor, ids.weights, self, ids)
            return dict(zip(self.by_group, outputs))
        if torch.is_grad_enabled() and any(self.flat(dim).requires_grad for dim in self.dims):
            return {group: self.plain_group(ids, group) for group in self.by_group}
        return self.pooled_now(ids)

    def pooled_now(self, ids: Ids) -> dict[str, Tensor]:
        """Looks everything up, without recording, with what is fastest here."""
        flats = [self.flat(dim) for dim in self.dims]
        if kernels.fit(*flats) and not ids.values.is_cuda:
            with torch.no_grad():
                return kernels.pooled(self, flats, self.layout, kernels.plain_ids(ids))
        return {group: self.plain_group(ids, group) for group in self.by_group}

    def plain_group(self, ids: Ids, group: str) -> Tensor:
        """One group with plain torch operations: exportable, differentiable, any device."""
        lookups = self.by_group[group]
        blocks: dict[int, list[Tensor]] = {}
        for dim in dict.fromkeys(self.dim(lookup) for lookup in lookups):
            mine = [lookup for lookup in lookups if self.dim(lookup) == dim]
            bags = self._bags(ids, mine, dim)  # (n, B, D)
            if len(mine) == len(lookups):
                # Not transpose + reshape: that ties an exported program to batches above one row.
                return torch.cat(bags.unbind(0), dim=1)
            blocks[dim] = [bags[i] for i in range(len(mine))]
        return torch.cat([blocks[self.dim(lookup)].pop(0) for lookup in lookups], dim=1)

    def _bags(self, ids: Ids, lookups: Sequence[Lookup], dim: int) -> Tensor:
        """Pooled vectors of lookups of one width, (len(lookups), B, D)."""
        rows, real, lengths, weights = self.flat_rows(ids, lookups)
        # PAD has weight 0: it reads as zero and gets no gradient.
        weights = real.to(torch.float32) if weights is None else weights * real
        starts = lengths.cumsum(0) - lengths
        bags = functional.embedding_bag(
            rows, self.flat(dim), starts, mode="sum", per_sample_weights=weights
        ).view(len(lookups), -1, dim)
        if any(lookup.mean for lookup in lookups):
            mean = torch.tensor([lookup.mean for lookup in lookups], device=lengths.device)
            count = lengths.view(len(lookups), -1).clamp(min=1)
            bags = bags / torch.where(mean[:, None], count, 1).unsqueeze(2)
        return bags

    def flat_rows(
        self, ids: Ids, lookups: Sequence[Lookup]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Where lookups of one width read.

        Returns:
            Rows of the flat tensor (L,) int64; whether each is not PAD (L,); the lengths
            (len(lookups) * B,) int64; the weights (L,) or None.
        """
        ids = select(ids, [lookup.slot for lookup in lookups])
        first = torch.tensor(
            [self.first_row[lookup.table] for lookup in lookups], device=ids.values.device
        )
        first = first.repeat_interleave(ids.counts_tensor(), output_size=ids.values.shape[0])
        real = ids.values != PAD_INDEX
        return ids.values.long() + first, real, ids.lengths.long(), ids.weights

    def only(self, ids: Ids, lookup: Lookup) -> Ids:
        """The slot of one lookup."""
        return select(ids, [lookup.slot])

    def rows(self, ids: Ids, lookup: Lookup) -> Tensor:
        """The rows of one lookup, unpooled.

        Returns:
            (L of the slot, D). Weights are not applied.
        """
        only = self.only(ids, lookup)
        if self.is_sparse and torch.is_grad_enabled() and not is_traced(ids.values):
            return sparse.SparseRows.apply(self.anchor, self, only, lookup)
        return self.plain_rows(only, lookup)

    def plain_rows(self, only: Ids, lookup: Lookup) -> Tensor:
        """The rows of one lookup from its own slot, with plain torch operations."""
        rows = functional.embedding(
            only.values.long() + self.first_row[lookup.table], self.flat(self.dim(lookup))
        )
        return rows * (only.values != PAD_INDEX).to(rows.dtype).unsqueeze(1)
