"""Prepared rows in memory as numpy arrays, cut into batches without per-row Python.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from recsys.data.parsing import GROUP, TIMESTAMP, WEIGHT, weights_name
from recsys.schema import PAD_INDEX, MultiValued, Schema
from recsys.schema import Sequence as SequenceFeature
from recsys.types import Batch


@dataclasses.dataclass(frozen=True)
class Bag:
    """Indices of a multi-valued feature: row i holds ``values[offsets[i]:offsets[i + 1]]``."""

    values: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray | None

    def rows(self, start: int, end: int) -> Bag:
        """Some rows, as views."""
        return Bag(self.values, self.offsets[start : end + 1], self.weights)

    def take(self, order: np.ndarray) -> Bag:
        """Rows in another order."""
        lengths = np.diff(self.offsets)[order]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        shift = np.repeat(self.offsets[:-1][order] - offsets[:-1], lengths)
        at = np.arange(offsets[-1]) + shift
        weights = None if self.weights is None else self.weights[at]
        return Bag(self.values[at], offsets, weights)

    def cut(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Values, lengths and weights of these rows."""
        first, last = int(self.offsets[0]), int(self.offsets[-1])
        weights = None if self.weights is None else self.weights[first:last]
        return self.values[first:last], np.diff(self.offsets), weights


@dataclasses.dataclass(frozen=True)
class RowBlock:
    """Prepared rows.

    Args:
        schema: Whose features these are.
        num_rows: How many.
        singles: Indices of single-valued keys (keys, rows), in schema order.
        bags: Indices of the other keys, by name.
        dense: Numbers and vectors (columns, rows).
        labels: (tasks, rows); no task where rows have no labels.
        roles: ``@weight``, ``@group`` and ``@timestamp`` columns that there are.
    """

    schema: Schema
    num_rows: int
    singles: np.ndarray
    bags: dict[str, Bag]
    dense: np.ndarray
    labels: np.ndarray
    roles: dict[str, np.ndarray]

    @classmethod
    def from_table(
        cls, table: pa.Table, schema: Schema, order: np.ndarray | None = None
    ) -> RowBlock:
        """Reads a prepared table.

        Args:
            table: Prepared columns, with or without labels and roles.
            schema: Whose features these are.
            order: Row order to give them; None keeps it.
        """
        rows = table.num_rows
        bag_names = [
            f.name for f in schema.features if isinstance(f, MultiValued | SequenceFeature)
        ]
        single_names = [key for key in schema.keys if key not in bag_names]
        singles = np.empty((len(single_names), rows), np.int32)
        for name, out in zip(single_names, singles):
            _fill(out, table.column(name), order)
        dense = np.empty((schema.dense_width, rows), np.float32)
        for feature, out in zip(schema.numeric, dense):
            _fill(out, table.column(feature.name), order)
        at = len(schema.numeric)
        for vector in schema.vectors:
            column = table.column(vector.name)
            flat = [chunk.flatten().to_numpy() for chunk in column.chunks]
            values = np.concatenate(flat or [np.zeros(0, np.float32)]).reshape(-1, vector.dim)
            dense[at : at + vector.dim] = (values if order is None else values[order]).T
            at += vector.dim
        names = [t.name for t in schema.labels if t.name in table.column_names]
        labels = np.empty((len(names), rows), np.float32)
        for name, out in zip(names, labels):
            _fill(out, table.column(name), order)
        roles = {}
        for name in (WEIGHT, GROUP, TIMESTAMP):
            if name in table.column_names:
                roles[name] = np.empty(rows, np.float32 if name == WEIGHT else np.int64)
                _fill(roles[name], table.column(name), order)
        bags = {name: _read_bag(table, name, order) for name in bag_names}
        return cls(schema, rows, singles, bags, dense, labels, roles)

    def rows(self, start: int, end: int) -> RowBlock:
        """Some rows, as views.

        Args:
            start: First row.
            end: Last row plus one.
        """
        return RowBlock(
            self.schema,
            end - start,
            self.singles[:, start:end],
            {name: bag.rows(start, end) for name, bag in self.bags.items()},
            self.dense[:, start:end],
            self.labels[:, start:end],
            {name: values[start:end] for name, values in self.roles.items()},
        )

    def padded(self, num_rows: int) -> RowBlock:
        """With rows of weight 0 appended: index PAD, empty bags, zeros.

        Args:
            num_rows: How many rows there shall be.
        """
        extra = num_rows - self.num_rows
        bags = {}
        for name, bag in self.bags.items():
            offsets = np.concatenate([bag.offsets, np.full(extra, bag.offsets[-1])])
            bags[name] = Bag(bag.values, offsets, bag.weights)
        weights = self.roles.get(WEIGHT, np.ones(self.num_rows, np.float32))
        return RowBlock(
            self.schema,
            num_rows,
            np.pad(self.singles, ((0, 0), (0, extra)), constant_values=PAD_INDEX),
            bags,
            np.pad(self.dense, ((0, 0), (0, extra))),
            np.pad(self.labels, ((0, 0), (0, extra))),
            {name: np.pad(v, (0, extra)) for name, v in {**self.roles, WEIGHT: weights}.items()},
        )

    def to_batch(self) -> Batch:
        """As the tensors that models read; everything is copied out of the block."""
        values, counts, lengths, weights = self._jagged()
        roles = {name: torch.from_numpy(array.copy()) for name, array in self.roles.items()}
        return Batch(
            dense=torch.from_numpy(np.array(self.dense.T, order="C")),
            values=torch.from_numpy(values),
            lengths=lengths,
            labels=torch.from_numpy(np.array(self.labels.T, order="C")),
            keys=self.schema.keys,
            value_counts=counts,
            weights=roles.get(WEIGHT),
            value_weights=weights,
            groups=roles.get(GROUP),
            timestamps=roles.get(TIMESTAMP),
        )

    def _jagged(
        self,
    ) -> tuple[np.ndarray, tuple[int, ...], torch.Tensor, torch.Tensor | None]:
        size, keys = self.num_rows, self.schema.keys
        if not self.bags:
            flat_ids = np.array(self.singles, order="C").reshape(-1)
            ones = torch.ones(len(keys) * size, dtype=torch.int32)
            return flat_ids, (size,) * len(keys), ones, None
        values: list[np.ndarray] = []
        lengths = np.ones((len(keys), size), np.int32)
        weights: dict[int, np.ndarray] = {}
        single = iter(self.singles)
        for position, key in enumerate(keys):
            if key not in self.bags:
                values.append(next(single))
                continue
            part, lengths[position], weight = self.bags[key].cut()
            values.append(part)
            if weight is not None:
                weights[position] = weight
        counts = tuple(len(part) for part in values)
        value_weights = None
        if weights:
            parts = [weights.get(i, np.ones(n, np.float32)) for i, n in enumerate(counts)]
            value_weights = torch.from_numpy(np.concatenate(parts))
        flat = torch.from_numpy(lengths.reshape(-1))
        return np.concatenate(values), counts, flat, value_weights


