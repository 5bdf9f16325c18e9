"""Your own log: any CSV, TSV, libfm or Parquet files, with a schema that you write or infer.

Source, checksum and licence: yours. Split: any of `recsys.data.source`. Schema: in the experiment
file, or a JSON file that `ClickLog.infer` proposes and you correct::

    dataset:
      class: recsys.datasets.click_log.ClickLog
      schema: my_schema.json          # or the schema itself: {features: [...], labels: [...]}
      splits:
        kind: time
        source: {files: [logs/*.csv], format: csv}
        valid: 0.1
        test: 0.1

Traps:
    - A column that is known only after the click (dwell time, conversion, the position where it
      was decided by the model) makes offline figures beautiful and the served model useless.
      Leave it out of the schema; `infer` cannot know.
    - Split by time unless you have a reason not to: random splits let a model look ahead.
    - If negatives were sampled, predicted probabilities are too high by that factor; put the
      inverse rate into a weight column.
    - Ids that look like numbers (zip codes, categories) are ids; `infer` guesses by the number of
      distinct values and by the name.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field, ValidationError

from recsys.data.dataset import Dataset
from recsys.data.readers import check_columns, resolve_files
from recsys.data.source import Source, Splits
from recsys.errors import ConfigError, DataError, SchemaError
from recsys.schema import Categorical, Feature, Frozen, Label, MultiValued, Numeric, Schema, Vector


class InferOptions(Frozen):
    """How `ClickLog.infer` guesses."""

    sample_rows: int = Field(default=100_000, ge=1)
    """First rows of the first file that are looked at."""
    max_int_ids: int = Field(default=1000, ge=1)
    """Integer columns with at most so many distinct values are ids."""
    min_count: int = Field(default=2, ge=1)
    """Of the proposed ids."""
    ignore: tuple[str, ...] = ()
    """Columns to leave out."""
    separators: Mapping[str, str] = {}
    """Text columns that hold several ids, and what separates them."""
    weight: str | None = None
    """Column with the weight of a row."""
    group: str | None = None
    """Column for grouped metrics; it is a feature too."""
    timestamp: str | None = None
    """Column with the time of a row; it is no feature."""


class ClickLog(Dataset):
    """Files of your own.

    Args:
        config: Splits and schema.

    Raises:
        ConfigError: The schema file is missing or not a schema.

    Example:
        >>> log = ClickLog(ClickLog.Config.model_validate({
        ...     "schema": {"features": [{"kind": "categorical", "name": "user"}],
        ...                "labels": [{"name": "click"}]},
        ...     "splits": {"kind": "time", "source": {"files": ["log.csv"], "format": "csv"}},
        ... }))
        >>> log.schema().keys
        ('user',)
    """

    homepage = "your own files"
    licence = "yours"

    class Config(Dataset.Config):
        """Splits and schema."""

        model_config = ConfigDict(
            frozen=True, extra="forbid", validate_by_name=True, serialize_by_alias=True
        )

        splits: Splits
        """Files and how they are cut into train, valid and test."""
        schema_: Schema | str = Field(alias="schema")
        """The schema, or the path of a JSON file with it. Written ``schema`` in files."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        given = config.schema_
        self._schema = read_schema(given) if isinstance(given, str) else given

    def schema(self) -> Schema:
        """As declared."""
        return self._schema

    def splits(self, cache_dir: Path) -> Splits:
        """As declared.

        Raises:
            DataError: A file does not exist, or a pattern matches none.
        """
        del cache_dir
        declared = self.config.splits
        sources = [getattr(declared, name, None) for name in ("source", "train", "valid", "test")]
        for source in sources:
            if isinstance(source, Source):
                resolve_files(source)
        return declared

    @classmethod
    def infer(cls, source: Source, label: str, options: InferOptions | None = None) -> Schema:
        r"""Proposes a schema from the first rows of the first file.

        Text, booleans and integers with few values (or named ``...id``) become ids, other numbers
        standardized numbers (of their logarithm where they are heavy-tailed), lists bags, lists
        of floats of one length vectors. Read the proposal before you use it: save it with
        ``Path("my_schema.json").write_text(schema.model_dump_json(indent=1))``.

        Args:
            source: The files. libfm needs no guess and is refused.
            label: Column with 1 and 0, or with numbers that a threshold will cut.
            options: How to guess.

        Raises:
            DataError: Files or named columns are missing, or cannot be read.
            SchemaError: The label has more than two values (say which are clicks), the format is
                libfm, or no column is left.

        Example:
            >>> import pathlib, tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     file = pathlib.Path(folder) / "log.csv"
            ...     _ = file.write_text("user,price,click\nann,1.5,1\nbob,2.0,0\n")
            ...     schema = ClickLog.infer(Source(files=(str(file),), format="csv"), "click")
            >>> [feature.kind for feature in schema.features]
            ['categorical', 'numeric']
        """
        options = options or InferOptions()
        if source.format == "libfm":
            raise SchemaError(
                "libfm files have no column types to infer from. Declare every field as "
                "categorical with dtype=int, as recsys/datasets/frappe.py does."
            )
        file = resolve_files(source)[0]
        table = _head(source, file, options.sample_rows)
        roles = {label, options.weight, options.group, options.timestamp, *options.ignore}
        named = [*(name for name in roles if name is not None), *options.separators]
        check_columns(named, table.column_names, file)
        kept = {label, options.weight, options.timestamp, *options.ignore}
        features = [
            feature
            for name in table.column_names
            if name not in kept
            for feature in [_guess(name, table[name], options)]
            if feature is not None
        ]
        if not features:
            raise SchemaError(f"{file}: no column is left for features. Got {table.column_names}.")
        return Schema(
            features=tuple(features),
            labels=(_guess_label(label, table[label], file),),
            weight=options.weight,
            group=options.group,
            timestamp=options.timestamp,
        )


