"""Logs of any Parquet or CSV file, and RecBole's atomic files, as interactions.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from recsys.data.files import text_column
from recsys.data.readers import read_chunks
from recsys.data.source import Source
from recsys.errors import DataError
from recsys.graph.cleaning import Cleaning, clean
from recsys.graph.interactions import Interactions
from recsys.graph.number_files import require_line_end
from recsys.schema import Frozen


class LogColumns(Frozen):
    """Which columns of a log are what."""

    user: str = "user_id"
    """Id of the user."""
    item: str = "item_id"
    """Id of the item."""
    time: str | None = None
    """When: numbers, or times in ISO form."""
    weight: str | None = None
    """How strong: a rating, a count."""
    kind: str | None = None
    """What was done."""
    ids: Literal["stored", "text", "int"] = "stored"
    """Type of the ids: as in the file (text in CSV), or converted."""


def read_log(
    source: Source, columns: LogColumns, options: Cleaning | None = None
) -> tuple[Interactions, dict[str, int]]:
    """Reads a log and cleans it.

    Args:
        source: Parquet, CSV or TSV files.
        columns: Their columns.
        options: What to merge and to leave out.

    Returns:
        As `recsys.graph.cleaning.clean`.

    Raises:
        DataError: A file is missing, cut or malformed, a cell has no value of its type (file, row
            and column are named), or nothing is left.
    """
    named = {
        what: name
        for what in ("user", "item", "time", "weight", "kind")
        if (name := getattr(columns, what)) is not None
    }
    rows = read_columns_of(source, list(dict.fromkeys(named.values())))
    cells: dict[str, pa.Array] = {}
    for what, name in named.items():
        if what in ("user", "item"):
            cells[what] = rows.ids(name, columns.ids)
        elif what == "kind":
            cells[what] = rows.ids(name, "text")
        else:
            cells[what] = rows.numbers(name, times=what == "time")
    try:
        return clean(
            cells["user"], cells["item"], cells.get("time"), cells.get("weight"),
            cells.get("kind"), options,
        )  # fmt: skip
    except DataError as error:
        if error.row is None:
            raise
        raise rows.error(error.message, error.row - 1, named[error.column or "user"]) from None


@dataclasses.dataclass(frozen=True, slots=True)
class LogRows:
    """Columns of all files of a source, and where each row came from.

    Args:
        columns: Text, or as Parquet stored them.
        places: File and row numbers of every chunk, in order.
    """

    columns: dict[str, pa.Array]
    places: list[tuple[str, np.ndarray]]

    def error(self, message: str, position: int, column: str) -> DataError:
        """An error at a row.

        Args:
            message: Expected, got, what to do.
            position: Of the row, from 0 over all files.
            column: Its column.
        """
        for file, rows in self.places:
            if position < len(rows):
                return DataError(message, file=file, row=int(rows[position]) + 1, column=column)
            position -= len(rows)
        return DataError(message, row=position + 1, column=column)

    def ids(self, name: str, kind: str) -> pa.Array:
        """A column of ids.

        Args:
            name: The column.
            kind: ``stored``, ``text`` or ``int``.

        Raises:
            DataError: A cell is no whole number where ``int`` is asked for.
        """
        column = self.columns[name]
        if kind == "text":
            return column.cast(pa.string())
        if kind == "int" and pa.types.is_string(column.type):
            return self._cast(name, pa.int64(), "a whole number")
        return column

    def numbers(self, name: str, times: bool = False) -> pa.Array:
        """A column of numbers, or of times.

        Args:
            name: The column.
            times: Whether text in ISO form is read as a time, when it is no number.

        Raises:
            DataError: A cell is neither.
        """
        column = self.columns[name]
        if not pa.types.is_string(column.type):
            return column
        if times and column.drop_null()[:1].to_pylist()[:1]:
            first = column.drop_null()[0].as_py()
            if not _casts(first, pa.float64()):
                zone = None if _casts(first, pa.timestamp("us")) else "UTC"
                return self._cast(name, pa.timestamp("us", zone), f"an ISO time like {first!r}")
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            return self._cast(name, pa.float64(), "a number")

    def complete(self, name: str) -> pa.Array:
        """A column without a gap, as it is.

        Args:
            name: The column.

        Raises:
            DataError: A cell is empty.
        """
        column = self.columns[name]
        if column.null_count:
            position = int(np.argmin(column.is_valid().to_numpy(zero_copy_only=False)))
            raise self.error("expected a value, got nothing. Repair the row.", position, name)
        return column

    def counts(self, name: str, whole: bool = True) -> np.ndarray:
        """A column of numbers from 0 without a gap.

        Args:
            name: The column, of text.
            whole: Whether they must be whole.

        Raises:
            DataError: A cell is empty, negative, infinite or no such number.
        """
        self.complete(name)
        column = self.ids(name, "int") if whole else self.numbers(name)
        values = column.to_numpy(zero_copy_only=False)
        wrong = ~((values >= 0) & np.isfinite(values))
        if wrong.any():
            position = int(np.argmax(wrong))
            got = column[position].as_py()
            raise self.error(f"expected a number from 0, got {got}.", position, name)
        return values

    def _cast(self, name: str, kind: pa.DataType, expected: str) -> pa.Array:
        column = self.columns[name]
        try:
            return column.cast(kind)
        except pa.ArrowInvalid:
            position = _first_bad(column, kind)
            raise self.error(
                f"expected {expected}, got {column[position].as_py()!r}. Repair or remove the row.",
                position, name,
            ) from None  # fmt: skip


def _casts(text: str, kind: pa.DataType) -> bool:
    try:
        pa.scalar(text).cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _plain(column: pa.Array) -> pa.Array:
    """Text in one of Arrow's other forms as text."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    text = pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type)
    return column.cast(pa.string()) if text else column