def concatenate(blocks: Sequence[RowBlock]) -> RowBlock:
    """Rows of several blocks of one schema.

    Args:
        blocks: At least one.
    """
    if len(blocks) == 1:
        return blocks[0]
    first = blocks[0]
    bags = {}
    for name in first.bags:
        parts = [block.bags[name].cut() for block in blocks]
        lengths = np.concatenate([part[1] for part in parts])
        weights = [part[2] for part in parts if part[2] is not None]
        bags[name] = Bag(
            np.concatenate([part[0] for part in parts]),
            np.concatenate([[0], np.cumsum(lengths)]),
            np.concatenate(weights) if weights else None,
        )
    return RowBlock(
        first.schema,
        sum(block.num_rows for block in blocks),
        np.concatenate([block.singles for block in blocks], axis=1),
        bags,
        np.concatenate([block.dense for block in blocks], axis=1),
        np.concatenate([block.labels for block in blocks], axis=1),
        {name: np.concatenate([b.roles[name] for b in blocks]) for name in first.roles},
    )


def _fill(out: np.ndarray, column: pa.ChunkedArray, order: np.ndarray | None) -> None:
    parts = [chunk.to_numpy() for chunk in column.chunks]
    if order is not None:
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts or [out[:0]])
        np.take(whole, order, out=out, mode="clip")  # clip: numpy buffers `out` otherwise
        return
    at = 0
    for part in parts:
        out[at : at + len(part)] = part
        at += len(part)


def _read_bag(table: pa.Table, name: str, order: np.ndarray | None) -> Bag:
    values, lengths = _flat(table.column(name), np.int32)
    weights = None
    if weights_name(name) in table.column_names:
        weights, _ = _flat(table.column(weights_name(name)), np.float32)
    bag = Bag(values, np.concatenate([[0], np.cumsum(lengths)]), weights)
    return bag if order is None else bag.take(order)


def _flat(column: pa.ChunkedArray, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    values = [np.zeros(0, dtype)] + [chunk.flatten().to_numpy() for chunk in column.chunks]
    lengths = [np.zeros(0, np.int64)] + [np.diff(c.offsets.to_numpy()) for c in column.chunks]
    return np.concatenate(values), np.concatenate(lengths)