def read_schema(path: str | Path) -> Schema:
    """A schema from a JSON file.

    Args:
        path: The file.

    Raises:
        ConfigError: It is missing or not a schema.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(
            f"`schema`: expected a JSON file, {file} does not exist (looked in {Path.cwd()}). "
            "Write the schema there, or propose one with ClickLog.infer."
        )
    try:
        return Schema.model_validate_json(file.read_bytes())
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part) for part in fault['loc']) or 'schema'}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise ConfigError(
            f"{file} is not a schema: {'; '.join(faults[:5])}. Compare with what ClickLog.infer "
            "writes."
        ) from None


# ------------------------------------------------------------------------------------- inference


def _head(source: Source, file: str, rows: int) -> pa.Table:
    """The first rows with Arrow's own types."""
    try:
        if source.format == "parquet":
            batches = pq.ParquetFile(file).iter_batches(rows)
            return pa.Table.from_batches([next(batches)])
        with pyarrow.csv.open_csv(
            pa.input_stream(file, compression="detect"),
            read_options=pyarrow.csv.ReadOptions(
                column_names=list(source.columns) if source.columns else None
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=source.delimiter, quote_char='"' if source.quoted else False
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                null_values=list(source.null_values), strings_can_be_null=True
            ),
        ) as reader:
            batches, seen = [], 0
            for batch in reader:
                batches.append(batch)
                seen += batch.num_rows
                if seen >= rows:
                    break
        return pa.Table.from_batches(batches).slice(0, rows)
    except (pa.ArrowInvalid, OSError, StopIteration) as error:
        raise DataError(f"not readable as {source.format}: {error}.", file=file) from None


def _guess(name: str, column: pa.ChunkedArray, options: InferOptions) -> Feature | None:
    """The likely feature; None for columns of a kind that no feature reads."""
    kind, count = column.type, options.min_count
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _guess_list(name, column, count)
    if name in options.separators:
        return MultiValued(
            name=name, pooling="mean", separator=options.separators[name], min_count=count
        )
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _number(name, column)
    if pa.types.is_integer(kind):
        distinct = pc.count_distinct(column).as_py()
        if distinct <= options.max_int_ids or name.lower().endswith("id"):
            return Categorical(name=name, dtype="int", min_count=count)
        return _number(name, column)
    if pa.types.is_temporal(kind):
        return None
    return Categorical(name=name, min_count=count)


def _number(name: str, column: pa.ChunkedArray) -> Numeric:
    values = column.cast(pa.float64()).to_numpy()
    nan = bool(pc.any(pc.is_nan(column.cast(pa.float64())), min_count=0).as_py())
    values = np.abs(values[np.isfinite(values)])
    median, high = np.quantile(values, (0.5, 0.99)) if len(values) else (0.0, 0.0)
    return Numeric(
        name=name,
        log=bool(high > 20 * max(median, 1.0)),
        scale="standardize",
        nan="missing" if nan else "error",
    )


def _guess_list(name: str, column: pa.ChunkedArray, min_count: int) -> Feature | None:
    item = column.type.value_type
    if pa.types.is_floating(item):
        lengths = set(pc.unique(pc.list_value_length(column)).to_pylist()) - {None}
        return Vector(name=name, dim=lengths.pop()) if len(lengths) == 1 else None
    return MultiValued(
        name=name,
        dtype="int" if pa.types.is_integer(item) else "string",
        pooling="mean",
        min_count=min_count,
    )


def _guess_label(name: str, column: pa.ChunkedArray, file: str) -> Label:
    values = sorted(pc.unique(column).drop_null().to_pylist(), key=str)
    if set(values) <= {0, 1}:
        return Label(name=name)
    if set(values) <= {-1, 1}:
        return Label(name=name, threshold=0.5)
    shown = ", ".join(repr(value) for value in values[:5]) + (", ..." if len(values) > 5 else "")
    raise SchemaError(
        f"label `{name}` in {file}: expected 0 and 1, got {shown}. "
        "Declare Label(name=..., threshold=...) in the schema, or write a column of 0 and 1."
    )
