"""The errors a user can meet. Every text says: expected, got, where, what to do.

Example:
    >>> from recsys.errors import DataError
    >>> print(DataError("`age` is not a number: 'x1'.", file="log.csv", row=7, column="age"))
    `age` is not a number: 'x1'.
      where: log.csv, row 7, column `age`

Stability: caller
"""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Generator, Iterable


class RecsysError(Exception):
    """Root of all errors that recsys raises on purpose."""


class ConfigError(RecsysError, ValueError):
    """A configuration file, override or option is wrong."""


class SchemaError(RecsysError, ValueError):
    """A schema contradicts itself, the data or the model that is asked to use it."""


class DataError(RecsysError, ValueError):
    """Input data is missing, malformed or outside what the schema allows.

    Args:
        message: Expected, got, what to do.
        file: The file where it was found.
        row: Row in that file, counted from 1, the header line not counted.
        column: The column's name in the file.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        row: int | None = None,
        column: str | None = None,
    ) -> None:
        self.message, self.file, self.row, self.column = message, file, row, column
        places = [
            str(file) if file is not None else "",
            f"row {row:,}" if row is not None else "",
            f"column `{column}`" if column is not None else "",
        ]
        where = ", ".join(place for place in places if place)
        super().__init__(f"{message}\n  where: {where}" if where else message)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_data_error, (self.message, self.file, self.row, self.column))


def _rebuild_data_error(
    message: str, file: str | None, row: int | None, column: str | None
) -> DataError:
    return DataError(message, file=file, row=row, column=column)


class BudgetInfeasible(ConfigError):
    """No plan of a compression scheme fits a memory budget.

    Args:
        message: What was tried.
        min_bytes: The smallest size the scheme can reach on these tables.
    """

    def __init__(self, message: str, min_bytes: int) -> None:
        self.message, self.min_bytes = message, min_bytes
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.message, self.min_bytes))


class ShardingError(RecsysError, RuntimeError):
    """Tables cannot be placed on the ranks or backend that were asked for."""


class CheckpointError(RecsysError, RuntimeError):
    """A checkpoint or model artefact is missing, damaged or of another model."""


class TrainingError(RecsysError, RuntimeError):
    """Training went wrong: NaN, a diverged loss, a model that predicts a constant."""


@contextlib.contextmanager
def exit_on_error(*, debug: bool = False) -> Generator[None]:
    """Ends a program with the text of a `RecsysError` and exit code 2, without a traceback.

    For the outermost call of a script; ``recsys`` and the examples use it.

    Args:
        debug: Let the error through, with its traceback.

    Raises:
        SystemExit: In place of a `RecsysError`.
    """
    try:
        yield
    except RecsysError as error:
        if debug:
            raise
        notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
        sys.stderr.write(f"{type(error).__name__}: {error}{notes}\n")
        sys.exit(2)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Ends an error text with the nearest valid name, or with the valid names.

    Args:
        name: What was given.
        known: The valid names.

    Returns:
        A sentence without a leading space, empty where nothing is known.

    Example:
        >>> did_you_mean("embeding_dim", ["embedding_dim", "hidden"])
        'Did you mean `embedding_dim`?'
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"Did you mean `{close[0]}`?"
    listed = ", ".join(f"`{n}`" for n in names[:12]) + (", ..." if len(names) > 12 else "")
    return f"Known: {listed}." if names else ""
