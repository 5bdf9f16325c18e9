"""Raw rows as typed columns named after the schema, with the bad rows located.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.casting import Bad, to_floats, to_ints, to_strings, to_times
from recsys.data.readers import check_columns
from recsys.errors import DataError
from recsys.hashing import hash_strings
from recsys.schema import (
    Bucketized,
    Categorical,
    Label,
    MultiValued,
    Numeric,
    Schema,
    Sequence,
    Vector,
)

WEIGHT, GROUP, TIMESTAMP = "@weight", "@group", "@timestamp"
"""Columns of prepared rows that are not features; feature names cannot contain ``@``."""
SPLIT_GROUP = "@split"
"""Hash of the key by which rows are split; of parsed rows only."""


def weights_name(feature: str) -> str:
    """Prepared column with the weights of a multi-valued feature's ids."""
    return f"{feature}@weights"


@dataclasses.dataclass(frozen=True)
class BadCell:
    """Why a row is bad: its first bad cell."""

    column: str
    reason: str
    value: object

    @property
    def text(self) -> str:
        """Error text."""
        value = self.value
        text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
        return f"`{self.column}` {self.reason}: {text[:200]!r}."


@dataclasses.dataclass(frozen=True)
class Parsed:
    """Typed columns of some rows.

    Args:
        table: A column for every feature, label and role. Bad cells are null or 0.
        bad: Bad rows.
        ignored: Rows to leave out because of ``Label.ignore``; None if there are none.
    """

    table: pa.Table
    bad: dict[int, BadCell]
    ignored: np.ndarray | None


