"""Raw Arrow columns, of whatever type the file had, as the few types that encoders read.

Every function returns the cast column and the bad rows: ``{row: reason}``, empty as a rule. The
whole column is cast at once; only when that fails are the bad cells looked for, by halving.

Stability: internal
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import DataError

Bad = dict[int, str]
Cast = Callable[[pa.Array], pa.Array]

FLOAT32_MAX = float(np.finfo(np.float32).max)


def to_strings(array: pa.Array, column: str, nulls: pa.Array | None) -> tuple[pa.Array, Bad]:
    """Text as ``string``, checked to be UTF-8; integers and booleans as their text.

    Whole floats count as integers, because pandas makes floats of integers with gaps.

    Args:
        array: One raw column.
        column: Its name, for errors.
        nulls: Texts that mean missing, where the reader has not replaced them already.

    Raises:
        DataError: The column is neither text nor integer.
    """
    array = _plain(array)
    kind = array.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return array.cast(pa.string()), {}
    if pa.types.is_floating(kind):
        ints, bad = to_ints(array, column, None)
        return ints.cast(pa.string()), bad
    if not _is_text(kind):
        raise _wrong_type(column, "text or integers", kind)
    # Arrow trusts the UTF-8 of Parquet files; only a cast from binary checks it.
    array, bad = _cast_or_halve(
        array.cast(pa.binary()), lambda part: part.cast(pa.string()), "is not valid UTF-8"
    )
    return _without_nulls(array, nulls), bad


def to_ints(array: pa.Array, column: str, nulls: pa.Array | None) -> tuple[pa.Array, Bad]:
    """Integers as int64; text is parsed, whole floats are accepted (pandas makes them).

    Args:
        array: One raw column.
        column: Its name, for errors.
        nulls: Texts that mean missing.

    Raises:
        DataError: The column is neither text nor a number.
    """
    array, kind = _plain(array), array.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return _cast_or_halve(array, _int64, "is outside int64")
    if pa.types.is_floating(kind):
        values = array.to_numpy(zero_copy_only=False)
        array = pa.array(values.astype(np.float64), from_pandas=True)
        return _cast_or_halve(array, _int64, "is not an integer")
    if not _is_text(kind):
        raise _wrong_type(column, "integers", kind)
    text, bad_text = to_strings(array, column, nulls)
    ints, bad = _cast_or_halve(text, lambda part: _trimmed(part, pa.int64()), "is not an integer")
    for row in bad:
        if text[row].as_py().strip().lstrip("+-").isdigit():
            bad[row] = "is outside int64"
    return ints, bad_text | bad


def to_floats(
    array: pa.Array,
    column: str,
    nulls: pa.Array | None,
    nan: Literal["error", "missing"] = "error",
) -> tuple[np.ndarray, Bad]:
    """Numbers as float64, NaN where missing. Infinity is bad, and so is what float32 cannot hold.

    Args:
        array: One raw column.
        column: Its name, for errors.
        nulls: Texts that mean missing.
        nan: Whether NaN is bad or missing.

    Raises:
        DataError: The column is neither text nor a number.
    """
    array, kind = _plain(array), array.type
    bad: Bad = {}
    if _is_text(kind):
        text, bad = to_strings(array, column, nulls)
        array, wrong = _cast_or_halve(
            text, lambda part: _trimmed(part, pa.float64()), "is not a number"
        )
        bad |= wrong
    elif _is_number(kind):
        array = array.cast(pa.float64(), safe=False)
    else:
        raise _wrong_type(column, "numbers", kind)
    values = array.to_numpy(zero_copy_only=False)
    usable = np.abs(values) <= FLOAT32_MAX
    if np.count_nonzero(usable) == len(values) - array.null_count:
        return values, bad
    present = array.is_valid().to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(present & ~usable).tolist():
        if not np.isnan(values[row]):
            bad[row] = "is infinite or outside float32"
        elif nan == "error":
            bad[row] = "is NaN (leave missing cells empty; numeric features may say nan=missing)"
    return np.where(usable, values, np.nan), bad


def to_times(
    array: pa.Array, column: str, nulls: pa.Array | None, clock: str | None
) -> tuple[pa.Array, Bad, str | None]:
    """Times as int64: numbers keep their unit (fractions are cut off), others are microseconds.

    Args:
        array: One raw column: numbers, timestamps, dates or ISO text.
        column: Its name, for errors.
        nulls: Texts that mean missing.
        clock: What earlier rows held, ``number`` or ``iso``; None before the first.

    Returns:
        The times, the bad rows, and the clock.

    Raises:
        DataError: The column cannot be a time.
    """
    array, kind = _plain(array), array.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return array.cast(pa.timestamp("us", getattr(kind, "tz", None))).cast(pa.int64()), {}, "iso"
    if _is_number(kind) and not pa.types.is_null(kind):
        values, bad = to_floats(array, column, nulls)
        times = array if pa.types.is_integer(kind) else pa.array(np.trunc(values), from_pandas=True)
        return times.cast(pa.int64(), safe=False), bad, "number"
    text, bad = to_strings(array, column, nulls)
    present = text.drop_null()
    if clock is None and len(present):
        clock = "number" if _is_numeric_text(present[0].as_py()) else "iso"
    read = _number_times if clock == "number" else _iso_times
    times, wrong = _cast_or_halve(
        text, read, "is not a time like the others (one number, or ISO 8601)"
    )
    return times, bad | wrong, clock


def iso_microseconds(text: str) -> int:
    """Microseconds since 1970 of an ISO time, UTC where it names no zone.

    Args:
        text: For example ``2024-05-01`` or ``2024-05-01T10:00:00``.
    """
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (moment - epoch) // datetime.timedelta(microseconds=1)


# ---------------------------------------------------------------------------------------- pieces


def _is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    )


def _plain(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _wrong_type(column: str, expected: str, kind: pa.DataType) -> DataError:
    return DataError(
        f"expected a column of {expected}, got Arrow type {kind}. Convert it, or declare the "
        "feature as another kind.",
        column=column,
    )


def _without_nulls(array: pa.Array, nulls: pa.Array | None) -> pa.Array:
    if nulls is None or not len(nulls):
        return array
    found = pc.is_in(array, value_set=nulls)
    if not pc.any(found, min_count=0).as_py():
        return array
    return pc.if_else(found, pa.scalar(None, array.type), array)


def _int64(array: pa.Array) -> pa.Array:
    return array.cast(pa.int64())


def _trimmed(array: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return array.cast(kind)
    except pa.ArrowInvalid:
        return pc.utf8_trim_whitespace(array).cast(kind)


def _number_times(array: pa.Array) -> pa.Array:
    try:
        return array.cast(pa.int64())
    except pa.ArrowInvalid:
        values = _trimmed(array, pa.float64())
        return pc.trunc(values).cast(pa.int64())


def _iso_times(array: pa.Array) -> pa.Array:
    """Arrow reads times without a zone; Python the others, one by one."""
    try:
        return array.cast(pa.timestamp("us")).cast(pa.int64())
    except pa.ArrowInvalid:
        try:
            values = [None if v is None else iso_microseconds(v) for v in array.to_pylist()]
        except ValueError as error:
            raise pa.ArrowInvalid(str(error)) from None
        return pa.array(values, pa.int64())


def _is_numeric_text(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _cast_or_halve(array: pa.Array, cast: Cast, reason: str) -> tuple[pa.Array, Bad]:
    """Casts a column; bad cells become null and are reported."""
    try:
        return cast(array), {}
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    bad: Bad = {}
    _find_bad(array, cast, 0, reason, bad)
    good = np.ones(len(array), bool)
    good[list(bad)] = False
    return cast(pc.if_else(pa.array(good), array, pa.scalar(None, array.type))), bad


def _find_bad(array: pa.Array, cast: Cast, start: int, reason: str, bad: Bad) -> None:
    try:
        cast(array)
    except pa.ArrowInvalid:
        if len(array) == 1:
            bad[start] = reason
            return
        half = len(array) // 2
        _find_bad(array.slice(0, half), cast, start, reason, bad)
        _find_bad(array.slice(half), cast, start + half, reason, bad)
