"""Raw files to prepared Parquet: one pass to fit on training rows, one to encode all rows.

Stability: caller
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from pydantic import Field
from tqdm import tqdm

from recsys.data.fitting import QUANTILE_ROWS, EncoderFitter
from recsys.data.parsing import Parsed, Parser
from recsys.data.prefetch import prefetch
from recsys.data.prepared import (
    QUARANTINE,
    VERSION,
    Prepared,
    combined_digest,
    file_digest,
    file_state,
)
from recsys.data.readers import Chunk, read_chunks, resolve_files
from recsys.data.source import Source, Splits
from recsys.data.splitting import SPLITS, TRAIN, Phase, SplitPlan, phase_sources
from recsys.errors import DataError
from recsys.folders import made_once
from recsys.schema import Frozen, Schema

_READ_AHEAD = 1

_log = logging.getLogger(__name__)


class PrepareConfig(Frozen):
    """How raw files are prepared."""

    on_bad_rows: Literal["raise", "quarantine"] = "raise"
    """``quarantine`` sets bad rows aside in ``quarantine.parquet`` with file, row, column, value
    and reason, and counts them. Faults of a whole file always raise."""
    row_group_rows: int = Field(default=1 << 16, ge=1)
    """Rows of a Parquet row group: the unit in which training reads, shuffles and shards."""
    quantile_rows: int = Field(default=QUANTILE_ROWS, ge=1)
    """Size of the row sample that quantile buckets are fitted on (exact while all rows fit)."""


def prepare(
    schema: Schema, splits: Splits, cache_dir: Path | str, config: PrepareConfig | None = None
) -> Prepared:
    """Fits on the training rows and writes every split as Parquet, unless that is cached.

    The cache key covers the schema, the splits, the config and the state of every raw file, so a
    changed one never meets a stale cache. Files appear under their final name only when complete.

    Args:
        schema: What the columns mean.
        splits: Where the rows are, and how they are split.
        cache_dir: Folder for prepared data; each key has a folder of its own in it.
        config: Options.

    Raises:
        DataError: A file or a row is bad, or a split is empty.
        SchemaError: The splits need a column that the schema does not name.
        ConfigError: The splits do not fit the data.
    """
    config = config or PrepareConfig()
    plan = SplitPlan(splits, schema)
    files = [file for _, source in plan.sources for file in resolve_files(source)]
    declared = [schema.digest, splits.model_dump_json(), str(VERSION)]
    digests = [file_digest(file) for file in files]
    key = combined_digest([*declared, config.model_dump_json(), *map(file_state, files), *digests])
    fingerprint = combined_digest([schema.digest, _without_paths(splits), *digests])
    cache = Path(cache_dir)
    final = cache / key
    if final.exists():
        return Prepared.load(final)
    made_once(final, lambda working: _Preparation(plan, config, working).run(fingerprint))
    prepared = Prepared.load(final)
    if prepared.quarantine:
        _log.warning(
            "%s bad rows were set aside, with their reasons, in %s",
            f"{prepared.counts['bad_rows']:,}",
            prepared.quarantine,
        )
    return prepared


def _without_paths(splits: Splits) -> str:
    content = splits.model_dump(mode="json")
    for value in content.values():
        if isinstance(value, dict):
            value.pop("files", None)
    return json.dumps(content, sort_keys=True)


class _Preparation:
    """The two passes.

    Args:
        plan: Sources and splits.
        config: Options.
        directory: Folder to write to.
    """

    def __init__(self, plan: SplitPlan, config: PrepareConfig, directory: Path) -> None:
        self.plan, self.config, self.directory = plan, config, directory
        self.null_values = plan.sources[0][1].null_values
        self.rule = plan.rule()

    def run(self, fingerprint: str) -> None:
        """Fits, encodes and writes everything."""
        fitter = EncoderFitter(
            self.plan.schema, self.null_values, quantile_rows=self.config.quantile_rows
        )
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            rows = 0
            for _, table in self._rows("fit", None, {}):
                fitter.add(table, pool)
                rows += table.num_rows
            if rows == 0:
                raise DataError(
                    "the split `train` has no rows. Check the shares or borders of the splits."
                )
            encoder = fitter.finish()
            counts = {"bad_rows": 0, "ignored_rows": 0}
            writers = {
                number: _SplitWriter(
                    self.directory / f"{SPLITS[number]}.parquet", self.config.row_group_rows
                )
                for number in self.plan.numbers
            }
            with _QuarantineWriter(self.directory / QUARANTINE) as quarantine:
                for number, table in self._rows("encode", quarantine, counts):
                    writers[number].add(encoder.encode_parsed(table, pool))
        split_rows = {SPLITS[number]: writer.close() for number, writer in writers.items()}
        for split, rows in split_rows.items():
            if rows == 0:
                raise DataError(
                    f"the split `{split}` has no rows. Check the shares or borders of the splits, "
                    "or set the share to 0."
                )
        encoder.save(self.directory / "encoder")
        Prepared(self.directory, encoder, split_rows, counts, fingerprint).save_manifest()

    def _rows(
        self, phase: Phase, quarantine: _QuarantineWriter | None, counts: dict[str, int]
    ) -> Iterator[tuple[int, pa.Table]]:
        """Good parsed rows with their split number. Both passes leave out the same rows."""
        with tqdm(desc=phase, unit=" rows", unit_scale=True, disable=None) as progress:
            for number, source in phase_sources(self.plan, phase):
                parser = self.plan.parser(source, source.null_values)
                for chunk in self._chunks(source, parser):
                    parsed = parser.parse(chunk.columns, chunk.file)
                    self._handle_bad(chunk, parsed, quarantine, counts)
                    for split, table in self._select(phase, number, chunk, parsed, counts):
                        if table.num_rows:
                            yield split, table
                    progress.update(chunk.columns.num_rows)

    def _chunks(self, source: Source, parser: Parser) -> Iterator[Chunk]:
        keep = self.config.on_bad_rows == "quarantine"
        return prefetch(lambda: read_chunks(source, parser.columns, keep), _READ_AHEAD)

    def _handle_bad(
        self,
        chunk: Chunk,
        parsed: Parsed,
        quarantine: _QuarantineWriter | None,
        counts: dict[str, int],
    ) -> None:
        if parsed.bad and self.config.on_bad_rows == "raise":
            row = min(parsed.bad)
            cell = parsed.bad[row]
            raise DataError(
                f"{cell.text} Correct the row, or set on_bad_rows=quarantine to set such rows "
                "aside.",
                file=chunk.file,
                row=int(chunk.rows[row]) + 1,
                column=cell.column,
            )
        if quarantine is not None and (parsed.bad or chunk.ragged):
            quarantine.add(chunk, parsed)
            counts["bad_rows"] += len(parsed.bad) + len(chunk.ragged)

    def _select(
        self,
        phase: Phase,
        number: int | None,
        chunk: Chunk,
        parsed: Parsed,
        counts: dict[str, int],
    ) -> Iterator[tuple[int, pa.Table]]:
        keep = np.ones(chunk.columns.num_rows, bool)
        keep[list(parsed.bad)] = False
        if parsed.ignored is not None:
            if phase == "encode":
                counts["ignored_rows"] += int((keep & parsed.ignored).sum())
            keep &= ~parsed.ignored
        if number is not None or self.rule is None:
            table = parsed.table if keep.all() else parsed.table.filter(pa.array(keep))
            yield number or TRAIN, table
            return
        codes = self.rule(chunk, parsed.table)
        for split in self.plan.numbers if phase == "encode" else [TRAIN]:
            yield split, parsed.table.filter(pa.array((codes == split) & keep))


# ---------------------------------------------------------------------------------------- writers


class _SplitWriter:
    """Writes full row groups. Plain uncompressed values decode fastest (platform.md 5)."""

    def __init__(self, path: Path, row_group_rows: int) -> None:
        self._path, self._size = path, row_group_rows
        self._writer: pyarrow.parquet.ParquetWriter | None = None
        self._pending: list[pa.Table] = []
        self._held, self._written = 0, 0

    def add(self, table: pa.Table) -> None:
        self._pending.append(table)
        self._held += table.num_rows
        if self._held >= self._size:
            whole = pa.concat_tables(self._pending)
            full = self._held - self._held % self._size
            self._write(whole.slice(0, full))
            self._pending, self._held = [whole.slice(full)], self._held - full

    def close(self) -> int:
        """Writes the rest. Returns the number of rows of the split."""
        if self._held:
            self._write(pa.concat_tables(self._pending))
        if self._writer is not None:
            self._writer.close()
        return self._written

    def _write(self, table: pa.Table) -> None:
        if self._writer is None:
            self._writer = pyarrow.parquet.ParquetWriter(
                self._path,
                table.schema,
                compression="none",
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
            )
        self._writer.write_table(table, row_group_size=self._size)
        self._written += table.num_rows


class _QuarantineWriter:
    """Writes bad rows and why; makes no file where there are none."""

    _schema = pa.schema(
        [
            ("file", pa.string()),
            ("row", pa.int64()),
            ("column", pa.string()),
            ("value", pa.string()),
            ("reason", pa.string()),
            ("content", pa.string()),
        ]
    )

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pyarrow.parquet.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, chunk: Chunk, parsed: Parsed) -> None:
        """Writes the bad rows of a chunk: the raw line, or the row's columns as JSON."""
        rows: list[tuple[int, str | None, str | None, str, str]]
        rows = [(line.row + 1, None, None, line.reason, line.text) for line in chunk.ragged]
        for row, cell in parsed.bad.items():
            content = json.dumps(chunk.columns.slice(row, 1).to_pylist()[0], default=_as_text)
            value = None if cell.value is None else _as_text(cell.value)
            rows.append((int(chunk.rows[row]) + 1, cell.column, value, cell.reason, content))
        rows.sort(key=lambda r: r[0])
        records = [dict(zip(self._schema.names, (chunk.file, *row), strict=True)) for row in rows]
        if self._writer is None:
            self._writer = pyarrow.parquet.ParquetWriter(self._path, self._schema)
        self._writer.write_table(pa.Table.from_pylist(records, self._schema))


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace")
    return str(value)