def _first_bad(column: pa.Array, kind: pa.DataType) -> int:
    """The first cell that does not cast, by halving: a cast of a good half is quick."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            column[low:middle].cast(kind)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


def read_columns_of(source: Source, names: Sequence[str]) -> LogRows:
    """Columns of all files of a source.

    Args:
        source: Parquet, CSV or TSV files.
        names: The columns.

    Raises:
        DataError: A file is missing, empty or malformed, or lacks a column.
    """
    parts: dict[str, list[pa.Array]] = {name: [] for name in names}
    places = []
    for chunk in read_chunks(source, names, keep_ragged=True):
        if chunk.ragged:
            line = chunk.ragged[0]
            raise DataError(
                f"{line.reason}: {line.text[:200]!r}. Is the file complete? Repair or remove the "
                "line.",
                file=chunk.file,
                row=line.row + 1,
            )
        for name in names:
            stored = source.format == "parquet"
            cells = _plain(chunk.columns[name]) if stored else text_column(chunk, name)
            parts[name].append(cells)
        places.append((chunk.file, chunk.rows))
    columns = {}
    for name, arrays in parts.items():
        try:
            columns[name] = pa.concat_arrays(arrays)
        except pa.ArrowInvalid:
            kinds = sorted({str(array.type) for array in arrays})
            raise DataError(
                f"expected one type in all files, got {kinds}. Convert the files.", column=name
            ) from None
    return LogRows(columns, places)


# --------------------------------------------------------------------------------------- RecBole


def atomic_source(file: str | Path) -> tuple[Source, dict[str, str]]:
    """How an atomic file of RecBole is read: tab-separated, with a header of ``name:type`` cells.

    Args:
        file: An ``.inter``, ``.kg``, ``.link``, ``.user`` or ``.item`` file.

    Returns:
        The source, and the column in it of every name.

    Raises:
        DataError: The file is missing, its header is not of that form, or its last line has no
            line end (then it was cut).
    """
    require_line_end(file)
    path = Path(file).expanduser()
    try:
        with path.open("rb") as stream:
            header = stream.readline().decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"the header line is not UTF-8: {error}.", file=str(file)) from None
    cells = header.split("\t")
    wrong = [cell for cell in cells if cell.count(":") != 1]
    if wrong:
        raise DataError(
            f"expected a header of `name:type` cells between tabs, got {wrong[0][:40]!r}. Is it an "
            "atomic file of RecBole?",
            file=str(file),
        )
    source = Source(files=(str(path),), format="tsv", quoted=False)
    return source, {cell.split(":")[0]: cell for cell in cells}


def read_atomic(
    file: str | Path, columns: LogColumns, options: Cleaning | None = None
) -> tuple[Interactions, dict[str, int]]:
    """Reads an ``.inter`` file of RecBole and cleans it.

    Args:
        file: The file.
        columns: Names without their types.
        options: What to merge and to leave out.

    Returns:
        As `recsys.graph.cleaning.clean`.

    Raises:
        DataError: As `read_log` and `atomic_source`.
    """
    source, cells = atomic_source(file)
    known = {
        what: cells.get(name, name)
        for what in ("user", "item", "time", "weight", "kind")
        if (name := getattr(columns, what)) is not None
    }
    return read_log(source, columns.model_copy(update=known), options)
