"""Which rows are for training: `recsys.data.source.Splits` acted on.

Every rule depends on the row alone (its position, time or group), never on block sizes, so both
passes agree and a file can be read again.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from recsys.data.casting import iso_microseconds
from recsys.data.parsing import SPLIT_GROUP, TIMESTAMP, Parser
from recsys.data.readers import Chunk, count_rows, read_chunks
from recsys.data.source import (
    GivenSplits,
    GroupSplits,
    RandomSplits,
    SequentialSplits,
    Source,
    Splits,
    TimeSplits,
)
from recsys.data.transforms import RowSample
from recsys.errors import ConfigError, SchemaError
from recsys.hashing import hash_ints, to_unit
from recsys.schema import Schema

SPLITS: tuple[str, ...] = ("train", "valid", "test")
TRAIN = 0

TIME_SAMPLE = 1 << 20
"""Rows from which time borders are taken; all rows while they fit."""

Assign = Callable[[Chunk, pa.Table], np.ndarray]
"""The split number of every row of a chunk, given also as parsed rows."""


class SplitPlan:
    """Where each split's rows come from.

    Args:
        splits: The declaration.
        schema: For the timestamp column.

    Raises:
        SchemaError: Splits by time without a timestamp column.
    """

    def __init__(self, splits: Splits, schema: Schema) -> None:
        self.splits, self.schema = splits, schema
        self.sources: list[tuple[int | None, Source]]
        if isinstance(splits, GivenSplits):
            given = [(0, splits.train), (1, splits.valid), (2, splits.test)]
            self.sources = [(number, source) for number, source in given if source is not None]
            self.numbers = [number for number, source in given if source is not None]
        else:
            self.sources = [(None, splits.source)]
            shares = {1: splits.valid > 0, 2: splits.test > 0}
            if isinstance(splits, TimeSplits):
                shares[1] |= splits.valid_from is not None
                shares[2] |= splits.test_from is not None
            self.numbers = [TRAIN] + [number for number in (1, 2) if shares[number]]
        if isinstance(splits, TimeSplits) and schema.timestamp is None:
            raise SchemaError(
                "splits of kind=time need `timestamp` in the schema. Name the column with the "
                "time of a row, or use kind=sequential for files in order of time."
            )

    @property
    def split_column(self) -> str | None:
        """Column with the group of splits by group."""
        return self.splits.column if isinstance(self.splits, GroupSplits) else None

    def parser(self, source: Source, null_values: Sequence[str]) -> Parser:
        """A parser for rows of one of the sources.

        Args:
            source: Where the rows come from.
            null_values: Texts that mean missing.
        """
        handled = source.format != "parquet"  # text readers have replaced them
        return Parser(self.schema, () if handled else null_values, split_column=self.split_column)

    def rule(self) -> Assign | None:
        """How rows of a single source are split; may read through the files once.

        Raises:
            ConfigError: A border of splits by time does not fit the column.
            DataError: A file cannot be read.
        """
        splits = self.splits
        if isinstance(splits, GivenSplits):
            return None
        if isinstance(splits, RandomSplits):
            seed = splits.seed
            return lambda chunk, _: _by_share(
                splits, to_unit(hash_ints(chunk.start + chunk.rows, seed))
            )
        if isinstance(splits, GroupSplits):
            seed = splits.seed
            return lambda _, parsed: _by_share(
                splits, to_unit(hash_ints(parsed.column(SPLIT_GROUP).to_numpy(), seed))
            )
        if isinstance(splits, SequentialSplits):
            columns = self.parser(splits.source, ()).columns
            total = count_rows(splits.source, columns)
            borders = [
                round(total * (1 - splits.valid - splits.test)),
                total - round(total * splits.test),
            ]
            return lambda chunk, _: np.searchsorted(borders, chunk.start + chunk.rows, "right")
        times = self._time_borders(splits)
        return lambda _, parsed: np.searchsorted(
            times, parsed.column(TIMESTAMP).to_numpy(), "right"
        )

    def _time_borders(self, splits: TimeSplits) -> list[float]:
        """First time of valid and of test; infinite where there is no such split."""
        sample, clock = RowSample(TIME_SAMPLE), None
        only_time = self.schema.model_copy(update={"features": (), "labels": ()})
        only_time = only_time.model_copy(update={"weight": None, "group": None})
        nulls = splits.source.null_values if splits.source.format == "parquet" else ()
        parser = Parser(only_time, nulls)
        for chunk in read_chunks(splits.source, parser.columns, keep_ragged=True):
            parsed = parser.parse(chunk.columns, chunk.file)
            times = parsed.table.column(TIMESTAMP).to_numpy()
            sample.add(np.delete(times, list(parsed.bad)))
        clock = parser.clock
        rows = sample.rows() if sample.seen else np.zeros(1)
        given = (splits.valid_from, splits.test_from)
        shares = (1 - splits.valid - splits.test, 1 - splits.test)
        wanted = (1 in self.numbers, 2 in self.numbers)
        borders = [np.inf, np.inf]
        for i in (1, 0):
            if given[i] is not None:
                borders[i] = _border(given[i], clock, self.schema.timestamp or "")
            elif wanted[i]:
                borders[i] = float(np.quantile(rows, shares[i], method="higher"))
            elif i == 0:
                borders[i] = borders[1]
        if borders[0] > borders[1]:
            raise ConfigError(
                f"valid_from ({borders[0]:g}) is after test_from ({borders[1]:g}): train comes "
                "first, then valid, then test. Correct the two borders."
            )
        return borders


def _border(value: float | str | None, clock: str | None, column: str) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            if clock == "number":
                raise ConfigError(
                    f"border {value!r} is an ISO time but column `{column}` holds numbers. "
                    "Give the border as a number in the unit of the column."
                ) from None
            return float(iso_microseconds(str(value)))
    if clock == "iso":
        raise ConfigError(
            f"border {value!r} is a number but column `{column}` holds times. Give an ISO time."
        )
    return float(value or 0.0)


def _by_share(splits: RandomSplits | GroupSplits, unit: np.ndarray) -> np.ndarray:
    """Numbers below ``test`` are test, then valid, the rest train."""
    return np.where(unit < splits.test, 2, np.where(unit < splits.test + splits.valid, 1, TRAIN))


Phase = Literal["fit", "encode"]


def phase_sources(plan: SplitPlan, phase: Phase) -> Iterator[tuple[int | None, Source]]:
    """The sources that a pass reads: fitting leaves out given valid and test files.

    Args:
        plan: The splits.
        phase: Which pass.
    """
    for number, source in plan.sources:
        if phase == "encode" or number in (None, TRAIN):
            yield number, source
