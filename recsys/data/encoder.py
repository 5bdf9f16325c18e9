"""From raw rows to indices and floats: the fitted state of all features.

Stability: caller
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import Field

from recsys.data.blocks import RowBlock
from recsys.data.parsing import GROUP, TIMESTAMP, WEIGHT, Parser, weights_name
from recsys.data.transforms import BucketFit, NumberFit, log_square, scale
from recsys.data.vocabulary import Vocabulary
from recsys.errors import DataError
from recsys.folders import write_text
from recsys.hashing import hash_ints, hash_strings, to_buckets
from recsys.schema import (
    FIRST_INDEX,
    OOV_INDEX,
    Bucketized,
    Categorical,
    Frozen,
    KeyedFeature,
    MultiValued,
    Numeric,
    Schema,
    Vector,
)
from recsys.types import Batch

VERSION = 1
"""Of the files that ``save`` writes."""


class FitState(Frozen):
    """The numbers of a fit, apart from vocabularies."""

    numbers: dict[str, NumberFit] = Field(default={})
    """Statistics by numeric feature."""
    buckets: dict[str, BucketFit] = Field(default={})
    """Borders by quantile-bucketized feature."""
    null_values: tuple[str, ...] = ()
    """Texts that meant missing in the training files."""


class FeatureEncoder:
    """Turns raw columns into what models read, as training data was.

    Args:
        schema: The fitted schema.
        state: Fitted numbers.
        vocabularies: By table name.

    Raises:
        DataError: A feature has no fitted state.
    """

    def __init__(
        self, schema: Schema, state: FitState, vocabularies: dict[str, Vocabulary]
    ) -> None:
        self.schema, self.state, self.vocabularies = schema, state, vocabularies
        needed = {f.table_name for f in schema.keyed if uses_vocabulary(f)}
        fitted = {
            "vocabulary": (needed, set(vocabularies)),
            "statistics": ({f.name for f in schema.numeric}, set(state.numbers)),
            "buckets": ({f.name for f in schema.keyed if _is_quantile(f)}, set(state.buckets)),
        }
        for kind, (wanted, there) in fitted.items():
            if wanted - there:
                raise DataError(
                    f"the encoder has no {kind} for {sorted(wanted - there)}. "
                    "Prepare the data again with this schema."
                )

    # -------------------------------------------------------------------------------- encoding

    def encode(self, table: pa.Table, labels: bool) -> pa.Table:
        """Prepared columns of raw rows: int32 indices, float32 numbers.

        Args:
            table: Raw columns, as in the training files.
            labels: Whether labels, weight, group and timestamp are read too. Rows of
                ``Label.ignore`` are then left out.

        Raises:
            DataError: Columns are missing (all are named), or a cell is bad.
        """
        parser = Parser(self.schema, self.state.null_values, labels)
        return self.encode_parsed(parser.parse_good(table))

    def batch(self, table: pa.Table) -> Batch:
        """Raw rows as a batch for a model, without labels.

        Args:
            table: Raw columns, as in the training files. More columns do no harm.

        Raises:
            DataError: Columns are missing (all are named), or a cell is bad.
        """
        prepared = self.encode(table, labels=False)
        return RowBlock.from_table(prepared, self.schema).to_batch()

    def encode_parsed(self, parsed: pa.Table, pool: ThreadPoolExecutor | None = None) -> pa.Table:
        """Prepared columns of parsed rows (`recsys.data.parsing`).

        Args:
            parsed: Typed columns.
            pool: Threads to share the columns out to.
        """
        features = self.schema.features
        columns: Iterable[dict[str, pa.Array]]
        if pool is None:
            columns = (self._encode_feature(f, parsed) for f in features)
        else:
            columns = pool.map(lambda f: self._encode_feature(f, parsed), features)
        prepared = {name: array for part in columns for name, array in part.items()}
        roles = [label.name for label in self.schema.labels] + [WEIGHT, GROUP, TIMESTAMP]
        for name in roles:
            if name in parsed.column_names:
                prepared[name] = parsed.column(name)
        fields = [pa.field(n, _required(a.type), nullable=False) for n, a in prepared.items()]
        return pa.table(prepared, schema=pa.schema(fields))

    def _encode_feature(self, feature: object, parsed: pa.Table) -> dict[str, pa.Array]:
        column = parsed.column(feature.name)  # type: ignore[attr-defined]
        array = column.combine_chunks()
        name: str = feature.name  # type: ignore[attr-defined]
        if isinstance(feature, Numeric):
            values = scale(feature, self.state.numbers[name], _floats(array))
            return {name: pa.array(values)}
        if isinstance(feature, Vector):
            return {name: array}
        if isinstance(feature, Bucketized):
            if _is_quantile(feature):
                return {name: pa.array(self.state.buckets[name].encode(_floats(array)))}
            codes = self.vocabularies[feature.table_name].encode(log_square(_floats(array)))
            return {name: pa.array(codes)}
        if isinstance(feature, Categorical):
            return {name: pa.array(self._indices(feature, array))}
        offsets = list_offsets(array)
        indices = pa.array(self._indices(feature, array.flatten()))  # type: ignore[arg-type]
        prepared = {name: _required_list(offsets, indices)}
        if isinstance(feature, MultiValued) and feature.weights:
            weights = parsed.column(weights_name(name)).combine_chunks()
            prepared[weights_name(name)] = _required_list(offsets, weights.flatten())
        return prepared

    def _indices(self, feature: KeyedFeature, ids: pa.Array) -> np.ndarray:
        if uses_vocabulary(feature):
            return self.vocabularies[feature.table_name].encode(ids)
        return hashed_indices(ids, feature.num_buckets or 1, getattr(feature, "salt", 0))

    # ---------------------------------------------------------------------------------- saving

    def save(self, directory: Path | str) -> None:
        """Writes ``encoder.json`` and one Parquet file a vocabulary.

        Args:
            directory: Folder, made where it is not there.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        for table, vocabulary in self.vocabularies.items():
            vocabulary.save(folder / f"{table}.parquet")
        content = {
            "version": VERSION,
            "schema": self.schema.model_dump(mode="json"),
            "state": self.state.model_dump(mode="json"),
            "vocabularies": sorted(self.vocabularies),
        }
        write_text(folder / "encoder.json", json.dumps(content, indent=1))

    @classmethod
    def load(cls, directory: Path | str) -> FeatureEncoder:
        """Reads what ``save`` wrote.

        Args:
            directory: The folder.

        Raises:
            DataError: A file is missing, damaged or of another version.
        """
        path = Path(directory) / "encoder.json"
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"not a readable encoder: {error}.", file=str(path)) from None
        if content.get("version") != VERSION:
            raise DataError(
                f"expected encoder version {VERSION}, got {content.get('version')}. "
                "Prepare the data again with this release.",
                file=str(path),
            )
        vocabularies = {
            table: Vocabulary.load(path.parent / f"{table}.parquet")
            for table in content["vocabularies"]
        }
        schema = Schema.model_validate(content["schema"])
        return cls(schema, FitState.model_validate(content["state"]), vocabularies)


