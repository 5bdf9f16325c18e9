"""The store of frozen tables: rows in fp32, fp16 or quantized, looked up and never trained.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.embeddings import kernels
from recsys.embeddings.ids import Ids, is_traced, select
from recsys.embeddings.row_format import dequantize_rows, empty_rows, row_bytes, write_rows
from recsys.embeddings.scheme import Dtype, Grid
from recsys.embeddings.store import Lookup, PhysicalTable
from recsys.errors import ConfigError
from recsys.schema import PAD_INDEX


class PackedStore(nn.Module):
    """Frozen tables in the memory of one process, CPU or GPU (`recsys.embeddings.store.Store`).

    All tables of one dtype and width form one flat buffer, whose rows are decoded when they are
    looked up: by compiled code on the CPU, by plain torch operations elsewhere, without a compiler
    and in exported programs.

    Memory: rows times `recsys.embeddings.row_format.row_bytes`, and nothing else.

    Args:
        tables: The physical tables.
        lookups: Who looks up which, pooled; lookups of one group stay together in its output.
        row_lookups: Who reads rows one by one.
        dtypes: How each table ``<group>.<table>`` is stored.
        device: Where the tables are made. ``meta`` is allowed. They hold zeros until filled.

    Shape:
        - pooled: (L,) indices to (B, width of the group) a group, float32

    Raises:
        ConfigError: A width does not fit a dtype.
    """

    def __init__(
        self,
        tables: Sequence[PhysicalTable],
        lookups: Sequence[Lookup],
        row_lookups: Sequence[Lookup],
        dtypes: Mapping[str, Dtype],
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.tables, self.lookups = tuple(tables), tuple(lookups)
        self.row_lookups = tuple(row_lookups)
        self.dtypes: dict[str, Dtype] = dict(dtypes)
        self.kinds: list[tuple[Dtype, int]] = [
            (self.dtypes[t.name], t.spec.embedding_dim) for t in self.tables
        ]
        self.first_row: list[int] = []
        rows: dict[tuple[Dtype, int], int] = {}
        sizes = []
        for table, kind in zip(self.tables, self.kinds):
            self.first_row.append(rows.get(kind, 0))
            rows[kind] = rows.get(kind, 0) + table.spec.num_embeddings
            sizes.append(_row_bytes(table, kind[0]))
        self.flat_kinds: tuple[tuple[Dtype, int], ...] = tuple(rows)
        for (dtype, dim), total in rows.items():
            self.register_buffer(f"{dtype}_{dim}", empty_rows(dtype, total, dim, device))
        self.by_group: dict[str, tuple[Lookup, ...]] = {}
        for lookup in self.lookups:
            self.by_group[lookup.group] = (*self.by_group.get(lookup.group, ()), lookup)
        self.layout = kernels.Layout(
            self,
            [self.flat_kinds.index(kind) for kind in self.kinds],
            sizes,
            [kernels.STORED[dtype] for dtype, _ in self.kinds],
        )

    # ------------------------------------------------------------------------------- storage

    def flat(self, kind: tuple[Dtype, int]) -> Tensor:
        """The rows of all tables of one dtype and width."""
        return getattr(self, f"{kind[0]}_{kind[1]}")  # FX wants plain attribute access

    def flats(self) -> list[Tensor]:
        """All flat buffers."""
        return [self.flat(kind) for kind in self.flat_kinds]

    def dim(self, lookup: Lookup) -> int:
        """Width of what a lookup returns."""
        return self.tables[lookup.table].spec.embedding_dim

    def stored(self) -> dict[str, Tensor]:
        """Every table by ``<group>.<table>`` as it is stored, views."""
        return {table.name: self._view(position) for position, table in enumerate(self.tables)}

    def _view(self, table: int) -> Tensor:
        first = self.first_row[table]
        end = first + self.tables[table].spec.num_embeddings
        return self.flat(self.kinds[table])[first:end]

    def load_stored(self, tables: Mapping[str, Tensor]) -> None:
        """Copies tables in as they are stored, by ``<group>.<table>``."""
        views = self.stored()
        with torch.no_grad():
            for name, rows in tables.items():
                views[name].copy_(rows)

    def load_weights(
        self, weights: Mapping[str, Tensor], grids: Mapping[str, Grid | None] | None = None
    ) -> None:
        """Quantizes whole float tables, by ``<group>.<table>``. PAD rows become zero.

        Args:
            weights: (rows, D) each.
            grids: Values that the rows of a table take, where they were trained on a grid.
        """
        views = self.stored()
        with torch.no_grad():
            for name, weight in weights.items():
                grid = None if grids is None else grids.get(name)
                try:
                    write_rows(views[name], weight, self.dtypes[name], grid)
                except ConfigError as error:
                    raise ConfigError(f"table `{name}`: {error}") from None

    def weights(self) -> dict[str, Tensor]:
        """Every table by ``<group>.<table>``, decoded to float32: copies."""
        return {name: dequantize_rows(t, self.dtypes[name]) for name, t in self.stored().items()}

    def read_rows(self, name: str, rows: Tensor | None = None) -> Tensor:
        """Some rows of a table, or all, decoded."""
        held = self.stored()[name]
        picked = held.clone() if rows is None else held.index_select(0, rows.long())
        return dequantize_rows(picked, self.dtypes[name])

    def write_rows(self, name: str, rows: Tensor, values: Tensor) -> None:
        """Refuses: frozen rows do not change.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"table `{name}` is frozen in {self.dtypes[name]}, so its rows cannot be written. "
            "Change the model that it was frozen from, and freeze that again."
        )

    def fill(self, seed: int) -> None:
        """Writes zeros: frozen tables have no start values."""
        for flat in self.flats():
            flat.zero_()

    def table_bytes(self) -> int:
        """Bytes of all tables."""
        return sum(flat.untyped_storage().nbytes() for flat in self.flats())

    def table_parameters(self) -> list[nn.Parameter]:
        """None: nothing is trained."""
        return []

    @property
    def device(self) -> torch.device:
        """Where the tables are."""
        return self.flats()[0].device if self.flat_kinds else torch.device("cpu")

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Nothing: the collection writes the tables, under names that no backend changes."""

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Nothing, see above."""

    # ------------------------------------------------------------------------------- lookup

    def _compiled(self, ids: Ids) -> bool:
        on_cpu = self.device.type == "cpu" and ids.values.device.type == "cpu"
        return on_cpu and kernels.library() is not None

    def pooled(self, ids: Ids) -> dict[str, Tensor]:
        """Looks everything up.

        Args:
            ids: Checked indices.

        Returns:
            Per group (B, sum of widths), columns in the order of the lookups.
        """
        if not is_traced(ids.values) and self._compiled(ids):
            with torch.no_grad():
                return kernels.pooled(self, self.flats(), self.layout, kernels.plain_ids(ids))
        return {group: self._plain_group(ids, group) for group in self.by_group}

    def _plain_group(self, ids: Ids, group: str) -> Tensor:
        lookups = self.by_group[group]
        blocks: dict[tuple[Dtype, int], list[Tensor]] = {}
        for kind in dict.fromkeys(self.kinds[lookup.table] for lookup in lookups):
            mine = [lookup for lookup in lookups if self.kinds[lookup.table] == kind]
            bags = self._bags(ids, mine, kind)  # (n, B, D)
            if len(mine) == len(lookups):
                # Not transpose + reshape: that ties an exported program to batches above one row.
                return torch.cat(bags.unbind(0), dim=1)
            blocks[kind] = [bags[i] for i in range(len(mine))]
        return torch.cat([blocks[self.kinds[look.table]].pop(0) for look in lookups], dim=1)

    def _bags(self, ids: Ids, lookups: Sequence[Lookup], kind: tuple[Dtype, int]) -> Tensor:
        """Pooled vectors of lookups of one dtype and width, (len(lookups), B, D)."""
        ids = select(ids, [lookup.slot for lookup in lookups])
        device = ids.values.device
        first = torch.tensor([self.first_row[lookup.table] for lookup in lookups], device=device)
        first = first.repeat_interleave(ids.counts_tensor(), output_size=ids.values.shape[0])
        rows = ids.values.long() + first
        real, lengths = ids.values != PAD_INDEX, ids.lengths.long()
        weights = real.to(torch.float32) if ids.weights is None else ids.weights * real
        vectors = self.flat(kind)
        if kind[0] != "fp32":
            vectors = dequantize_rows(vectors.index_select(0, rows), kind[0])
            rows = torch.arange(rows.shape[0], device=device)
        bags = functional.embedding_bag(
            rows, vectors, lengths.cumsum(0) - lengths, mode="sum", per_sample_weights=weights
        ).view(len(lookups), -1, kind[1])
        if any(lookup.mean for lookup in lookups):
            mean = torch.tensor([lookup.mean for lookup in lookups], device=device)
            count = lengths.view(len(lookups), -1).clamp(min=1)
            bags = bags / torch.where(mean[:, None], count, 1).unsqueeze(2)
        return bags

    def rows(self, ids: Ids, lookup: Lookup) -> Tensor:
        """The rows of one lookup, unpooled.

        Returns:
            (L of the slot, D). Weights are not applied.
        """
        values = select(ids, [lookup.slot]).values
        if not is_traced(ids.values) and self._compiled(ids):
            with torch.no_grad():
                return kernels.unpooled(self.flats(), self.layout, lookup.table, values)
        kind = self.kinds[lookup.table]
        picked = self.flat(kind).index_select(0, values.long() + self.first_row[lookup.table])
        vectors = dequantize_rows(picked, kind[0])
        return vectors * (values != PAD_INDEX).to(vectors.dtype).unsqueeze(1)


def _row_bytes(table: PhysicalTable, dtype: Dtype) -> int:
    try:
        return row_bytes(dtype, table.spec.embedding_dim)
    except ConfigError as error:
        raise ConfigError(f"table `{table.name}`: {error}") from None
