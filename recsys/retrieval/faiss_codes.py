"""The one door to faiss: its indexes find candidates where scanning all rows takes too long.

faiss finds; filters, exclusions, updates and exact scores stay ours. It is asked for more than is
wanted, what a query may not find is dropped, and a list that comes out short is searched exactly:
faiss's own filters lose most of a list where the filter is against the query.

Stability: experimental
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.errors import CheckpointError, ConfigError, DataError
from recsys.retrieval.codes import Codes, take_state
from recsys.retrieval.rows import Rows
from recsys.retrieval.scan import Hidden, scan

_SLACK = 16
_FEW = 4096  # asked for at most, or a quarter of the rows; beyond that an exact scan is as quick


def available() -> bool:
    """Whether faiss is installed.

    Example:
        >>> available() in (True, False)
        True
    """
    return importlib.util.find_spec("faiss") is not None


class FaissCodes(Codes):
    """An index of faiss over the items, from its own description.

    - ``HNSW32``: a graph, the quickest for unfiltered lists; floats in memory, twice over.
    - ``IVF1024,Flat``: 1,024 cells, of which ``nprobe`` are looked through.
    - ``IVF1024,SQ8``, ``OPQ16,IVF1024,PQ16x4fs``: the same with codes.
    - ``SQ8``, ``PQ16``, ``RR64,RaBitQ``: codes that are all looked through.

    Items that are added later are scanned as floats until the index is built anew; deleted ones are
    dropped from what faiss finds.

    Args:
        factory: Description, as for ``faiss.index_factory``; the metric is the inner product.
        search: Parameters, as for ``faiss.ParameterSpace``: ``nprobe=16``, ``efSearch=128``.

    Raises:
        ConfigError: faiss is not installed, or the description is empty.

    Example:
        >>> if available():
        ...     codes = FaissCodes("HNSW16", search="efSearch=64")
        ...     print(codes.name)
        ... else:
        ...     print("faiss HNSW16 efSearch=64")
        faiss HNSW16 efSearch=64
    """

    kind = "faiss"
    sees_all = False

    def __init__(self, factory: str = "HNSW32", search: str = "") -> None:
        if not factory:
            raise ConfigError("`factory` must describe an index of faiss, say HNSW32.")
        self.factory, self.search = factory, search
        self._faiss = _load()
        self._index: Any = None
        self._bytes = 0
        self._cache: tuple[Rows, Tensor] | None = None

    @property
    def name(self) -> str:
        """``faiss HNSW32``, ..."""
        return f"faiss {self.factory} {self.search}".strip()

    def options(self) -> dict[str, int | float | bool | str | None]:
        """See `Codes`."""
        return {"factory": self.factory, "search": self.search}

    def fit(self, vectors: Tensor) -> None:
        """See `Codes`: trains and fills the index.

        Args:
            vectors: Float vectors, (N, D).

        Raises:
            ConfigError: faiss does not know the description or the parameters.
            DataError: faiss cannot be trained on these vectors.
        """
        metric = self._faiss.METRIC_INNER_PRODUCT
        try:
            index = self._faiss.index_factory(vectors.shape[1], self.factory, metric)
        except RuntimeError as error:
            raise ConfigError(
                f"faiss does not take `factory` {self.factory!r} for vectors of "
                f"{vectors.shape[1]} values: {_first_line(error)}."
            ) from None
        table = np.ascontiguousarray(vectors.numpy())
        try:
            index.train(table)
            index.add(table)
        except RuntimeError as error:
            raise DataError(
                f"faiss cannot build {self.factory!r} from {len(table):,} vectors: "
                f"{_first_line(error)}."
            ) from None
        self._take(index)

    def _take(self, index: Any) -> None:
        if self.search:
            try:
                self._faiss.ParameterSpace().set_index_parameters(index, self.search)
            except RuntimeError as error:
                raise ConfigError(
                    f"faiss does not take `search` {self.search!r} for {self.factory!r}: "
                    f"{_first_line(error)}."
                ) from None
        self._index = index
        self._bytes = len(self._faiss.serialize_index(index))
        self._cache = None

    def build(self, vectors: Tensor) -> dict[str, Tensor]:
        """See `Codes`: the part is the number that faiss knows a row by."""
        self.fit(vectors)
        return {"number": torch.arange(len(vectors), dtype=torch.int32)}

    def encode(self, vectors: Tensor) -> dict[str, Tensor]:
        """See `Codes`: -1, faiss does not know later rows."""
        return {"number": torch.full((len(vectors),), -1, dtype=torch.int32)}

    def row_bytes(self, parts: Mapping[str, Rows]) -> int:
        """See `Codes`: of the index as a file, without the number."""
        return round(self._bytes / max(1, self._index.ntotal))

    def best(
        self,
        queries: Tensor,
        parts: Mapping[str, Rows],
        table: Rows,
        count: int,
        masks: Sequence[tuple[Tensor, Tensor]],
        hidden: Hidden | None,
    ) -> tuple[Tensor, Tensor]:
        """See `Codes`. A list may come out short, then with ``-inf`` at its end."""
        rows_of, known = self._rows(parts["number"])
        values = torch.full((len(queries), count), -torch.inf)
        rows = torch.zeros((len(queries), count), dtype=torch.int64)
        drops = torch.zeros(len(queries), dtype=torch.int64)
        if hidden is not None:
            drops = torch.bincount(hidden.queries, minlength=len(queries))
        for part, mask in _groups(len(queries), masks):
            allowed = None if mask is None else mask[rows_of.clamp(min=0)] & (rows_of >= 0)
            live = int((rows_of >= 0).sum() if allowed is None else allowed.sum())
            wanted = self._asked(count, live, int(drops[part].max()))
            if not wanted:
                continue
            found, numbers = self._index.search(np.ascontiguousarray(queries[part]), wanted)
            number = torch.from_numpy(numbers)
            score = torch.from_numpy(found).masked_fill(number < 0, -torch.inf)
            number.clamp_(min=0)
            row = rows_of[number]
            good = row >= 0 if allowed is None else allowed[number]
            score = score.masked_fill(~good | _is_hidden(part, row, hidden, table), -torch.inf)
            score, order = score.sort(dim=1, descending=True, stable=True)
            size = min(count, wanted)
            values[part, :size] = score[:, :size]
            rows[part, :size] = row.gather(1, order)[:, :size].clamp_(min=0)
        if known < len(table):
            return _with_later(queries, values, rows, table, known, masks, hidden)
        return values, rows

    def alone(self, query: np.ndarray, k: int) -> np.ndarray:
        """What faiss finds by itself, to compare with: no filters, no rescoring, -1 where nothing.

        Args:
            query: (D,) float32.
            k: Items wanted.

        Returns:
            Numbers of rows, (k,).
        """
        return self._index.search(np.ascontiguousarray(query[None]), k)[1][0]

    def _rows(self, numbers: Rows) -> tuple[Tensor, int]:
        """Row of every number of faiss, -1 where it is gone, and how many rows faiss knows."""
        cache = self._cache
        if cache is None or cache[0] is not numbers:
            number = numbers.block(0, len(numbers)).long()
            there = number >= 0
            rows_of = torch.full((self._index.ntotal,), -1, dtype=torch.int64)
            rows_of[number[there]] = there.nonzero()[:, 0]
            self._cache = cache = (numbers, rows_of)
        return cache[1], int((cache[1] >= 0).sum())

    def _asked(self, count: int, live: int, drops: int) -> int:
        """How many to ask faiss for, so that about ``count`` are left; 0 for not to ask."""
        total = self._index.ntotal
        if not live:
            return 0
        wanted = min(total, math.ceil((count + drops) * total / live) + _SLACK)
        return 0 if wanted > max(_FEW, total // 4) else wanted

    def state(self) -> dict[str, Tensor]:
        """See `Codes`: the index as faiss writes it."""
        return {"index": torch.from_numpy(self._faiss.serialize_index(self._index))}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Codes`.

        Args:
            state: From `state`.

        Raises:
            CheckpointError: faiss cannot read it.
        """
        (stored,) = take_state(state, {"index": 1})
        try:
            index = self._faiss.deserialize_index(stored.numpy())
        except RuntimeError as error:
            raise CheckpointError(
                f"faiss {self._faiss.__version__} cannot read the index: {_first_line(error)}."
            ) from None
        self._take(index)


