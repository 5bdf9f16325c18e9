"""The compiled lookup and update of local tables, through ctypes.

``recsys/embeddings/kernels.c`` is built when the package is installed, where there is a C
compiler. Without it plain torch operations give the same results, slower.

Stability: internal
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys import native
from recsys.embeddings.ids import Ids
from recsys.errors import SchemaError

if TYPE_CHECKING:
    from recsys.embeddings.packed_store import PackedStore
    from recsys.embeddings.sparse import RowGradients
    from recsys.embeddings.store import LocalStore

logger = logging.getLogger(__name__)

_ABI = 3
STORED = {"fp32": 0, "fp16": 1, "int8": 2, "int4": 3, "int2": 4}
KINDS = {"sgd": 0, "adagrad": 1, "rowwise_adagrad": 2, "adam": 3}

# The structs of kernels.c. Pointers are 64-bit integers.
_LOOKUP = np.dtype(
    [
        (n, np.int64)
        for n in ("weight", "out", "stride", "start", "end", "lengths", "dim", "mean", "kind")
    ]
)
_SEGMENT = np.dtype(
    [(n, np.int64) for n in ("values", "lengths", "weights", "grad", "stride", "batch", "mean")]
)
_TABLE = np.dtype(
    [
        (n, np.int64)
        for n in ("weight", "state0", "state1", "rows", "dim", "count", "first", "segments")
    ]
)
_RULE = np.dtype(
    [("kind", np.int64)] + [(n, np.float64) for n in ("rate", "eps", "beta1", "beta2")]
)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None (the reason is logged once)."""
    otherwise = "embedding tables use plain torch operations, about 3x slower"
    found = native.load("recsys.embeddings._kernels", _ABI, logger, otherwise)
    if found is not None:
        found.recsys_out_of_range.restype = ctypes.c_int64
        found.recsys_pooled.restype = ctypes.c_int64
        found.recsys_hash.restype = None
    return found


def fit(*tensors: Tensor) -> bool:
    """Whether the kernels can work on these: CPU float32."""
    cpu = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
    return cpu and library() is not None


def _pointer(tensor: Tensor | NDArray[Any] | None) -> ctypes.c_void_p:
    if tensor is None:
        return ctypes.c_void_p(None)
    if isinstance(tensor, Tensor):
        return ctypes.c_void_p(tensor.data_ptr())
    return ctypes.c_void_p(tensor.ctypes.data)


