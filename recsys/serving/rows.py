"""Raw rows in the forms callers have them, as Arrow tables an encoder reads.

Stability: internal
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys.data.parsing import Parser
from recsys.errors import DataError, did_you_mean
from recsys.schema import Categorical, Feature, MultiValued, Schema, Vector
from recsys.schema import Sequence as History

Rows = Mapping[str, Any] | Sequence[Mapping[str, Any]] | pd.DataFrame | pa.Table | pa.RecordBatch
"""One row as a dict, columns as a dict of lists, a list of rows, a DataFrame, or Arrow."""

_LISTS = (list, tuple, np.ndarray, pd.Series, pa.Array, pa.ChunkedArray)


class RowReader:
    """Cuts rows of any form into Arrow tables with the columns that a schema needs.

    Args:
        schema: Whose raw columns are needed; others are ignored.
    """

    def __init__(self, schema: Schema) -> None:
        self.columns = Parser(schema, (), labels=False).columns
        self._features: dict[str, Feature] = {}
        for feature in schema.features:
            self._features.setdefault(feature.source, feature)

    def slices(self, rows: Rows, size: int) -> Iterator[tuple[int, pa.Table]]:
        """Consecutive parts of the rows, converted one at a time.

        Args:
            rows: Any of the forms.
            size: Rows a part.

        Yields:
            Position of the part's first row, and the part.

        Raises:
            DataError: Columns are missing (all are named), columns differ in length, a value is
                of a kind that no column holds, or ``rows`` is something else altogether.
        """
        if isinstance(rows, pa.Table | pa.RecordBatch):
            table: Any = rows
            self._check(table.schema.names)
            for start in range(0, table.num_rows, size):
                part = {name: table.column(name).slice(start, size) for name in self.columns}
                yield start, pa.table(part)
        elif isinstance(rows, pd.DataFrame):
            self._check(list(rows.columns))
            for start in range(0, len(rows), size):
                yield start, self._from_pandas(rows.iloc[start : start + size], start)
        elif isinstance(rows, Mapping):
            self._check(list(rows))
            if self._is_one_row(rows):
                yield 0, self._from_rows([rows], 0)
                return
            columns, total = self._columns(rows)
            for start in range(0, total, size):
                part = {name: values[start : start + size] for name, values in columns.items()}
                yield start, self._table(part, start)
        elif isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
            for start in range(0, len(rows), size):
                yield start, self._from_rows(rows[start : start + size], start)
        else:
            raise DataError(
                "expected a dict, a list of dicts, a pandas DataFrame or a pyarrow Table, got "
                f"{type(rows).__name__}."
            )

    # --------------------------------------------------------------------------------- one form

    def _check(self, names: list[Any]) -> None:
        missing = [column for column in self.columns if column not in names]
        if missing:
            listed = ", ".join(f"`{column}`" for column in missing)
            known = [str(name) for name in names]
            close = did_you_mean(missing[0], known)
            hint = f" {close}" if close.startswith("Did") else ""
            raise DataError(
                f"columns are missing: {listed}.{hint} The model reads {len(self.columns)} "
                "columns; give None where a value is missing.",
                column=missing[0],
            )
        twice = [column for column in self.columns if names.count(column) > 1]
        if twice:
            raise DataError("the column is there twice. Rename one.", column=twice[0])

    def _is_one_row(self, rows: Mapping[str, Any]) -> bool:
        """Whether a dict is one row; features with one value a row tell, bags only otherwise."""
        flags: dict[bool, str] = {}
        for name in self.columns:
            value, feature = rows[name], self._features.get(name)
            if isinstance(feature, MultiValued | History | Vector) or feature is None:
                continue
            flags.setdefault(not isinstance(value, _LISTS), name)
        if len(flags) == 2:
            raise DataError(
                f"`{flags[True]}` is one value and `{flags[False]}` a list. Give a dict of values "
                "for one row, or a dict of equally long lists."
            )
        if flags:
            return True in flags
        name = self.columns[0]
        value = rows[name]
        if not isinstance(value, _LISTS):
            return True
        separated = getattr(self._features[name], "separator", None) is not None
        return not separated and any(not isinstance(item, _LISTS) for item in list(value))

    def _columns(self, rows: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        columns = {name: rows[name] for name in self.columns}
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"columns must be equally long, got {lengths}.")
        return columns, next(iter(lengths.values()))

    def _from_rows(self, rows: Sequence[Any], start: int) -> pa.Table:
        needed = set(self.columns)
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise DataError(
                    f"expected a dict with one row, got {type(row).__name__}.",
                    row=start + number + 1,
                )
            if not row.keys() >= needed:
                try:
                    self._check(list(row))
                except DataError as error:
                    raise DataError(
                        error.message, row=start + number + 1, column=error.column
                    ) from None
        return self._table({name: [row[name] for row in rows] for name in self.columns}, start)

    def _from_pandas(self, frame: pd.DataFrame, start: int) -> pa.Table:
        """NaN in a frame means missing."""
        arrays = {}
        for name in self.columns:
            values = frame[name]
            try:
                arrays[name] = self._whole(name, pa.Array.from_pandas(values))
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                listed = values.astype(object).where(values.notna(), None).tolist()
                arrays[name] = self._array(name, listed, start)
        return pa.table(arrays)

    def _table(self, columns: Mapping[str, Any], start: int) -> pa.Table:
        return pa.table({n: self._array(n, values, start) for n, values in columns.items()})

    def _whole(self, name: str, array: pa.Array) -> pa.Array:
        """Pandas turns integer ids with gaps into floats; this turns them back."""
        feature = self._features.get(name)
        if not isinstance(feature, Categorical) or not pa.types.is_floating(array.type):
            return array
        numbers = pa.array(array.to_numpy(zero_copy_only=False), from_pandas=True)
        try:
            return numbers.cast(pa.int64())
        except pa.ArrowInvalid:
            return array

    def _array(self, name: str, values: Any, start: int) -> pa.Array | pa.ChunkedArray:
        if isinstance(values, pa.Array | pa.ChunkedArray):
            return values
        if isinstance(values, pd.Series):
            values = values.tolist()
        try:
            return self._whole(name, pa.array(values))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            pass
        # Mixed types, as JSON rows have them: one by one as text, which the encoder parses.
        texts = [_as_text(value, name, start + number + 1) for number, value in enumerate(values)]
        kinds = {type(text) for text in texts if text is not None}
        if kinds == {str, list}:
            row = next(i for i, text in enumerate(texts) if isinstance(text, str))
            raise DataError(
                "some rows hold a list and this one text. Give lists or separated text throughout.",
                row=start + row + 1,
                column=name,
            )
        try:
            return pa.array(texts)
        except pa.ArrowException as error:  # lists of different depth
            raise DataError(f"the values do not go together: {error}.", column=name) from None


def _as_text(value: Any, column: str, row: int) -> Any:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        return repr(float(value))
    if isinstance(value, _LISTS):
        items: Any = value
        return [_as_text(item, column, row) for item in items]
    raise DataError(
        f"expected a number, text, a list or None, got {type(value).__name__}.",
        row=row,
        column=column,
    )
