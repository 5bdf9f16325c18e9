"""All rows of an index at one time.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.retrieval.filters import Allowed
from recsys.retrieval.rows import Rows

_CHUNKS = 64


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class State:
    """Rows of items, those of deleted ones too. Never changed: updates give a new one.

    Args:
        vectors: Of every row.
        ids: Of every row.
        alive: Which rows are not deleted; None means all.
        meta: A row for every row.
        prior: Of every row.
        parts: Codes of every row.
    """

    vectors: Rows
    ids: NDArray
    alive: Tensor | None
    meta: pa.Table | None
    prior: Tensor | None
    parts: Mapping[str, Rows]

    @property
    def live(self) -> int:
        """Rows that are not deleted."""
        return len(self.ids) if self.alive is None else int(self.alive.sum())

    def living(self) -> Allowed:
        """The rows that are not deleted."""
        return Allowed(len(self.ids), mask=self.alive)

    def without(self, rows: Sequence[int]) -> State:
        """With some rows marked as deleted.

        Args:
            rows: Their positions.
        """
        if not rows:
            return self
        old = self.alive
        alive = torch.ones(len(self.ids), dtype=torch.bool) if old is None else old.clone()
        alive[list(rows)] = False
        return dataclasses.replace(self, alive=alive)

    def appended(
        self,
        vectors: Tensor,
        ids: NDArray,
        meta: pa.Table | None,
        prior: Tensor | None,
        parts: Mapping[str, Tensor],
    ) -> State:
        """With more rows at the end.

        Args:
            vectors: Of the new rows.
            ids: Of the new rows.
            meta: Of the new rows, where there is any.
            prior: Of the new rows, where there is any.
            parts: Codes of the new rows, where there are any.
        """
        alive = self.alive
        if alive is not None:
            alive = torch.cat([alive, torch.ones(len(ids), dtype=torch.bool)])
        if meta is not None and self.meta is not None:
            joined: pa.Table = pa.concat_tables([self.meta, meta])
            many = joined.num_columns and joined.column(0).num_chunks > _CHUNKS
            meta = joined.combine_chunks() if many else joined
        if prior is not None and self.prior is not None:
            prior = torch.cat([self.prior, prior])
        return State(
            vectors=self.vectors.append(vectors),
            ids=np.concatenate([self.ids, ids]) if len(self.ids) else ids,
            alive=alive,
            meta=meta,
            prior=prior,
            parts={name: rows.append(parts[name]) for name, rows in self.parts.items()},
        )

    def compact(self) -> State:
        """Without the deleted rows."""
        if self.alive is None:
            return self
        rows = self.alive.nonzero()[:, 0]
        return State(
            vectors=Rows(self.vectors.take(rows)),
            ids=self.ids[rows.numpy()],
            alive=None,
            meta=None if self.meta is None else self.meta.take(pa.array(rows.numpy())),
            prior=None if self.prior is None else self.prior[rows],
            parts={name: Rows(part.take(rows)) for name, part in self.parts.items()},
        )
