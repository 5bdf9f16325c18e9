"""Files of data sets: found where the user put them, fetched where allowed, converted once.

Stability: internal
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pooch
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data.readers import Chunk, read_chunks
from recsys.data.source import Source
from recsys.errors import DataError

ROW_GROUP = 65_536
"""Rows of a row group in converted files."""


def find_file(path: str | Path, names: Sequence[str], advice: str) -> Path:
    """The file itself, or the first of several names in a folder.

    Args:
        path: A file, or the folder where it should be.
        names: What it may be called there.
        advice: Where to get it and where to put it; ends the error text.

    Raises:
        DataError: It is not there.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    expected = " or ".join(f"`{name}`" for name in names)
    found = sorted(p.name for p in path.iterdir())[:8] if path.is_dir() else []
    got = f"it holds {found}" if path.is_dir() else "that path does not exist"
    raise DataError(f"expected {expected} in {path}; {got}. {advice}")


def needed_path(path: str | None, data_set: str, advice: str) -> str:
    """The path of a data set that cannot be fetched.

    Args:
        path: From the ``Config``.
        data_set: Name for the error text.
        advice: Where to get the files.

    Raises:
        DataError: None was given.
    """
    if path is None:
        raise DataError(f"{data_set} cannot be fetched by a program: `path` is needed. {advice}")
    return path


def fetch(url: str, checksum: str, cache_dir: Path) -> Path:
    """Downloads a file once and checks it.

    Args:
        url: Address.
        checksum: ``sha256:...`` or ``md5:...``.
        cache_dir: Where it is kept.

    Raises:
        DataError: The address cannot be reached, or the file is not the expected one.
    """
    name = url.rsplit("/", 1)[-1]
    try:
        return Path(pooch.retrieve(url, checksum, fname=name, path=cache_dir / "downloads"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{url} could not be fetched: {error}. Fetch it by hand, unpack it if it is an "
            "archive, and set `path` to its folder."
        ) from error


def conversion_digest(files: Sequence[Path], options: Mapping[str, Any]) -> str:
    """Names a conversion by its input files (path, size, time) and options.

    Args:
        files: Input files.
        options: Everything that changes the output, a format version included.
    """
    facts = [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    text = json.dumps([facts, dict(options)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class ParquetParts:
    """Parquet files that are written table by table.

    Args:
        folder: Where the files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, pq.ParquetWriter] = {}

    def write(self, name: str, table: pa.Table) -> None:
        """Appends rows to a file.

        Args:
            name: Name of the file, without its ending.
            table: The rows; the first ones fix the column types.
        """
        if name not in self._writers:
            file = self.folder / f"{name}.parquet"
            self._writers[name] = pq.ParquetWriter(file, table.schema, compression="zstd")
        self._writers[name].write_table(table, row_group_size=ROW_GROUP)

    def __enter__(self) -> ParquetParts:
        return self

    def __exit__(self, *error: object) -> None:
        for writer in self._writers.values():
            writer.close()


def read_copy(
    file: Path, copy: Path, lines: Iterable[str], source: Source, columns: Sequence[str]
) -> Iterator[Chunk]:
    """Rows of a file whose lines need a change first, by way of a UTF-8 copy.

    Lines stay lines, so errors and chunks name the file and row that the user has.

    Args:
        file: The user's file, for errors.
        copy: Where the changed lines are kept meanwhile.
        lines: The changed lines, each with its line end. Bytes that are not UTF-8 may be there as
            surrogates (``errors="surrogateescape"``): `text_column` will name their cell.
        source: How the copy is read; its ``files`` are replaced.
        columns: Columns to read.

    Raises:
        DataError: As `recsys.data.readers.read_chunks`.
    """
    try:
        with copy.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as out:
            out.writelines(lines)
        for chunk in read_chunks(source.model_copy(update={"files": (str(copy),)}), columns):
            yield dataclasses.replace(chunk, file=str(file))
    except DataError as error:
        raise DataError(error.message, file=str(file), row=error.row, column=error.column) from None
    finally:
        copy.unlink(missing_ok=True)


def text_column(chunk: Chunk, name: str) -> pa.Array:
    """One column of a text chunk as stripped strings; empty becomes null.

    Args:
        chunk: From `recsys.data.readers.read_chunks`.
        name: The column.

    Raises:
        DataError: A cell is not UTF-8.
    """
    column = chunk.columns.column(name)
    try:
        text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    except pa.ArrowInvalid:
        for row, value in zip(chunk.rows, column.to_pylist()):
            if value is not None and not _is_utf8(value):
                raise DataError(
                    f"expected UTF-8, got {value[:40]!r}. Convert the file to UTF-8.",
                    file=chunk.file,
                    row=int(row) + 1,
                    column=name,
                ) from None
        raise
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def require(good: pa.Array, expected: str, values: pa.Array, chunk: Chunk, name: str) -> None:
    """Raises for the first row that is not good.

    Args:
        good: Booleans.
        expected: What the cells should be, for the error text.
        values: The cells.
        chunk: Their chunk.
        name: Their column.

    Raises:
        DataError: A row is not good.
    """
    flags = good.fill_null(False).to_pylist()
    if all(flags):
        return
    row = flags.index(False)
    raise DataError(
        f"expected {expected}, got {values[row].as_py()!r}. Repair or remove the row.",
        file=chunk.file,
        row=int(chunk.rows[row]) + 1,
        column=name,
    )