def _shares(costs: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Splits items over torch's threads, each the next to the least loaded, largest first.

    Items never share memory that is written, so results do not depend on the split.
    """
    threads = min(torch.get_num_threads(), len(costs))
    if threads == 1 or costs.sum() < native.WORTH_A_THREAD:
        return [np.arange(len(costs))]
    loads, shares = [0] * threads, [[] for _ in range(threads)]
    for item in np.argsort(-costs, kind="stable"):
        least = loads.index(min(loads))
        loads[least] += int(costs[item])
        shares[least].append(item)
    return [np.array(sorted(share), dtype=np.int64) for share in shares if share]


def _run(calls: Sequence[functools.partial[Any]]) -> list[Any]:
    if len(calls) == 1:
        return [calls[0]()]
    return [
        future.result() for future in [native.threads(len(calls)).submit(call) for call in calls]
    ]


def plain_ids(ids: Ids) -> Ids:
    """The same indices as contiguous int32 (float32 for weights), as the kernels read them."""
    weights = ids.weights
    return Ids(
        ids.values.to(torch.int32).contiguous(),
        ids.lengths.to(torch.int32).contiguous(),
        ids.num_slots,
        ids.counts,
        None if weights is None else weights.detach().to(torch.float32).contiguous(),
    )


def out_of_range(values: Tensor, counts: Sequence[int], limits: Sequence[int]) -> int:
    """Position of the first value outside its slot's limit, or -1.

    Args:
        values: Contiguous int32 on the CPU.
        counts: Number of values of every slot.
        limits: Rows of every slot's table.
    """
    found = library()
    assert found is not None
    ends = np.cumsum(np.array(counts, dtype=np.int64))
    bounds = np.array(limits, dtype=np.int64)
    return found.recsys_out_of_range(
        _pointer(values), _pointer(ends), _pointer(bounds), ctypes.c_int64(len(ends))
    )


def hashed(values: Tensor, salts: Tensor, buckets: NDArray[np.int64]) -> Tensor | None:
    """Rows of several hash functions, or None where only plain torch operations will do.

    Args:
        values: Indices (L,).
        salts: int64 (K,).
        buckets: Rows that each hashes to (K,).

    Returns:
        (K, L) int32, as `recsys.embeddings.compression.hashing` defines them.
    """
    plain = values.device.type == salts.device.type == "cpu" and values.dtype == torch.int32
    found = library() if plain else None
    if found is None:
        return None
    values = values.contiguous()
    out = torch.empty(len(buckets), values.shape[0], dtype=torch.int32)
    found.recsys_hash(
        _pointer(values),
        ctypes.c_int64(values.shape[0]),
        _pointer(salts),
        _pointer(buckets),
        ctypes.c_int64(len(buckets)),
        _pointer(out),
    )
    return out


class Layout:
    """The parts of the structs that stay the same from batch to batch.

    Args:
        store: Whose tables.
        flat_of: Which of the store's flat tensors holds each table.
        row_bytes: Of each table.
        stored: Number of each table's dtype, see `STORED`.
    """

    def __init__(
        self,
        store: LocalStore | PackedStore,
        flat_of: Sequence[int],
        row_bytes: Sequence[int],
        stored: Sequence[int],
    ) -> None:
        specs = [table.spec for table in store.tables]
        self.rows = np.array([spec.num_embeddings for spec in specs], dtype=np.int64)
        self.dims = np.array([spec.embedding_dim for spec in specs], dtype=np.int64)
        self.flat_of = np.array(flat_of, dtype=np.int64)
        self.row_bytes = np.array(row_bytes, dtype=np.int64)
        self.stored = np.array(stored, dtype=np.int64)
        self.first_row = np.array(store.first_row, dtype=np.int64)
        self.widths = dict.fromkeys(store.by_group, 0)
        columns = []
        for lookup in store.lookups:
            columns.append(self.widths[lookup.group])
            self.widths[lookup.group] += store.dim(lookup)
        lookups = store.lookups
        names = list(store.by_group)
        self.slot = np.array([lookup.slot for lookup in lookups], dtype=np.int64)
        self.table = np.array([lookup.table for lookup in lookups], dtype=np.int64)
        self.mean = np.array([lookup.mean for lookup in lookups], dtype=np.int64)
        self.column = np.array(columns, dtype=np.int64)
        self.group = np.array([names.index(lookup.group) for lookup in lookups], dtype=np.int64)

    def weights(self, flats: Sequence[Tensor]) -> NDArray[np.int64]:
        """Address of every table's first row, now."""
        bases = np.array([flat.data_ptr() for flat in flats], dtype=np.int64)
        return bases[self.flat_of] + self.row_bytes * self.first_row


def layout_of(store: LocalStore) -> Layout:
    """Of a store with one flat float32 tensor a width."""
    dims = [table.spec.embedding_dim for table in store.tables]
    return Layout(
        store, [store.dims.index(dim) for dim in dims], [4 * dim for dim in dims], [0] * len(dims)
    )


def _ends(ids: Ids) -> NDArray[np.int64]:
    return np.cumsum(np.array(ids.counts, dtype=np.int64))


def pooled(
    store: LocalStore | PackedStore, flats: Sequence[Tensor], layout: Layout, ids: Ids
) -> dict[str, Tensor]:
    """Pooled lookup of all groups.

    Args:
        store: On the CPU.
        flats: Its flat tensors.
        layout: Of that store.
        ids: From `plain_ids`, checked.

    Raises:
        SchemaError: Lengths and counts contradict each other.
    """
    size = ids.batch_size
    outputs = {group: torch.empty(size, width) for group, width in layout.widths.items()}
    bases = np.array([out.data_ptr() for out in outputs.values()], dtype=np.int64)
    ends = _ends(ids)
    counts = np.array(ids.counts, dtype=np.int64)
    lookups = np.zeros(len(store.lookups), dtype=_LOOKUP)
    lookups["weight"] = layout.weights(flats)[layout.table]
    lookups["out"] = bases[layout.group] + 4 * layout.column
    lookups["stride"] = np.array(list(layout.widths.values()), dtype=np.int64)[layout.group]
    lookups["end"] = ends[layout.slot]
    lookups["start"] = lookups["end"] - counts[layout.slot]
    lookups["lengths"] = ids.lengths.data_ptr() + 4 * size * layout.slot
    lookups["dim"] = layout.dims[layout.table]
    lookups["mean"] = layout.mean
    lookups["kind"] = layout.stored[layout.table]
    shares = [lookups[share] for share in _shares(counts[layout.slot] * lookups["dim"])]
    calls = [functools.partial(_pool, share, ids.values, ids.weights, size) for share in shares]
    if max(_run(calls)) >= 0:
        raise SchemaError(
            "the batch contradicts itself: its `lengths` do not add up to `value_counts`. "
            "Make batches with BatchLoader or FeatureEncoder.batch."
        )
    return outputs


def _pool(lookups: NDArray[Any], values: Tensor, weights: Tensor | None, batch: int) -> int:
    """Some lookups on this thread."""
    found = library()
    assert found is not None
    positions = np.empty(len(lookups), dtype=np.int64)
    return found.recsys_pooled(
        _pointer(lookups),
        ctypes.c_int64(len(lookups)),
        _pointer(values),
        _pointer(weights),
        ctypes.c_int64(batch),
        _pointer(positions),
    )


def unpooled(flats: Sequence[Tensor], layout: Layout, table: int, values: Tensor) -> Tensor:
    """Rows of one table, one an index.

    Args:
        flats: The store's flat tensors, on the CPU.
        layout: Of that store.
        table: Position in the store's tables.
        values: Checked indices (L,).

    Returns:
        (L, D) float32; zeros for PAD.
    """
    values, dim = values.to(torch.int32).contiguous(), int(layout.dims[table])
    out = torch.empty(values.shape[0], dim)
    total = values.shape[0]
    threads = torch.get_num_threads() if total * dim >= 1 << 18 else 1
    calls = []
    for part in range(threads):
        start, end = total * part // threads, total * (part + 1) // threads
        lookup = np.zeros(1, dtype=_LOOKUP)
        lookup["weight"] = layout.weights(flats)[table]
        lookup["out"] = out.data_ptr() + 4 * dim * start
        lookup["stride"] = lookup["dim"] = dim
        lookup["start"], lookup["end"] = start, end
        lookup["kind"] = layout.stored[table]
        calls.append(functools.partial(_pool, lookup, values, None, end - start))
    _run(calls)
    return out


class Updater:
    """Applies row gradients to tables and their optimizer states, in place.

    Args:
        store: CPU float32 tables.
        states: Flat state tensors of every width, in the kernel's order.
    """

    def __init__(self, store: LocalStore, states: dict[int, list[Tensor]]) -> None:
        self._store, self._states, self._layout = store, states, layout_of(store)
        self._workspaces: dict[int, Tensor] = {}

    def _segments(
        self, kept: RowGradients, ids: Ids
    ) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
        lookups = kept.lookups
        tables = np.array([lookup.table for lookup in lookups], dtype=np.int64)
        slots = np.array([lookup.slot for lookup in lookups], dtype=np.int64)
        dims = self._layout.dims[tables]
        counts = np.array(ids.counts, dtype=np.int64)
        starts = (_ends(ids) - counts)[slots]
        segments = np.zeros(len(lookups), dtype=_SEGMENT)
        segments["values"] = ids.values.data_ptr() + 4 * starts
        segments["lengths"] = ids.lengths.data_ptr() + 4 * ids.batch_size * slots
        if ids.weights is not None:
            segments["weights"] = ids.weights.data_ptr() + 4 * starts
        segments["grad"] = kept.grad.data_ptr() + 4 * (np.cumsum(dims) - dims)
        segments["stride"] = kept.grad.shape[1]
        segments["batch"] = ids.batch_size
        segments["mean"] = [lookup.mean for lookup in lookups]
        return segments, tables, counts[slots]

    def _tables(self, order: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[Any]:
        """One struct a table that has segments. ``order`` is sorted."""
        layout, store = self._layout, self._store
        used, first, number = np.unique(order, return_index=True, return_counts=True)
        tables = np.zeros(len(used), dtype=_TABLE)
        flats = [store.flat(dim) for dim in store.dims]
        tables["weight"] = layout.weights(flats)[used]
        tables["rows"], tables["dim"] = layout.rows[used], layout.dims[used]
        tables["count"] = np.add.reduceat(counts, first)
        tables["first"], tables["segments"] = first, number
        for position, name in enumerate(("state0", "state1")):
            states = [self._states[dim][position : position + 1] for dim in store.dims]
            if states[0]:
                bases = np.array([state[0].data_ptr() for state in states], dtype=np.int64)
                widths = layout.dims[used] if states[0][0].ndim == 2 else 1
                rows = layout.first_row[used]
                tables[name] = bases[layout.flat_of[used]] + 4 * rows * widths
        return tables

    def update(self, pending: Sequence[RowGradients], rule: Sequence[float]) -> None:
        """One step.

        Args:
            pending: What backward left; duplicates are summed over all of it.
            rule: Kind, learning rate, eps, beta1, beta2.
        """
        if not pending:
            return
        found = library()
        assert found is not None
        all_ids = [plain_ids(kept.ids) for kept in pending]  # alive until the calls are done
        parts = [self._segments(kept, ids) for kept, ids in zip(pending, all_ids)]
        segments, owners, counts = (np.concatenate(column) for column in zip(*parts))
        order = np.argsort(owners, kind="stable")
        segments, owners, counts = segments[order], owners[order], counts[order]
        tables = self._tables(owners, counts)
        words = (5 + tables["dim"]) * tables["count"] + 16
        rules = np.array([tuple(rule)], dtype=_RULE)
        calls = []
        shares = [tables[share] for share in _shares(words)]
        for thread, share in enumerate(shares):
            need = int(((5 + share["dim"]) * share["count"]).max()) + 16
            calls.append(
                functools.partial(
                    found.recsys_update,
                    _pointer(share),
                    ctypes.c_int64(len(share)),
                    _pointer(segments),
                    _pointer(rules),
                    _pointer(self._workspace(thread, need)),
                )
            )
        _run(calls)

    def _workspace(self, thread: int, words: int) -> Tensor:
        held = self._workspaces.get(thread)
        if held is None or held.numel() < words:
            held = self._workspaces[thread] = torch.empty(words, dtype=torch.int32)
        return held