# ---------------------------------------------------------------------------------------- pieces


def uses_vocabulary(feature: KeyedFeature) -> bool:
    """Whether a feature's indices come from a vocabulary."""
    if isinstance(feature, Bucketized):
        return feature.method == "log_square"
    return feature.encoding == "vocab"


def _is_quantile(feature: KeyedFeature) -> bool:
    return isinstance(feature, Bucketized) and feature.method == "quantile"


def hashed_indices(ids: pa.Array, num_buckets: int, salt: int) -> np.ndarray:
    """Indices by salted hash; a missing id takes the OOV row, which nothing else uses there.

    Args:
        ids: string or int64 array.
        num_buckets: Rows for hashed ids.
        salt: Seed of the hash.

    Returns:
        int32 indices.
    """
    if pa.types.is_integer(ids.type):
        hashes: np.ndarray = hash_ints(ids.fill_null(0).to_numpy(), salt)
        codes = to_buckets(hashes, num_buckets) + FIRST_INDEX
        if ids.null_count:
            codes[ids.is_null().to_numpy(zero_copy_only=False)] = OOV_INDEX
        return codes.astype(np.int32)
    distinct = ids.dictionary_encode()
    hashes = hash_strings(distinct.dictionary.cast(pa.binary()).to_pylist(), salt)
    codes = np.append(to_buckets(hashes, num_buckets) + FIRST_INDEX, OOV_INDEX).astype(np.int32)
    return codes[distinct.indices.fill_null(len(codes) - 1).to_numpy()]


def list_offsets(array: pa.ListArray) -> np.ndarray:
    """Offsets of a list column without nulls, counted from 0 also for slices.

    Args:
        array: The column.
    """
    offsets = array.offsets.to_numpy()
    return offsets - offsets[0] if len(offsets) else np.zeros(1, np.int32)


def _floats(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False)


def _required(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(pa.field("item", kind.value_type, nullable=False), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(pa.field("item", kind.value_type, nullable=False))
    return kind


def _required_list(offsets: np.ndarray, values: pa.Array) -> pa.Array:
    kind = pa.list_(pa.field("item", values.type, nullable=False))
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values, type=kind)