class Parser:
    """Parses raw columns as a schema asks.

    Args:
        schema: What the columns mean.
        null_values: Texts that mean missing; empty where the reader has replaced them.
        labels: Whether labels, weight, group and timestamp are wanted, or features only.
        split_column: Column whose hash is wanted too, for splits by group.
    """

    def __init__(
        self,
        schema: Schema,
        null_values: Iterable[str],
        labels: bool = True,
        split_column: str | None = None,
    ) -> None:
        self.schema = schema
        self.split_column = split_column
        self.nulls = pa.array(list(null_values), pa.string())
        self.labels = labels
        self.clock: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Raw columns that are needed."""
        schema = self.schema
        names = [feature.source for feature in schema.features]
        names += [f.weights for f in schema.features if isinstance(f, MultiValued) and f.weights]
        if self.labels:
            names += [label.source for label in schema.labels]
            roles = (schema.weight, schema.group, schema.timestamp, self.split_column)
            names += [name for name in roles if name]
        return tuple(dict.fromkeys(names))

    def parse(self, raw: pa.RecordBatch | pa.Table, file: str | None = None) -> Parsed:
        """Parses some rows.

        Args:
            raw: At least the columns of ``columns``.
            file: For error texts.

        Raises:
            DataError: A column's type cannot be what the schema declares.
        """
        reading = _Reading(raw, self.nulls, {}, {})
        try:
            for feature in self.schema.features:
                _FEATURES[type(feature)](reading, feature)
            ignored = self._read_roles(reading) if self.labels else None
        except DataError as error:
            raise DataError(
                error.message, file=error.file or file, row=error.row, column=error.column
            ) from None
        return Parsed(pa.table(reading.parsed), reading.bad, ignored)

    def parse_good(self, raw: pa.Table) -> pa.Table:
        """Parses rows that must all be good; leaves out the ignored ones.

        Args:
            raw: At least the columns of ``columns``.

        Raises:
            DataError: Columns are missing (all are named), or a cell is bad.
        """
        check_columns(self.columns, raw.column_names, None)
        parsed = self.parse(raw)
        if parsed.bad:
            row = min(parsed.bad)
            cell = parsed.bad[row]
            raise DataError(f"{cell.text} Correct the row.", row=row + 1, column=cell.column)
        if parsed.ignored is None:
            return parsed.table
        return parsed.table.filter(pa.array(~parsed.ignored))

    def _read_roles(self, reading: _Reading) -> np.ndarray | None:
        ignored = None
        for label in self.schema.labels:
            skip = _read_label(reading, label)
            if skip is not None:
                ignored = skip if ignored is None else ignored | skip
        if self.schema.weight:
            _read_weight(reading, self.schema.weight)
        if self.schema.group:
            reading.parsed[GROUP] = pa.array(reading.hashed(self.schema.group))
        if self.split_column:
            reading.parsed[SPLIT_GROUP] = pa.array(reading.hashed(self.split_column))
        if self.schema.timestamp:
            name = self.schema.timestamp
            times, bad, self.clock = to_times(
                reading.raw_column(name), name, reading.nulls, self.clock
            )
            reading.report(name, bad | _nulls_as_bad(times, bad))
            reading.parsed[TIMESTAMP] = times.fill_null(0)
        return ignored


@dataclasses.dataclass(frozen=True)
class _Reading:
    raw: pa.RecordBatch | pa.Table
    nulls: pa.Array
    parsed: dict[str, pa.Array]
    bad: dict[int, BadCell]

    def raw_column(self, name: str) -> pa.Array:
        column = self.raw.column(name)
        return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column

    def report(self, column: str, bad: Bad) -> None:
        raw = self.raw_column(column) if bad else None
        for row, reason in bad.items():
            if row not in self.bad and raw is not None:
                self.bad[row] = BadCell(column, reason, raw[row].as_py())

    def floats(self, column: str, nan: str = "error") -> np.ndarray:
        values, bad = to_floats(self.raw_column(column), column, self.nulls, nan)  # type: ignore[arg-type]
        self.report(column, bad)
        return values

    def ids(self, column: str, dtype: str) -> pa.Array:
        cast = to_ints if dtype == "int" else to_strings
        array, bad = cast(self.raw_column(column), column, self.nulls)
        self.report(column, bad)
        return array

    def hashed(self, column: str) -> np.ndarray:
        """Group keys: equal for the text and the integer form of a key; missing is 0."""
        codes = self.ids(column, "string").dictionary_encode()
        hashes = np.append(hash_strings(codes.dictionary.cast(pa.binary()).to_pylist()), 0)
        return hashes[codes.indices.fill_null(len(hashes) - 1).to_numpy()]


def _nulls_as_bad(array: pa.Array, bad: Bad) -> Bad:
    if array.null_count == 0:
        return {}
    rows = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
    return {row: "is missing" for row in rows.tolist() if row not in bad}


# ----------------------------------------------------------------------------- kinds of columns


def _read_categorical(reading: _Reading, feature: Categorical) -> None:
    reading.parsed[feature.name] = reading.ids(feature.source, feature.dtype)


def _read_bucketized(reading: _Reading, feature: Bucketized) -> None:
    reading.parsed[feature.name] = pa.array(reading.floats(feature.source))


def _read_numeric(reading: _Reading, feature: Numeric) -> None:
    reading.parsed[feature.name] = pa.array(reading.floats(feature.source, feature.nan))


def _read_label(reading: _Reading, label: Label) -> np.ndarray | None:
    values = reading.floats(label.source)
    bad: Bad = dict.fromkeys(np.flatnonzero(np.isnan(values)).tolist(), "is missing")
    ignored = np.isin(values, label.ignore) if label.ignore else None
    if label.threshold is None:
        wrong = (values != 0) & (values != 1) & ~np.isnan(values)
        if ignored is not None:
            wrong &= ~ignored
        if wrong.any():
            reason = "is a label outside {0, 1} (set a threshold, or ignore the value)"
            bad |= dict.fromkeys(np.flatnonzero(wrong).tolist(), reason)
    else:
        values = values >= label.threshold
    reading.report(label.source, bad)
    reading.parsed[label.name] = pa.array(np.nan_to_num(values.astype(np.float32)))
    return ignored if ignored is not None and ignored.any() else None


def _read_weight(reading: _Reading, column: str) -> None:
    values = reading.floats(column)
    wrong = ~(values >= 0)
    if wrong.any():
        reason = "is missing or negative; a row weight must be at least 0"
        reading.report(column, dict.fromkeys(np.flatnonzero(wrong).tolist(), reason))
    reading.parsed[WEIGHT] = pa.array(np.nan_to_num(values.astype(np.float32)))


def _read_vector(reading: _Reading, feature: Vector) -> None:
    raw = reading.raw_column(feature.source)
    values, lengths = _items(raw, feature.source, None)
    numbers, bad_items = to_floats(values, feature.source, None)
    bad = _bad_rows(_nan_items(numbers) | bad_items, lengths)
    wrong = np.flatnonzero(lengths != feature.dim).tolist()
    bad |= {row: f"has {lengths[row]} numbers, not {feature.dim}" for row in wrong}
    reading.report(feature.source, bad)
    if bad:
        full = np.zeros((len(lengths), feature.dim))
        good = np.ones(len(lengths), bool)
        good[list(bad)] = False
        full[good] = numbers[np.repeat(good, lengths)].reshape(-1, feature.dim)
        numbers = full.ravel()
    flat = pa.array(numbers.astype(np.float32))
    reading.parsed[feature.name] = pa.FixedSizeListArray.from_arrays(flat, feature.dim)


def _read_bag(reading: _Reading, feature: MultiValued | Sequence) -> None:
    raw = reading.raw_column(feature.source)
    values, lengths = _items(raw, feature.source, feature.separator)
    cast = to_ints if feature.dtype == "int" else to_strings
    if feature.separator is not None:
        values = _empty_as_null(values)
    ids, bad_items = cast(values, feature.source, reading.nulls)
    bad = _bad_rows(bad_items, lengths)
    reading.report(feature.source, bad)
    weights = None
    if isinstance(feature, MultiValued) and feature.weights:
        weights, weight_lengths = _read_bag_weights(reading, feature, feature.weights)
        uneven = np.flatnonzero(weight_lengths != lengths)
        uneven_bad = {
            row: f"has {weight_lengths[row]} weights for {lengths[row]} ids"
            for row in uneven.tolist()
        }
        reading.report(feature.weights, uneven_bad)
        if len(uneven):
            even = weight_lengths == lengths
            weights = weights[np.repeat(even, weight_lengths)]
            ids = ids.filter(pa.array(np.repeat(even, lengths)))
            lengths = np.where(even, lengths, 0)
    keep, lengths = _kept_items(ids, lengths, feature)
    if keep is not None:
        ids = ids.filter(pa.array(keep))
        weights = weights[keep] if weights is not None else None
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    reading.parsed[feature.name] = pa.ListArray.from_arrays(offsets, ids)
    if weights is not None:
        values = pa.array(weights.astype(np.float32))
        reading.parsed[weights_name(feature.name)] = pa.ListArray.from_arrays(offsets, values)


def _read_bag_weights(
    reading: _Reading, feature: MultiValued, column: str
) -> tuple[np.ndarray, np.ndarray]:
    values, lengths = _items(reading.raw_column(column), column, feature.separator)
    numbers, bad_items = to_floats(values, column, reading.nulls)
    reading.report(column, _bad_rows(_nan_items(numbers) | bad_items, lengths))
    return np.nan_to_num(numbers), lengths


def _kept_items(
    ids: pa.Array, lengths: np.ndarray, feature: MultiValued | Sequence
) -> tuple[np.ndarray | None, np.ndarray]:
    """Leaves out missing items, then what exceeds ``max_length``."""
    keep = None
    if ids.null_count:
        keep = ids.is_valid().to_numpy(zero_copy_only=False)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        lengths = np.bincount(rows[keep], minlength=len(lengths))
    limit = feature.max_length
    if limit is None or not (lengths > limit).any():
        return keep, lengths
    starts = np.cumsum(lengths) - lengths
    position = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    if isinstance(feature, Sequence):
        short = position >= np.repeat(lengths - limit, lengths)
    else:
        short = position < limit
    if keep is None:
        keep = short
    else:
        keep[np.flatnonzero(keep)[~short]] = False
    return keep, np.minimum(lengths, limit)


def _items(array: pa.Array, column: str, separator: str | None) -> tuple[pa.Array, np.ndarray]:
    """All items of a list column (or of separated text), and the number of every row."""
    kind = array.type
    if pa.types.is_null(kind):
        return pa.array([], pa.null()), np.zeros(len(array), np.int64)
    if separator is not None and not _is_list(kind):
        if pa.types.is_dictionary(kind):
            array = array.dictionary_decode()
        array = pc.split_pattern(_empty_as_null(array.cast(pa.binary())), pattern=separator)
    elif not _is_list(kind):
        raise DataError(
            f"expected a list column, got Arrow type {kind}. Set `separator` to split text.",
            column=column,
        )
    lengths = pc.list_value_length(array).fill_null(0).to_numpy().astype(np.int64)
    return array.flatten(), lengths


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _empty_as_null(values: pa.Array) -> pa.Array:
    if pa.types.is_null(values.type):
        return values
    empty = pc.equal(pc.binary_length(values), 0) if pa.types.is_binary(values.type) else None
    if empty is None or not pc.any(empty, min_count=0).as_py():
        return values
    return pc.if_else(empty, pa.scalar(None, values.type), values)


def _bad_rows(bad_items: Bad, lengths: np.ndarray) -> Bad:
    if not bad_items:
        return {}
    ends = np.cumsum(lengths)
    rows: Bad = {}
    for item in sorted(bad_items):
        row = int(np.searchsorted(ends, item, side="right"))
        rows.setdefault(row, f"has an item that {bad_items[item]}")
    return rows


def _nan_items(numbers: np.ndarray) -> Bad:
    return dict.fromkeys(np.flatnonzero(np.isnan(numbers)).tolist(), "is missing")


_FEATURES: dict[type, Callable[..., None]] = {
    Categorical: _read_categorical,
    Bucketized: _read_bucketized,
    Numeric: _read_numeric,
    Vector: _read_vector,
    MultiValued: _read_bag,
    Sequence: _read_bag,
}
