"""Text files of whole numbers: every token checked, every fault with its line, without a loop.

Stability: internal
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from recsys.errors import DataError

MAX_DIGITS = 18
"""Longer tokens may not fit int64."""
NO_LINE_END = (
    "the last line has no line end, so the file may have been cut within a value. Copy it again; "
    "if it is complete, add a line end."
)

_DIGIT, _BLANK, _OTHER = 0, 1, 2
_KINDS = np.full(256, _OTHER, np.uint8)
_KINDS[list(b"0123456789")] = _DIGIT
_KINDS[list(b" \t\r\n")] = _BLANK


@dataclasses.dataclass(frozen=True, slots=True)
class NumberLines:
    """The tokens of a file.

    Args:
        file: Its path, for errors.
        values: Every token, in the order of the file.
        lines: Line of every token, from 0.
        num_lines: Lines, blank ones included.

    Shape:
        - values, lines: (number of tokens,) int64
    """

    file: str
    values: np.ndarray
    lines: np.ndarray
    num_lines: int

    def error(self, message: str, line: int) -> DataError:
        """An error at a line.

        Args:
            message: Expected, got, what to do.
            line: From 0.
        """
        return DataError(message, file=self.file, row=line + 1)


def read_numbers(file: str | Path) -> NumberLines:
    r"""Reads a file of whole numbers that blanks and line ends separate.

    A million tokens take a tenth of a second: bytes are classified and digits added up by numpy.

    Args:
        file: Text; lines end with ``\n`` or ``\r\n``, the last one too.

    Raises:
        DataError: The file is missing, empty or has no line end at its end (then it was cut); a
            token is negative, no whole number, or too long.
    """
    path = Path(file).expanduser()
    try:
        text = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"not readable: {reason}. Check the path.", file=str(file)) from None
    newlines = np.flatnonzero(text == ord("\n"))
    kinds = _KINDS[text]
    if (kinds == _OTHER).any():
        raise _bad_token(text, int(np.argmax(kinds == _OTHER)), newlines, str(file))
    is_digit = kinds == _DIGIT
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_digit, [False]])))
    starts, ends = edges[::2], edges[1::2]
    if len(starts) == 0:
        raise DataError("the file has no numbers. Is it the right one?", file=str(file))
    returns = np.flatnonzero(text[:-1] == ord("\r"))
    if (text[returns + 1] != ord("\n")).any():
        raise DataError(
            "a carriage return stands alone. End lines with a line feed.", file=str(file)
        )
    if len(newlines) == 0 or newlines[-1] < ends[-1]:
        raise DataError(NO_LINE_END, file=str(file), row=len(newlines) + 1)
    lengths = ends - starts
    if lengths.max() > MAX_DIGITS:
        raise _bad_token(text, int(starts[np.argmax(lengths > MAX_DIGITS)]), newlines, str(file))
    values = np.zeros(len(starts), np.int64)
    for place in range(int(lengths.max())):
        here = lengths > place
        digits = text[starts[here] + place].astype(np.int64) - ord("0")
        values[here] = values[here] * 10 + digits
    return NumberLines(str(file), values, np.searchsorted(newlines, starts), len(newlines))


def _bad_token(text: np.ndarray, at: int, newlines: np.ndarray, file: str) -> DataError:
    """What is wrong with the token around a byte."""
    blank = np.flatnonzero(_KINDS[text[max(0, at - 100) : at]] == _BLANK)
    start = max(0, at - 100) + int(blank[-1]) + 1 if len(blank) else max(0, at - 100)
    token = bytes(text[start : at + 100]).split()[0].decode("utf-8", "replace")[:40]
    if token.removeprefix("-").isdecimal():
        what = "a number that is not negative" if token[0] == "-" else f"up to {MAX_DIGITS} digits"
    else:
        what = "a whole number"
    return DataError(
        f"expected {what}, got {token!r}. Repair or remove the line.",
        file=file,
        row=int(np.searchsorted(newlines, at)) + 1,
    )


def read_columns(file: str | Path, columns: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """Columns of a file with as many numbers in every line.

    Args:
        file: Without a header line.
        columns: Their names, for errors.

    Returns:
        Each column, (rows,) int64. Blank lines are left out.

    Raises:
        DataError: As `read_numbers`, or a line has more or fewer numbers.
    """
    read = read_numbers(file)
    counts = np.bincount(read.lines, minlength=read.num_lines)
    wrong = np.flatnonzero((counts != len(columns)) & (counts > 0))
    if len(wrong):
        raise read.error(
            f"expected {len(columns)} numbers ({', '.join(columns)}), got {counts[wrong[0]]}. "
            "Is the file complete?",
            int(wrong[0]),
        )
    table = read.values.reshape(-1, len(columns))
    return tuple(np.ascontiguousarray(table[:, k]) for k in range(len(columns)))


def read_lists(file: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a file with a user and the user's items in every line.

    A user may have several lines.

    Args:
        file: Lines ``user item item ...``.

    Returns:
        The user and the item of every pair, (pairs,) int64, and the users whose line has no item.

    Raises:
        DataError: As `read_numbers`.
    """
    read = read_numbers(file)
    first = np.diff(read.lines, prepend=-1) != 0
    counts = np.diff(np.append(np.flatnonzero(first), len(first))) - 1
    users = read.values[first]
    return np.repeat(users, counts), read.values[~first], users[counts == 0]


def require_line_end(file: str | Path) -> None:
    """Refuses a text file whose last line has no line end.

    Args:
        file: Not compressed.

    Raises:
        DataError: It has none, is empty, or cannot be read.
    """
    try:
        with Path(file).expanduser().open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - 1))
            last = stream.read()
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"not readable: {reason}. Check the path.", file=str(file)) from None
    if last != b"\n":
        raise DataError(NO_LINE_END if last else "the file is empty.", file=str(file))
