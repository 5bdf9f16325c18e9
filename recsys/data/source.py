"""Where rows come from, and which rows are for training. Declarations only; readers act on them.

Stability: caller
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from recsys.errors import ConfigError
from recsys.schema import Frozen


class Source(Frozen):
    r"""Raw files of one table, read in the order given; a directory's files sorted by name.

    Example:
        >>> Source(files=("day_*.tsv",), format="tsv", columns=("click", "user")).delimiter
        '\t'
    """

    files: tuple[str, ...] = Field(min_length=1)
    """Paths, globs or directories."""
    format: Literal["csv", "tsv", "libfm", "parquet"]
    """``csv`` and ``tsv`` may be gzipped. ``libfm`` lines are ``label id:value id:value ...``, one
    id for every field in a fixed order."""
    columns: tuple[str, ...] | None = None
    """Column names where the files have no header line (libfm: the label, then the fields)."""
    separator: str | None = None
    """Column separator of csv where it is not a comma."""
    quoted: bool = True
    """Whether text cells may be quoted with ``"``."""
    null_values: tuple[str, ...] = ("",)
    """Cells that mean a missing value."""

    @property
    def delimiter(self) -> str:
        """The column separator in use."""
        return self.separator or ("\t" if self.format == "tsv" else ",")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.format == "libfm" and self.columns is None:
            raise ConfigError("format=libfm needs `columns`: the label's name, then the fields'.")
        return self


class GivenSplits(Frozen):
    """The splits are separate files."""

    kind: Literal["given"] = "given"
    train: Source
    valid: Source | None = None
    test: Source | None = None


class _OneSource(Frozen):
    source: Source
    valid: float = Field(default=0.1, ge=0, lt=1)
    """Share of the rows for validation."""
    test: float = Field(default=0.1, ge=0, lt=1)
    """Share of the rows for the final test."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.valid + self.test >= 1:
            raise ConfigError(
                f"valid + test is {self.valid + self.test:g}: nothing is left to train on. "
                "The two shares must sum to less than 1."
            )
        return self


class RandomSplits(_OneSource):
    """Every row by a seeded hash of its position, so that splits do not depend on block sizes."""

    kind: Literal["random"] = "random"
    seed: int = 0
    """Another seed, other splits."""


class SequentialSplits(_OneSource):
    """First rows train, then valid, last rows test: for logs ordered by time without a column."""

    kind: Literal["sequential"] = "sequential"


class TimeSplits(_OneSource):
    """Earlier rows train, then valid, latest rows test, by the schema's timestamp column.

    The two borders are either given or the quantiles of the shares.
    """

    kind: Literal["time"] = "time"
    valid_from: float | str | None = None
    """First time that is validation (a number in the column's unit, or an ISO time)."""
    test_from: float | str | None = None
    """First time that is test."""


class GroupSplits(_OneSource):
    """All rows of a group (say a user) in the same split, by a seeded hash of the group key."""

    kind: Literal["group"] = "group"
    column: str
    """Column with the group."""
    seed: int = 0
    """Another seed, other splits."""


Splits = Annotated[
    GivenSplits | RandomSplits | SequentialSplits | TimeSplits | GroupSplits,
    Field(discriminator="kind"),
]
"""How a log is cut into train, valid and test."""
