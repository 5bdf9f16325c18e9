"""Which rows a query may find: Arrow expressions, masks, lists of ids; for all queries or for each.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.errors import DataError, did_you_mean
from recsys.retrieval.item_ids import as_ids, plain, same_kind
from recsys.retrieval.scan import Hidden

_POSITION = "__position"


class Allowed:
    """The rows that a filter allows, as rising positions or as a mask, whichever was at hand.

    Args:
        num_rows: N.
        rows: Rising positions.
        mask: Or which rows; neither means all.
    """

    __slots__ = ("_mask", "_rows", "count", "num_rows")

    def __init__(
        self, num_rows: int, rows: Tensor | None = None, mask: Tensor | None = None
    ) -> None:
        self.num_rows, self._rows, self._mask = num_rows, rows, mask
        if rows is not None:
            self.count = len(rows)
        else:
            self.count = num_rows if mask is None else int(mask.sum())

    @property
    def everything(self) -> bool:
        """Whether it allows all rows."""
        return self.count == self.num_rows

    def rows(self) -> Tensor:
        """Rising positions."""
        if self._rows is not None:
            return self._rows
        return torch.arange(self.num_rows) if self._mask is None else self._mask.nonzero()[:, 0]

    def mask(self) -> Tensor:
        """Which rows, (N,) bool."""
        if self._mask is not None:
            return self._mask
        mask = torch.zeros(self.num_rows, dtype=torch.bool)
        mask[slice(None) if self._rows is None else self._rows] = True
        return mask

    def within(self, mask: Tensor) -> Allowed:
        """The rows that a mask allows too, say that of the items that are not deleted.

        Args:
            mask: (N,) bool.
        """
        if self._rows is not None:
            return Allowed(self.num_rows, rows=self._rows[mask[self._rows]])
        return Allowed(self.num_rows, mask=mask if self._mask is None else self._mask & mask)


class AllOf:
    """Several filters of one query, all of which must hold.

    Args:
        filters: Arrow expressions, masks or lists of ids.

    Example:
        >>> from recsys.retrieval.index import Index
        >>> meta = pa.table({"price": [3, 9, 4]})
        >>> index = Index([[1, 0], [2, 0], [0, 3]], ["a", "b", "c"], meta)
        >>> cheap = AllOf(pc.field("price") < 5, ["b", "c"])
        >>> index.search([1.0, 0.5], k=3, where=cheap).ids.tolist()
        ['c']
    """

    __slots__ = ("filters",)

    def __init__(self, *filters: Any) -> None:
        self.filters = filters


class Items(NamedTuple):
    """What filters are about."""

    ids: NDArray
    """Of every row, those of deleted items too."""
    positions: Mapping[Any, int]
    """Row of every id that is not deleted."""
    alive: Tensor | None
    """Which rows are not deleted; None means all."""
    meta: pa.Table | None
    """A row for every row."""


def allowed_rows(where: Any, num_queries: int, items: Items, unknown: str) -> list[Allowed]:
    """What every query may find; queries with the same filter share the object.

    Args:
        where: See `recsys.retrieval.index.Index.search`.
        num_queries: B.
        items: Of the index.
        unknown: ``error`` or ``ignore``, for ids in ``where`` that the index does not have.

    Raises:
        DataError: A filter makes no sense for this index.
    """
    filters = _each(where, num_queries, "where")
    made: dict[int, Allowed] = {}
    for one in filters:
        if id(one) not in made:
            made[id(one)] = _allowed(one, items, unknown)
    return [made[id(one)] for one in filters]


def hidden_rows(exclude: Any, num_queries: int, items: Items) -> Hidden | None:
    """The rows of excluded ids. Ids that the index does not have are no error.

    Args:
        exclude: See `recsys.retrieval.index.Index.search`.
        num_queries: B.
        items: Of the index.

    Raises:
        DataError: They are not ids, or of another kind than those of the index.
    """
    if exclude is None:
        return None
    lists = _each(exclude, num_queries, "exclude")
    found: dict[int, list[int]] = {}
    for one in lists:
        if one is not None and id(one) not in found:
            ids = as_ids(one, "exclude")
            same_kind(items.ids, ids, "exclude")
            rows = (items.positions.get(value, -1) for value in ids.tolist())
            found[id(one)] = sorted({row for row in rows if row >= 0})
    rows = [found.get(id(one), []) for one in lists]
    counts = torch.tensor([len(part) for part in rows])
    flat = torch.tensor([row for part in rows for row in part], dtype=torch.int64)
    return Hidden.of(torch.repeat_interleave(torch.arange(num_queries), counts), flat)


def _each(given: Any, num_queries: int, name: str) -> list[Any]:
    """One filter a query, from one for all or one for each."""
    given = plain(given)
    if isinstance(given, np.ndarray) and given.ndim == 2:
        given = list(given)
    elif not isinstance(given, list | tuple) or not any(_is_filter(one) for one in given):
        return [given] * num_queries
    if len(given) != num_queries:
        raise DataError(
            f"`{name}` has a filter for each of {len(given):,} queries, but there are "
            f"{num_queries:,}. Give one for each (None for none), or one for all."
        )
    return list(given)


def _is_filter(one: Any) -> bool:
    """Whether an element of a list is a filter of its own, not an id or a truth value."""
    kinds = (
        AllOf, pc.Expression, Sequence, AbstractSet, np.ndarray, Tensor, pa.Array, pa.ChunkedArray,
    )  # fmt: skip
    return one is None or (isinstance(one, kinds) and not isinstance(one, str | bytes))


def _allowed(where: Any, items: Items, unknown: str) -> Allowed:
    num_rows = len(items.ids)
    where = plain(where)
    if isinstance(where, AllOf):
        found = Allowed(num_rows, mask=items.alive)
        for one in where.filters:
            found = _allowed(one, items, unknown).within(found.mask())
        return found
    if where is None:
        found = Allowed(num_rows)
    elif isinstance(where, pc.Expression):
        found = Allowed(num_rows, rows=_matching(where, items.meta))
    elif isinstance(where, str):
        raise DataError(
            f"`where` must be an Arrow expression, a mask or a list of ids, got the text "
            f'{where!r}. Write pc.field("price") < 5 with pyarrow.compute as pc.'
        )
    elif _is_mask(where):
        found = _masked(np.asarray(where, bool), items)
    else:
        return Allowed(num_rows, rows=_rows_of(where, items, unknown))
    return found if items.alive is None else found.within(items.alive)


def _is_mask(where: Any) -> bool:
    if isinstance(where, np.ndarray):
        return where.dtype == bool
    return isinstance(where, list | tuple) and any(
        isinstance(one, bool | np.bool_) for one in where
    )


def _masked(mask: NDArray[np.bool_], items: Items) -> Allowed:
    """A mask over the items that are there, in order; deleted ones have no place in it."""
    num_rows = len(items.ids)
    live = num_rows if items.alive is None else int(items.alive.sum())
    if mask.shape != (live,):
        raise DataError(
            f"a mask in `where` must have a value for each of the {live:,} items of the index, in "
            f"the order of `index.ids`; got shape {mask.shape}."
        )
    if items.alive is None:
        return Allowed(num_rows, mask=torch.from_numpy(mask.copy()))
    rows = items.alive.nonzero()[:, 0]
    return Allowed(num_rows, rows=rows[torch.from_numpy(mask.copy())])


def _matching(where: pc.Expression, meta: pa.Table | None) -> Tensor:
    if meta is None:
        raise DataError(
            f"`where` is an expression, {where}, but the index has no `meta`. Build it with "
            "Index(..., meta=table), a row an item."
        )
    try:
        table = meta.append_column(_POSITION, pa.array(np.arange(len(meta))))
        rows = table.filter(where)[_POSITION].to_numpy()
    except pa.ArrowException as error:
        text = str(error).splitlines()[0]
        hint = ""
        if "FieldRef" in text:
            name = text.partition("FieldRef.Name(")[2].partition(")")[0]
            hint = " " + did_you_mean(name, meta.column_names)
        raise DataError(
            f"the filter {where} does not fit `meta`, which has the columns "
            f"{', '.join(meta.column_names)}: {text}.{hint}"
        ) from None
    return torch.from_numpy(rows.copy())


def _rows_of(where: Any, items: Items, unknown: str) -> Tensor:
    ids = as_ids(where, "where")
    same_kind(items.ids, ids, "where")
    rows = {items.positions.get(value, -1) for value in ids.tolist()}
    if -1 in rows:
        rows.remove(-1)
        if unknown == "error":
            missing = [v for v in ids.tolist() if v not in items.positions]
            raise DataError(
                f"`where` lists {len(missing):,} ids that the index does not have, the first is "
                f'{missing[0]!r}. Leave them out, or pass unknown="ignore".'
            )
    return torch.tensor(sorted(rows), dtype=torch.int64)
