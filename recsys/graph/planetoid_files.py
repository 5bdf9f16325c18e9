"""The files of Planetoid's citation graphs, read without running anything that is in them.

``ind.<name>.x``, ``.tx``, ``.allx``, ``.y``, ``.ty``, ``.ally`` and ``.graph`` are pickles of
Python 2, and a pickle may name any function to call. Here it may name a few things, and no function
of numpy, scipy or Python: what stands for those are plain holders of this file, which take what the
pickle says and are checked afterwards. Any other name ends the reading.

Stability: internal
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from scipy.sparse import csr_array

from recsys.errors import DataError


class _Dtype:
    """Stands for ``numpy.dtype``: one letter and one size."""

    def __init__(self, code: str = "", *rest: Any) -> None:
        del rest
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">", "|") else "<"

    def found(self) -> np.dtype[Any]:
        """The dtype, where it is one of numbers."""
        if not (isinstance(self.code, str) and re.fullmatch(r"[fiu][1248]", self.code)):
            raise ValueError(f"an array of {self.code!r}, expected one of numbers")
        return np.dtype(self.order.replace("|", "<") + self.code)


class _Array:
    """Stands for ``numpy.ndarray``: a shape, a dtype and bytes."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def found(self) -> np.ndarray:
        """The array."""
        _, shape, dtype, fortran, data = self.state
        numbers = dtype.found()
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
        order = "F" if fortran else "C"
        return np.frombuffer(raw, numbers).reshape(shape, order=order).copy()


class _Matrix:
    """Stands for ``scipy.sparse.csr_matrix``: its attributes."""

    def found(self) -> csr_array:
        """The matrix, checked."""
        data, indices, indptr = (
            self.__dict__[name].found() for name in ("data", "indices", "indptr")
        )
        shape = tuple(int(size) for size in self.__dict__["_shape"])
        matrix = csr_array((data.astype(np.float32), indices, indptr), shape=shape)
        matrix.check_format(full_check=True)
        return matrix


class _Lists(dict):
    """Stands for ``collections.defaultdict``, whose factory is not called."""

    def __init__(self, *factory: Any) -> None:
        del factory
        super().__init__()


def _reconstruct_array(*arguments: Any) -> _Array:
    del arguments
    return _Array()


def _reconstruct(cls: Any, *arguments: Any) -> _Matrix:
    del arguments
    if cls is not _Matrix:
        raise ValueError("an object that is no sparse matrix")
    return _Matrix()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise ValueError(f"text in {encoding}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("copy_reg", "_reconstructor"): _reconstruct,
    ("copyreg", "_reconstructor"): _reconstruct,
    ("scipy.sparse.csr", "csr_matrix"): _Matrix,
    ("scipy.sparse._csr", "csr_matrix"): _Matrix,
    ("collections", "defaultdict"): _Lists,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct_array,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct_array,
    ("_codecs", "encode"): _encode,
    **{(module, name): kind for module in ("__builtin__", "builtins")
       for name, kind in (("object", object), ("list", list))},
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """Knows the names above and no other."""

    def find_class(self, module: str, name: str) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"it names the persistent object {pid!r}")


def _read(path: Path) -> Any:
    """The content of a pickle, as holders."""
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except Exception as error:  # noqa: BLE001, an unpickler fails on bad bytes in every way
        raise DataError(
            f"expected a pickle of Planetoid, got something else: {error}. Fetch it anew.",
            file=str(path),
        ) from None


def read_matrix(path: Path) -> csr_array:
    """A sparse matrix: the features of some nodes.

    Args:
        path: ``ind.<name>.x``, ``.tx`` or ``.allx``.

    Raises:
        DataError: It is no such pickle, names anything else, or is no valid matrix.
    """
    return _found(path, _Matrix)


def read_array(path: Path) -> np.ndarray:
    """An array: the classes of some nodes, one column each.

    Args:
        path: ``ind.<name>.y``, ``.ty`` or ``.ally``.

    Raises:
        DataError: As `read_matrix`.
    """
    return _found(path, _Array)


def _found(path: Path, kind: type[_Matrix] | type[_Array]) -> Any:
    holder = _read(path)
    try:
        if not isinstance(holder, kind):
            raise ValueError(f"a {type(holder).__name__.strip('_')}")
        return holder.found()
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(
            f"expected a whole array of numbers, got {error}.", file=str(path)
        ) from None


def read_graph(path: Path) -> np.ndarray:
    """The neighbours of every node as edges, (2, E) int64.

    Args:
        path: ``ind.<name>.graph``.

    Raises:
        DataError: As `read_matrix`.
    """
    found = _read(path)
    if not isinstance(found, Mapping) or not all(
        isinstance(node, int) and isinstance(others, list) and set(map(type, others)) <= {int}
        for node, others in found.items()
    ):
        raise DataError("expected lists of neighbours by node.", file=str(path))
    ends = [(node, other) for node, others in found.items() for other in others]
    return np.array(ends, np.int64).reshape(-1, 2).T