def _load() -> Any:
    if not available():
        raise ConfigError(
            "codes of faiss need the package faiss-cpu, which is not installed. Install it with "
            "pip install 'recsys[ann]', or take codes of recsys.retrieval, which need nothing."
        )
    return importlib.import_module("faiss")


def _first_line(error: Exception) -> str:
    """What faiss says, without the place in its source."""
    return str(error).strip().splitlines()[0].rpartition("Error: ")[2].rstrip(".")


def _groups(
    size: int, masks: Sequence[tuple[Tensor, Tensor]]
) -> list[tuple[Tensor, Tensor | None]]:
    """Queries of one mask each, and those of none."""
    free = torch.ones(size, dtype=torch.bool)
    for queries, _ in masks:
        free[queries] = False
    found: list[tuple[Tensor, Tensor | None]] = [*masks]
    if bool(free.any()):
        found.append((free.nonzero()[:, 0], None))
    return found


def _is_hidden(queries: Tensor, rows: Tensor, hidden: Hidden | None, table: Rows) -> Tensor:
    """Which of the rows that queries found they must not find, (B, n)."""
    if hidden is None or not len(hidden.rows):
        return torch.zeros_like(rows, dtype=torch.bool)
    size = len(table)
    return torch.isin(queries[:, None] * size + rows, hidden.queries * size + hidden.rows)


def _with_later(
    queries: Tensor,
    values: Tensor,
    rows: Tensor,
    table: Rows,
    known: int,
    masks: Sequence[tuple[Tensor, Tensor]],
    hidden: Hidden | None,
) -> tuple[Tensor, Tensor]:
    """With the rows behind those that faiss knows, scanned."""
    later = torch.arange(known, len(table))
    more, places = scan(
        lambda a, b: queries @ table.block(known + a, known + b).T,
        len(later),
        min(values.shape[1], len(later)),
        [(part, mask[known:]) for part, mask in masks],
        None if hidden is None else hidden.among(later),
    )
    both = torch.cat([values, more], 1)
    rows = torch.cat([rows, later[places]], 1)
    best, order = both.sort(dim=1, descending=True, stable=True)
    count = values.shape[1]
    return best[:, :count], rows.gather(1, order)[:, :count]
