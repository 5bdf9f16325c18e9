"""The compiled map behind vocabularies (``vocab.c``), through ctypes.

Stability: internal
"""

from __future__ import annotations

import ctypes
import importlib.util
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

_ERRORS = {-1: "out of memory", -2: "an id is longer than 16 MB"}


class _Column(ctypes.Structure):
    """``column`` of vocab.c."""

    _fields_ = (
        ("validity", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("bytes", ctypes.c_void_p),
        ("ints", ctypes.c_void_p),
        ("offset", ctypes.c_int64),
        ("length", ctypes.c_int64),
    )


def _load() -> ctypes.CDLL | None:
    spec = importlib.util.find_spec("recsys.data._vocab")
    if spec is None or spec.origin is None:
        return None
    library = ctypes.CDLL(spec.origin)
    pointer, i64, i32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    column = ctypes.POINTER(_Column)
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "new": (pointer, [ctypes.c_int]),
        "free": (None, [pointer]),
        "size": (i64, [pointer]),
        "null": (i64, [pointer]),
        "add": (ctypes.c_int, [pointer, column, pointer]),
        "lookup": (None, [pointer, column, i32, i32, pointer]),
        "order": (i64, [pointer, i64, pointer]),
        "text_bytes": (i64, [pointer, pointer, i64]),
        "export": (None, [pointer, pointer, i64, pointer, pointer, pointer, pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"recsys_vocab_{name}")
        function.restype, function.argtypes = result, arguments
    return library


_library = _load()


def is_available() -> bool:
    """Whether the library was built. Without it vocabularies use Arrow, with the same results."""
    return _library is not None


class NativeMap:
    """Ids in the order in which they came, with counts. Null is an id.

    Args:
        is_text: Whether ids are strings, or int64.
    """

    def __init__(self, is_text: bool) -> None:
        if _library is None:
            raise RuntimeError("recsys.data._vocab is not built; see is_available().")
        self._lib = _library
        self.is_text = is_text
        self._map: int | None = self._lib.recsys_vocab_new(int(is_text))
        if self._map is None:
            raise MemoryError("counting ids failed: out of memory.")

    def __del__(self) -> None:
        if getattr(self, "_map", None):
            self._lib.recsys_vocab_free(self._map)
            self._map = None

    def __reduce__(self) -> NoReturn:
        # A copy would hold the same memory and free it twice.
        raise TypeError("a NativeMap cannot be copied or pickled; build another from its ids.")

    def __len__(self) -> int:
        return self._lib.recsys_vocab_size(self._map)

    def add(self, ids: pa.Array, counts: np.ndarray | None = None) -> None:
        """Counts ids; new ones are appended.

        Args:
            ids: string or int64 array.
            counts: How often each came (int64); None means once.

        Raises:
            MemoryError: The map cannot grow.
        """
        pointer = None if counts is None else counts.ctypes.data
        code = self._lib.recsys_vocab_add(self._map, self._column(ids), pointer)
        if code:
            raise MemoryError(f"counting ids failed: {_ERRORS[code]}.")

    def lookup(self, ids: pa.Array, first: int, unknown: int) -> np.ndarray:
        """Position of every id plus ``first``, or ``unknown``.

        Args:
            ids: string or int64 array.
            first: Code of the first id.
            unknown: Code of ids that are not here.

        Returns:
            int32 codes.
        """
        codes = np.empty(len(ids), np.int32)
        self._lib.recsys_vocab_lookup(
            self._map, self._column(ids), first, unknown, codes.ctypes.data
        )
        return codes

    def ordered(self, min_count: int, limit: int | None) -> tuple[pa.Array, np.ndarray]:
        """Ids by falling count, ties by id (bytes), null first among its ties.

        Args:
            min_count: Leaves out rarer ids.
            limit: Keeps so many.

        Returns:
            The ids and their counts.
        """
        order = np.empty(len(self), np.int32)
        kept = self._lib.recsys_vocab_order(self._map, min_count, order.ctypes.data)
        if kept < 0:
            raise MemoryError("sorting ids failed: out of memory.")
        order = np.ascontiguousarray(order[: kept if limit is None else min(kept, limit)])
        size = len(order)
        counts = np.empty(size, np.int64)
        nulls = order == self._lib.recsys_vocab_null(self._map)
        validity = None
        if nulls.any():
            validity = pa.py_buffer(np.packbits(~nulls, bitorder="little"))
        if not self.is_text:
            ints = np.empty(size, np.int64)
            self._export(order, counts, ints=ints)
            return pa.Array.from_buffers(pa.int64(), size, [validity, pa.py_buffer(ints)]), counts
        total = self._lib.recsys_vocab_text_bytes(self._map, order.ctypes.data, size)
        offsets, text = np.empty(size + 1, np.int64), np.empty(total, np.uint8)
        self._export(order, counts, offsets=offsets, text=text)
        if total < 1 << 31:
            kind, offsets = pa.string(), offsets.astype(np.int32)
        else:
            kind = pa.large_string()
        buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(text)]
        return pa.Array.from_buffers(kind, size, buffers), counts

    def _export(
        self,
        order: np.ndarray,
        counts: np.ndarray,
        ints: np.ndarray | None = None,
        offsets: np.ndarray | None = None,
        text: np.ndarray | None = None,
    ) -> None:
        pointers = [None if a is None else a.ctypes.data for a in (counts, ints, offsets, text)]
        self._lib.recsys_vocab_export(self._map, order.ctypes.data, len(order), *pointers)

    def _column(self, ids: pa.Array) -> ctypes.Array[Any] | Any:
        expected = pa.string() if self.is_text else pa.int64()
        if ids.type != expected:
            raise TypeError(f"ids must be {expected}, got {ids.type}.")
        buffers = ids.buffers()
        addresses = [None if b is None else b.address for b in buffers]
        if self.is_text:
            column = _Column(addresses[0], addresses[1], addresses[2], None, ids.offset, len(ids))
        else:
            column = _Column(addresses[0], None, None, addresses[1], ids.offset, len(ids))
        return ctypes.byref(column)
