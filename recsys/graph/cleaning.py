"""From raw rows of a log to interactions: numbers for ids, every pair once, and a k-core.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from recsys.errors import DataError
from recsys.graph.interactions import Interactions, Names
from recsys.schema import Frozen


class Cleaning(Frozen):
    """What becomes of rows that repeat, lack an id, or are too few."""

    missing: Literal["error", "drop"] = "error"
    """What to do with rows without an id, time, weight or kind: refuse them, or leave them out
    and count them."""
    merge_time: Literal["last", "first"] = "last"
    """Time of a pair that occurs in several rows."""
    merge_weight: Literal["last", "max", "sum"] = "last"
    """Its weight: of the row with the latest time (without times: of the lowest such row in the
    file), the largest, or the sum. Ratings are replaced, counts are added up."""
    kinds: tuple[str, ...] = ()
    """Kinds to keep, the weakest first (``["view", "buy"]``): a pair with several gets the
    strongest. Where none are named all are kept, in the order of their names, and a pair gets that
    of its latest row."""
    min_weight: float | None = None
    """Pairs with a smaller merged weight are left out."""
    min_user: int = Field(default=1, ge=1)
    """Fewest items of a user."""
    min_item: int = Field(default=1, ge=1)
    """Fewest users of an item."""


def clean(
    user_ids: Any,
    item_ids: Any,
    time: Any = None,
    weight: Any = None,
    kind: Any = None,
    options: Cleaning | None = None,
) -> tuple[Interactions, dict[str, int]]:
    """Numbers users and items, merges pairs that repeat, and leaves out what is too rare.

    In this order: rows without a value and of kinds that are not wanted go, pairs are merged,
    those with too small a weight go, then users and items with too few pairs, again and again
    until all that are left have enough (the k-core). Users and items without a pair are no more
    known after that. Numbers follow the sorted ids (integers by value, text by code point), so
    they do not depend on the order of the rows.

    Args:
        user_ids: Text or integers, as Arrow, pandas or numpy.
        item_ids: As many.
        time: Numbers, or times (they become microseconds since 1970).
        weight: Numbers.
        kind: Text: what was done.
        options: What to merge and to leave out.

    Returns:
        The interactions, and what was left out: ``rows`` (read), ``missing_rows``,
        ``rows_of_other_kinds``, ``duplicate_rows``, ``light_pairs``, ``core_users``,
        ``core_items``, ``core_pairs`` (these three left out by the k-core).

    Raises:
        DataError: Columns differ in length or type, a value is missing (see `Cleaning`), or
            nothing is left.

    Example:
        >>> found, report = clean(["b", "a", "b"], [7, 7, 7], time=[1, 2, 3])
        >>> found.users.values.tolist(), found.user.tolist(), found.time.tolist()
        (['a', 'b'], [0, 1], [2, 3])
        >>> report["duplicate_rows"]
        1
    """
    options = options or Cleaning()
    columns = {"user": _ids(user_ids, "user"), "item": _ids(item_ids, "item")}
    columns |= {} if time is None else {"time": _times(time)}
    columns |= {} if weight is None else {"weight": _numbers(weight, "weight")}
    columns |= {} if kind is None else {"kind": _ids(kind, "kind")}
    rows = len(columns["user"])
    for name, column in columns.items():
        if len(column) != rows:
            raise DataError(f"expected {rows} values of `{name}` as of users, got {len(column)}.")
    report = {"rows": rows, "missing_rows": 0, "rows_of_other_kinds": 0}
    columns = _without_missing(columns, options, report)
    columns = _without_other_kinds(columns, options, report)
    if len(columns["user"]) == 0:
        raise DataError(f"no row is left of {rows:,}: {report}. Check the columns and options.")
    users, user = _numbered(columns["user"])
    items, item = _numbered(columns["item"])
    kinds, kind_numbers = options.kinds, None
    if "kind" in columns:
        names, kind_numbers = _numbered(columns["kind"])
        kinds = kinds or tuple(str(name) for name in names)
        kind_numbers = Names(kinds).numbers([str(name) for name in names])[kind_numbers]
    found = merged_pairs(
        (Names(users), Names(items)), (user, item),
        time=columns["time"].to_numpy() if "time" in columns else None,
        weight=columns["weight"].to_numpy() if "weight" in columns else None,
        kind=kind_numbers, kinds=kinds if kind is not None else (), options=options, report=report,
    )  # fmt: skip
    return core(found, options, report), report


def merged_pairs(
    names: tuple[Names, Names],
    pairs: tuple[np.ndarray, np.ndarray],
    *,
    time: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    kind: np.ndarray | None = None,
    kinds: tuple[str, ...] = (),
    options: Cleaning | None = None,
    report: dict[str, int] | None = None,
) -> Interactions:
    """Rows with numbers as interactions: in order, pairs that repeat as one.

    Args:
        names: Of users and of items.
        pairs: Number of the user and of the item of every row.
        time: Of every row.
        weight: Of every row.
        kind: Position in ``kinds`` of every row.
        kinds: Names of what was done.
        options: How to merge.
        report: Gets ``duplicate_rows`` added.

    Raises:
        DataError: A number is out of range.
    """
    options = options or Cleaning()
    user, item = (part.astype(np.int64, copy=False) for part in pairs)
    keys = user * np.int64(max(1, len(names[1]))) + item
    # The last row of a pair is its latest one; lexsort is stable, so of equal times the lowest.
    order = np.argsort(keys, kind="stable") if time is None else np.lexsort((time, keys))
    last = np.flatnonzero(np.diff(keys[order], append=-1) != 0)
    first = np.concatenate([[0], last[:-1] + 1]).astype(np.int64)
    if report is not None:
        report["duplicate_rows"] = report.get("duplicate_rows", 0) + len(keys) - len(last)
    latest = order[last]
    if weight is not None:
        if options.merge_weight == "last" or len(last) == 0:
            weight = weight[latest]
        else:
            join = np.add if options.merge_weight == "sum" else np.maximum
            weight = join.reduceat(weight[order].astype(np.float64), first)
        weight = weight.astype(np.float32)
    if time is not None:
        time = time[order[first] if options.merge_time == "first" else latest]
    if kind is not None:
        strongest = options.kinds and len(last) > 0
        kind = np.maximum.reduceat(kind[order], first) if strongest else kind[latest]
    return Interactions(
        names[0], names[1], user[latest], item[latest], time, weight, kind, tuple(kinds)
    )


def core(
    interactions: Interactions, options: Cleaning, report: dict[str, int] | None = None
) -> Interactions:
    """The pairs with enough weight, of users and items with enough pairs; the others are forgotten.

    Args:
        interactions: Pairs.
        options: ``min_weight``, ``min_user``, ``min_item``.
        report: Gets ``light_pairs``, ``core_users``, ``core_items`` and ``core_pairs``.

    Raises:
        DataError: A smallest weight is asked for and there are no weights, or nothing is left.
    """
    keep = np.ones(len(interactions), bool)
    if options.min_weight is not None:
        if interactions.weight is None:
            raise DataError("min_weight is set, and the interactions have no weight.")
        keep = interactions.weight >= options.min_weight
    heavy = int(keep.sum())
    while True:
        users = np.bincount(interactions.user[keep], minlength=interactions.num_users)
        items = np.bincount(interactions.item[keep], minlength=interactions.num_items)
        enough = keep & (users >= options.min_user)[interactions.user]
        enough &= (items >= options.min_item)[interactions.item]
        if enough.sum() == keep.sum():
            break
        keep = enough
    counts = {
        "light_pairs": len(interactions) - heavy,
        "core_users": interactions.num_users - int((users > 0).sum()),
        "core_items": interactions.num_items - int((items > 0).sum()),
        "core_pairs": heavy - int(keep.sum()),
    }
    if report is not None:
        report.update(counts)
    if not keep.any():
        raise DataError(
            f"no interaction is left of {len(interactions):,}: {counts}. Lower min_weight, "
            "min_user or min_item."
        )
    if not (counts["core_users"] or counts["core_items"] or counts["light_pairs"]):
        return interactions
    part = interactions.take(np.flatnonzero(keep))
    return Interactions(
        Names(interactions.users.values[users > 0]), Names(interactions.items.values[items > 0]),
        (np.cumsum(users > 0) - 1)[part.user], (np.cumsum(items > 0) - 1)[part.item],
        part.time, part.weight, part.kind, part.kinds,
    )  # fmt: skip


def with_shared_names(parts: Sequence[Interactions]) -> list[Interactions]:
    """The same interactions with the users and items of all of them, in sorted order.

    Args:
        parts: Of one log, cleaned one by one, with ids of one type.

    Raises:
        DataError: Ids are text in one and integers in another.
    """
    named = {}
    for what in ("users", "items"):
        ids = [getattr(part, what).values for part in parts]
        if len({values.dtype == object for values in ids}) > 1:
            raise DataError(
                f"{what}: expected ids of one type in all files, got text and integers."
            )
        named[what] = Names(np.unique(np.concatenate(ids)))
    users, items = named["users"], named["items"]
    return [
        dataclasses.replace(
            part, users=users, items=items,
            user=users.numbers(part.users.values)[part.user],
            item=items.numbers(part.items.values)[part.item],
        )
        for part in parts
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------- columns


def _arrow(values: Any, what: str) -> pa.Array:
    """A column as one Arrow array; NaN counts as missing."""
    try:
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        array = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"expected one column of {what}s, got: {error}") from None
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    return array


def _ids(values: Any, what: str) -> pa.Array:
    """Text or int64; empty text is missing."""
    array = _arrow(values, what)
    kind = array.type
    if pa.types.is_floating(kind):  # pandas writes integers with a gap as floats
        whole = pc.all(pc.equal(array, pc.floor(array)), min_count=0).as_py()
        small = pc.all(pc.less(pc.abs(array), 2.0**53), min_count=0).as_py()
        if whole and small:
            return array.cast(pa.int64())
    if pa.types.is_integer(kind):
        try:
            return array.cast(pa.int64())
        except pa.ArrowInvalid:
            raise DataError(f"an id of a {what} does not fit int64. Give it as text.") from None
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        try:
            array, kind = array.cast(pa.string()), pa.string()
        except pa.ArrowInvalid:
            raise DataError(f"an id of a {what} is not UTF-8. Convert the ids.") from None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        array = array.cast(pa.string())
        return pc.if_else(pc.equal(array, ""), pa.scalar(None, pa.string()), array)
    if pa.types.is_null(kind):
        return array.cast(pa.string())
    raise DataError(f"expected ids of {what}s as text or integers, got {kind}. Convert the column.")


def _numbers(values: Any, what: str) -> pa.Array:
    """Finite numbers."""
    array = _arrow(values, what)
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        raise DataError(f"expected `{what}` as numbers, got {array.type}. Convert the column.")
    if not pc.all(pc.is_finite(array), min_count=0).as_py():
        raise DataError(f"`{what}` is infinite in some row. Remove the row.")
    return array


def _times(values: Any) -> pa.Array:
    array = _arrow(values, "time")
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        return array.cast(pa.timestamp("us", getattr(array.type, "tz", None))).cast(pa.int64())
    array = _numbers(array, "time")
    return array.cast(pa.int64() if pa.types.is_integer(array.type) else pa.float64())


def _without_missing(
    columns: dict[str, pa.Array], options: Cleaning, report: dict[str, int]
) -> dict[str, pa.Array]:
    """Rows that have all values."""
    good = np.ones(report["rows"], bool)
    for name, column in columns.items():
        if column.null_count:
            present = column.is_valid().to_numpy(zero_copy_only=False)
            if options.missing == "error":
                raise DataError(
                    f"{column.null_count:,} rows have no `{name}`. Remove them, or set "
                    "missing=drop to leave them out.",
                    row=int(np.argmin(present)) + 1,
                    column=name,
                )
            good &= present
    report["missing_rows"] = int(len(good) - good.sum())
    return columns if good.all() else _filtered(columns, good)


def _without_other_kinds(
    columns: dict[str, pa.Array], options: Cleaning, report: dict[str, int]
) -> dict[str, pa.Array]:
    """Rows of the kinds that are wanted."""
    if not options.kinds:
        return columns
    if "kind" not in columns:
        raise DataError("`kinds` are named, and the rows have no kind. Name its column.")
    if len(set(options.kinds)) < len(options.kinds):
        raise DataError(f"expected different `kinds`, got {list(options.kinds)}.")
    text = columns["kind"].cast(pa.string())
    wanted = pc.is_in(text, value_set=pa.array(options.kinds)).to_numpy(zero_copy_only=False)
    report["rows_of_other_kinds"] = int(len(wanted) - wanted.sum())
    return columns if wanted.all() else _filtered(columns, wanted)


def _filtered(columns: dict[str, pa.Array], mask: np.ndarray) -> dict[str, pa.Array]:
    return {name: column.filter(pa.array(mask)) for name, column in columns.items()}


def _numbered(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Different ids, sorted, and the position of every row's id among them."""
    coded = column.dictionary_encode()
    ids = coded.dictionary
    order = pc.sort_indices(ids).to_numpy()
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    values = ids.take(pa.array(order)).to_numpy(zero_copy_only=False)
    return values, place[coded.indices.to_numpy()]
