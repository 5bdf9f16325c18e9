"""Raw files as a stream of Arrow record batches, each knowing the file and row it came from.

Text cells are read as bytes and cast by `recsys.data.parsing`, so that a bad cell can be located.
Every fault of a file as a whole (missing, empty, truncated, without a needed column) is a
`DataError` here, and so is a line with the wrong number of cells, unless it is quarantined.

Rows are counted from 0 inside this package and from 1 in errors. The header line and blank lines
are not counted, lines with the wrong number of cells are.

Stability: internal
"""

from __future__ import annotations

import csv
import dataclasses
import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from recsys.data.source import Source
from recsys.errors import DataError, did_you_mean

BLOCK_BYTES = 2 << 20
"""Text read at once: some thousand rows of 40 columns. More is not faster but takes memory."""
BATCH_ROWS = 1 << 15
"""Parquet rows read at once."""


@dataclasses.dataclass(frozen=True)
class RaggedLine:
    """A line with the wrong number of cells."""

    row: int
    expected: int
    found: int
    text: str

    @property
    def reason(self) -> str:
        """What is wrong with it."""
        return f"expected {self.expected} cells, got {self.found}"


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file.

    Args:
        columns: The needed columns; text files give binary ones.
        file: Path of the file.
        rows: Row in the file of every row, from 0.
        start: Rows in the files before this one: ``start + rows`` is the position in the source.
        ragged: Lines left out of this chunk.
    """

    columns: pa.RecordBatch
    file: str
    rows: np.ndarray
    start: int
    ragged: tuple[RaggedLine, ...] = ()


def resolve_files(source: Source) -> list[str]:
    """The files of a source: paths in the order given, matches of a pattern sorted by name.

    Args:
        source: Its ``files`` are paths, globs or directories.

    Raises:
        DataError: A path does not exist, or a pattern or directory holds no file.
    """
    files: list[str] = []
    for pattern in source.files:
        path = Path(pattern).expanduser()
        if path.is_file():
            files.append(str(path))
            continue
        if path.is_dir():
            found = [str(p) for p in path.iterdir() if p.is_file() and p.name[0] not in "._"]
        else:
            names = glob.glob(str(path), recursive=True)  # noqa: PTH207, Path.glob is relative only
            found = [name for name in names if Path(name).is_file()]
        if not found:
            raise DataError(
                f"no file matches {pattern!r} (looked in {Path.cwd()}). "
                "Check `files` of the source."
            )
        files.extend(sorted(found))
    return files


def read_chunks(
    source: Source, columns: Sequence[str], keep_ragged: bool = False
) -> Iterator[Chunk]:
    """Streams the needed columns of all files of a source.

    Args:
        source: Files and format.
        columns: Names of the needed columns.
        keep_ragged: Report lines with the wrong number of cells in ``Chunk.ragged`` instead of
            raising.

    Raises:
        DataError: A file is missing, empty, unreadable or lacks a column; or a line is ragged.
    """
    start = 0
    for file in resolve_files(source):
        reader = _parquet_chunks if source.format == "parquet" else _text_chunks
        rows = 0
        for chunk in reader(source, file, tuple(columns), start):
            if chunk.ragged and not keep_ragged:
                line = chunk.ragged[0]
                raise DataError(
                    f"{line.reason}: {line.text[:200]!r}. Repair the line, or set "
                    "on_bad_rows=quarantine to set such lines aside.",
                    file=file,
                    row=line.row + 1,
                )
            rows += chunk.columns.num_rows + len(chunk.ragged)
            yield chunk
        if rows == 0:
            raise DataError("the file has no rows. Remove it from the source.", file=file)
        start += rows


def count_rows(source: Source, columns: Sequence[str]) -> int:
    """Number of rows of all files, ragged lines included.

    Args:
        source: Files and format.
        columns: Needed columns; the cheapest of them is read.
    """
    if source.format == "parquet":
        return sum(_open_parquet(file).metadata.num_rows for file in resolve_files(source))
    chunks = read_chunks(source, columns[:1], keep_ragged=True)
    return sum(chunk.columns.num_rows + len(chunk.ragged) for chunk in chunks)


# ------------------------------------------------------------------------------------------ text


def _text_chunks(
    source: Source, file: str, columns: tuple[str, ...], start: int
) -> Iterator[Chunk]:
    names = list(source.columns) if source.columns else _header(source, file)
    check_columns(columns, names, file)
    ragged: list[RaggedLine] = []
    try:
        reader = _open_text(source, file, columns, ragged.append)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"not readable as {source.format}: {error}. Is the file complete?", file=file
        ) from None
    position, done = 0, 0
    while True:
        batch = _next_batch(reader, source, file, position)
        if batch is None and done == len(ragged):
            return
        waiting = ragged[done:]
        if batch is None:
            batch = pa.RecordBatch.from_pylist([], pa.schema([(c, pa.binary()) for c in columns]))
        else:
            # The parser may be ahead: only the lines before the last good row belong here.
            good = batch.num_rows
            waiting = [line for i, line in enumerate(waiting) if line.row - position - i < good]
        end = position + batch.num_rows + len(waiting)
        rows = np.delete(np.arange(position, end), [line.row - position for line in waiting])
        position, done = end, done + len(waiting)
        if source.format == "libfm":
            batch = _libfm_ids(batch, names[1:], file, rows)
        yield Chunk(batch, file, rows, start, tuple(waiting))


def _next_batch(
    reader: pyarrow.csv.CSVStreamingReader, source: Source, file: str, position: int
) -> pa.RecordBatch | None:
    try:
        return reader.read_next_batch()
    except StopIteration:
        return None
    except (pa.ArrowException, OSError) as error:
        reason, hint = " ".join(str(error).split()), "Is the file complete?"
        if "straddling" in reason:
            reason = f"a line is longer than {BLOCK_BYTES:,} bytes"
            hint = "Is a line end missing?"
        raise DataError(
            f"not readable as {source.format} after row {position:,}: {reason}. {hint}", file=file
        ) from None


def _open_text(
    source: Source, file: str, columns: tuple[str, ...], report: Callable[[RaggedLine], None]
) -> pyarrow.csv.CSVStreamingReader:
    header_lines = 0 if source.columns else 1

    def on_ragged(line: pyarrow.csv.InvalidRow) -> str:
        number = line.number - 1 - header_lines
        report(RaggedLine(number, line.expected_columns, line.actual_columns, line.text))
        return "skip"

    return pyarrow.csv.open_csv(
        pa.input_stream(file, compression="detect"),
        # Row numbers of ragged lines are known only without Arrow's own threads.
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False,
            block_size=BLOCK_BYTES,
            column_names=list(source.columns) if source.columns else None,
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=" " if source.format == "libfm" else source.delimiter,
            quote_char='"' if source.quoted and source.format != "libfm" else False,
            invalid_row_handler=on_ragged,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={column: pa.binary() for column in columns},
            include_columns=list(columns),
            null_values=list(source.null_values),
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        ),
    )


def _header(source: Source, file: str) -> list[str]:
    try:
        with pa.input_stream(file, compression="detect") as stream:
            head = stream.read(1 << 20)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"not readable: {error}. Is the file complete?", file=file) from None
    line = next((line for line in head.splitlines() if line.strip()), b"")
    if not line:
        raise DataError("the file is empty. Remove it from the source.", file=file)
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"the header line is not UTF-8: {error}.", file=file) from None
    quoting = csv.QUOTE_MINIMAL if source.quoted else csv.QUOTE_NONE
    return next(csv.reader([text], delimiter=source.delimiter, quoting=quoting))


def check_columns(needed: Sequence[str], names: Sequence[str], file: str | None) -> None:
    """Checks that every needed column is there once.

    Args:
        needed: Columns that will be read.
        names: Columns that are there.
        file: For the error text.

    Raises:
        DataError: Columns are missing (all are named) or there twice.
    """
    missing = [column for column in needed if column not in names]
    if missing:
        listed = ", ".join(f"`{column}`" for column in missing)
        raise DataError(
            f"columns are missing: {listed}. {did_you_mean(missing[0], names)} Correct the names "
            "in the schema or the source.",
            file=file,
            column=missing[0],
        )
    twice = [column for column in needed if list(names).count(column) > 1]
    if twice:
        raise DataError("the column is there twice. Rename one.", file=file, column=twice[0])


def _libfm_ids(
    batch: pa.RecordBatch, fields: Sequence[str], file: str, rows: np.ndarray
) -> pa.RecordBatch:
    """Takes the id out of every ``id:value`` cell; the value must be 1."""
    arrays = []
    for name, array in zip(batch.schema.names, batch.columns):
        if name in fields:
            good = pc.match_substring_regex(array, r"^[^:]+:1(\.0*)?$")
            if not pc.all(good, min_count=0).as_py():
                wrong = ~good.fill_null(False).to_numpy(zero_copy_only=False)
                where = int(np.flatnonzero(wrong)[0])
                raise DataError(
                    f"expected `id:1`, got {array[where].as_py()!r}. libfm input is read as one id "
                    "for every field; use csv for weighted features.",
                    file=file,
                    row=int(rows[where]) + 1,
                    column=name,
                )
            array = pc.replace_substring_regex(array, r":1(\.0*)?$", "")
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


# --------------------------------------------------------------------------------------- parquet


def _parquet_chunks(
    source: Source, file: str, columns: tuple[str, ...], start: int
) -> Iterator[Chunk]:
    del source
    parquet = _open_parquet(file)
    check_columns(columns, parquet.schema_arrow.names, file)
    position = 0
    try:
        for batch in parquet.iter_batches(BATCH_ROWS, columns=list(columns), use_threads=False):
            rows = np.arange(position, position + batch.num_rows)
            position += batch.num_rows
            yield Chunk(batch.select(list(columns)), file, rows, start)
    except (pa.ArrowException, OSError) as error:
        raise _not_parquet(file, error) from None


def _open_parquet(file: str) -> pyarrow.parquet.ParquetFile:
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise _not_parquet(file, error) from None


def _not_parquet(file: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split())
    return DataError(
        f"not a readable Parquet file: {reason} Is it complete? Write or copy it again.", file=file
    )
