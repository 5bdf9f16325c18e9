"""Which index a request is for, and what of its items the request may find.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import DataError, did_you_mean
from recsys.retrieval.filters import AllOf
from recsys.retrieval.index import Index
from recsys.retrieval.versions import VersionedIndex
from recsys.serving.requests import FilteredRequest

_COMPARE: dict[str, Callable[[pc.Expression, Any], Any]] = {
    "eq": lambda column, value: column == value,
    "ne": lambda column, value: column != value,
    "lt": lambda column, value: column < value,
    "le": lambda column, value: column <= value,
    "gt": lambda column, value: column > value,
    "ge": lambda column, value: column >= value,
    "in": lambda column, value: column.isin(value),
}


def index_of(index: Index | VersionedIndex, version: str | None) -> Index:
    """The index that answers queries of a version.

    Args:
        index: Of one version, or of several.
        version: As the request names it.

    Raises:
        DataError: There are several and the request names none, or one that is not there.
    """
    if isinstance(index, Index):
        return index  # which refuses a version that is not its own
    if version is None:
        known = ", ".join(index.versions)
        raise DataError(
            f"version: expected that of the model that made the queries, got none. Known: {known}."
        )
    return index.of(version)


def search_options(index: Index, request: FilteredRequest) -> dict[str, Any]:
    """Options of a search by a request: what both ``where`` and ``only`` allow.

    Args:
        index: That answers.
        request: Of any kind.

    Raises:
        DataError: A condition does not fit the index.
    """
    filters = [] if request.where is None else [_expression(index.meta, request.where)]
    if request.only is not None:
        filters.append(request.only)
    return {
        "where": AllOf(*filters) if filters else None,
        "exclude": request.exclude,
        "version": request.version,
        "unknown": request.unknown,
    }


def _expression(meta: pa.Table | None, where: Mapping[str, Mapping[Any, Any]]) -> Any:
    names = [] if meta is None else meta.column_names
    found: Any = None
    for column, conditions in where.items():
        if column not in names:
            hint = did_you_mean(column, names) or "The index has none."
            raise DataError(f"where: the index has no column {column!r}. {hint}")
        for op, value in conditions.items():
            if isinstance(value, list) != (op == "in"):
                raise DataError(
                    f"where.{column}.{op}: expected {'a list' if op == 'in' else 'one value'}."
                )
            try:
                one = _COMPARE[op](pc.field(column), value)
            except (pa.ArrowException, TypeError, OverflowError) as error:
                told = str(error).splitlines()[0]
                raise DataError(f"where.{column}.{op}: expected other values: {told}.") from None
            found = one if found is None else found & one
    if found is None:
        raise DataError("where: expected conditions, got none. Leave it out.")
    return found
