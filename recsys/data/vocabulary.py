"""Ids and their indices: 0 PAD, 1 OOV, then ids by falling training count, ties by id.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from recsys.data.vocab_native import NativeMap, is_available
from recsys.errors import DataError
from recsys.schema import FIRST_INDEX, OOV_INDEX

Backend = Literal["native", "arrow"]

_TYPES = {"string": pa.string(), "int": pa.int64()}
_COMPACT_ROWS = 1 << 21
"""The Arrow counter adds up its partial counts when it holds so many."""


def default_backend() -> Backend:
    """``native`` where the compiled map is there. Both give the same results."""
    return "native" if is_available() else "arrow"


class VocabularyCounter:
    """Counts ids, batch by batch; memory grows with distinct ids only.

    Args:
        dtype: ``string`` or ``int``, as in the schema.
        backend: ``native`` or ``arrow``; None takes the default.

    Example:
        >>> counter = VocabularyCounter("string")
        >>> counter.add(pa.array(["b", "a", "b", None]))
        >>> counter.finish().ids.to_pylist()
        ['b', None, 'a']
    """

    def __init__(self, dtype: Literal["string", "int"], backend: Backend | None = None) -> None:
        self.dtype: Literal["string", "int"] = dtype
        self.backend: Backend = backend or default_backend()
        self._map = NativeMap(dtype == "string") if self.backend == "native" else None
        self._partial: list[pa.Table] = []

    def add(self, ids: pa.Array) -> None:
        """Counts every id once; null is an id.

        Args:
            ids: string or int64 array.
        """
        if self._map is not None:
            self._map.add(ids)
            return
        counted = pc.value_counts(ids)
        self._partial.append(
            pa.table({"id": counted.field("values"), "count": counted.field("counts")})
        )
        if sum(part.num_rows for part in self._partial) > _COMPACT_ROWS:
            self._partial = [self._total()]

    def finish(self, min_count: int = 1, max_vocab: int | None = None) -> Vocabulary:
        """The vocabulary of everything counted. The counter is empty afterwards.

        Args:
            min_count: Rarer ids are left out (they become OOV).
            max_vocab: Keep only so many, the most frequent.
        """
        if self._map is not None:
            ids, counts = self._map.ordered(min_count, max_vocab)
            self._map = NativeMap(self.dtype == "string")
            return Vocabulary(ids, counts, self.backend)
        total = self._total()
        self._partial = []
        total = total.filter(pc.field("count") >= min_count)
        # Arrow sorts nulls to one end only for all keys alike; so null gets a key of its own.
        keyed = total.append_column("present", pc.is_valid(total["id"]))
        keys = [("count", "descending"), ("present", "ascending"), ("id", "ascending")]
        order = pc.sort_indices(keyed, sort_keys=keys)
        ordered = total.take(order.slice(0, max_vocab)).combine_chunks()
        return Vocabulary(_single(ordered["id"]), ordered["count"].to_numpy(), self.backend)

    def _total(self) -> pa.Table:
        kinds = pa.schema([("id", _TYPES[self.dtype]), ("count", pa.int64())])
        empty = kinds.empty_table()
        total = pa.concat_tables([empty, *self._partial]).group_by("id", use_threads=False)
        return total.aggregate([("count", "sum")]).rename_columns({"count_sum": "count"})


class Vocabulary:
    """A fixed list of ids; an id's index is its position plus 2.

    Args:
        ids: Distinct ids in index order; null may be one of them.
        counts: How often each came in training.
        backend: ``native`` or ``arrow``; None takes the default.

    Example:
        >>> vocabulary = Vocabulary(pa.array(["b", "a"]), np.array([5, 3]))
        >>> vocabulary.encode(pa.array(["a", "new", "b"])).tolist()
        [3, 1, 2]
    """

    def __init__(self, ids: pa.Array, counts: np.ndarray, backend: Backend | None = None) -> None:
        self.ids = ids
        self.counts = np.ascontiguousarray(counts, np.int64)
        self.backend: Backend = backend or default_backend()
        self._map: NativeMap | None = None
        self._positions: dict[object, int] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_map": None, "_positions": None}  # rebuilt where it is needed

    @property
    def num_embeddings(self) -> int:
        """Rows of a table for this vocabulary, PAD and OOV included."""
        return FIRST_INDEX + len(self.ids)

    def encode(self, ids: pa.Array) -> np.ndarray:
        """Index of every id; an unknown one is OOV.

        Args:
            ids: string or int64 array, nulls allowed.

        Returns:
            int32 indices.
        """
        if self.backend == "native":
            if self._map is None:
                self._map = self._native_map()
            if pa.types.is_large_string(ids.type):
                ids = ids.cast(pa.string())
            return self._map.lookup(ids, FIRST_INDEX, OOV_INDEX)
        if self._positions is None:
            listed = self.ids.to_pylist()
            self._positions = dict(zip(listed, range(FIRST_INDEX, FIRST_INDEX + len(listed))))
        codes = ids.dictionary_encode(null_encoding="encode")
        get = self._positions.get
        known = np.array([get(i, OOV_INDEX) for i in codes.dictionary.to_pylist()], np.int32)
        return known[codes.indices.to_numpy()] if len(known) else np.zeros(0, np.int32)

    def decode(self, indices: np.ndarray) -> list[object]:
        """Ids of indices; PAD and OOV give None.

        Args:
            indices: Indices of this vocabulary.
        """
        positions = pa.array(indices - FIRST_INDEX, mask=indices < FIRST_INDEX)
        return self.ids.take(positions).to_pylist()

    def grown(self, more: Vocabulary, min_count: int = 1) -> Vocabulary:
        """This vocabulary with the new ids of another appended, so that no index changes.

        Args:
            more: Counts of newer data. Counts of ids known here are added.
            min_count: Rarer new ids are left out.
        """
        codes = self.encode(_as_type(more.ids, self.ids.type))
        known = codes != OOV_INDEX
        counts = self.counts.copy()
        np.add.at(counts, codes[known] - FIRST_INDEX, more.counts[known])
        new = ~known & (more.counts >= min_count)
        added = more.ids.filter(pa.array(new))
        ids = pa.concat_arrays([self.ids, _as_type(added, self.ids.type)])
        return Vocabulary(ids, np.concatenate([counts, more.counts[new]]), self.backend)

    def save(self, path: Path) -> None:
        """Writes ids and counts as Parquet.

        Args:
            path: File to write.
        """
        table = pa.table({"id": self.ids, "count": self.counts})
        pyarrow.parquet.write_table(table, path, compression="zstd", use_dictionary=False)

    @classmethod
    def load(cls, path: Path, backend: Backend | None = None) -> Vocabulary:
        """Reads what ``save`` wrote.

        Args:
            path: File to read.
            backend: ``native`` or ``arrow``; None takes the default.

        Raises:
            DataError: The file is missing or damaged.
        """
        try:
            table = pyarrow.parquet.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"not a readable vocabulary: {error} Prepare the data again.", file=str(path)
            ) from None
        return cls(_single(table["id"]), table["count"].to_numpy(), backend)

    def _native_map(self) -> NativeMap:
        native = NativeMap(not pa.types.is_integer(self.ids.type))
        step = 1 << 20
        for start in range(0, len(self.ids), step):  # pieces of text fit 32-bit offsets
            part = self.ids.slice(start, step)
            if pa.types.is_large_string(part.type):
                part = pa.concat_arrays([part]).cast(pa.string())
            native.add(part)
        if len(native) != len(self.ids):
            raise DataError(
                f"a vocabulary of {len(self.ids):,} ids has only {len(native):,} distinct ones. "
                "The file is damaged: prepare the data again."
            )
        return native


def _single(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):
        combined = pa.concat_arrays([c.cast(pa.large_string()) for c in combined.chunks])
    return combined


def _as_type(array: pa.Array, kind: pa.DataType) -> pa.Array:
    return array if array.type == kind else array.cast(kind)
