"""Avazu mobile ads: eleven days of clicks, one CSV of 40 M rows.

Source: kaggle.com/c/avazu-ctr-prediction (``train.gz``). Licence: the competition's rules, to be
accepted by you, so it is not fetched. Split: sequential by default, since the rows are in time
order; or 8:1:1 at random as in BARS Avazu_x4.

Schema: 21 id columns of the file (all but ``id``) and three made of ``hour`` (YYMMDDHH): hour of
the day, day of the week (Sunday is 0), weekend or not; ``time`` in seconds since 1970, UTC. The
file is converted once to Parquet in the cache folder, block by block.

Traps:
    - BARS Avazu_x4 overfits after one epoch (DeepFM's validation logloss goes .3720, .3801,
      .4261): train one epoch and evaluate several times in it.
    - Avazu_x1 is called random but is not: its shares of positives are 17.5, 16.8 and 15.3 %.
      Figures on it do not compare with a random split.
    - ``id`` is unique for every row and is dropped: it would be a table of 40 M rows that
      memorises.
    - ``device_ip`` and ``device_id`` have millions of values, most of them rare; see
      ``min_count``. A ``device_id`` of ``a99f214a`` means unknown.
    - ``test.gz`` of Kaggle has no label column. It is never read.

Stability: caller
"""

from __future__ import annotations

import datetime
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from recsys.data.dataset import Dataset
from recsys.data.files import (
    ParquetParts,
    conversion_digest,
    find_file,
    needed_path,
    require,
    text_column,
)
from recsys.data.readers import Chunk, read_chunks
from recsys.data.source import GivenSplits, RandomSplits, SequentialSplits, Source, Splits
from recsys.folders import made_once
from recsys.schema import Categorical, Label, Schema

# fmt: off
IDS = (
    "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain",
    "app_category", "device_id", "device_ip", "device_model", "device_type", "device_conn_type",
    "C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21",
)
"""The id columns that are read as they are."""
# fmt: on
DERIVED = ("hour", "weekday", "weekend")
"""Ids made of the file's ``hour``."""
COLUMNS = ("id", "click", "hour", *IDS)
"""All 24 columns, in the file's order."""

_FORMAT = 1
_ADVICE = (
    "Accept the rules at https://www.kaggle.com/c/avazu-ctr-prediction, download `train.gz`, "
    "put it or the unpacked `train` or `train.csv` into a folder, and set `path` to that folder or "
    "file."
)


class Avazu(Dataset):
    """Mobile ad clicks with 24 ids.

    Args:
        config: Files and split.

    Raises:
        DataError: From `splits`: the file is missing, a line is ragged, or a cell of ``hour`` is
            not a time.

    Example:
        >>> len(Avazu(Avazu.Config(path="data/avazu")).schema().keys)
        24
    """

    homepage = "https://www.kaggle.com/c/avazu-ctr-prediction"
    licence = "the Kaggle competition's rules, no redistribution"

    class Config(Dataset.Config):
        """Files and split."""

        path: str | None = None
        """The file, or the folder with ``train.gz`` or ``train.csv``."""
        valid_path: str | None = None
        """A file of validation rows. With it ``path`` is training only and ``split`` is unused."""
        test_path: str | None = None
        """A file of test rows, where ``valid_path`` is given."""
        split: Literal["sequential", "random"] = "sequential"
        """How one log is cut: by order, or at random as in BARS Avazu_x4."""
        valid: float = Field(default=0.1, ge=0, lt=1)
        """Share of the rows for validation."""
        test: float = Field(default=0.1, ge=0, lt=1)
        """Share of the rows for the final test."""
        seed: int = 2018
        """Of the random split."""
        min_count: int = Field(default=2, ge=1)
        """Rarer ids share the OOV row. BARS: 2 (x4_001), 1 (x4_002)."""

    config: Config

    def schema(self) -> Schema:
        """24 ids, a label, a time."""
        return Schema(
            features=tuple(
                Categorical(name=name, min_count=self.config.min_count) for name in (*DERIVED, *IDS)
            ),
            labels=(Label(name="click"),),
            timestamp="time",
        )

    def splits(self, cache_dir: Path) -> Splits:
        """Parquet files made of the CSV at the first call."""
        config = self.config
        path = needed_path(config.path, "Avazu", _ADVICE)
        source = _converted(path, Path(cache_dir))
        if config.valid_path is not None:
            valid, test = (
                None if p is None else _converted(p, Path(cache_dir))
                for p in (config.valid_path, config.test_path)
            )
            return GivenSplits(train=source, valid=valid, test=test)
        if config.split == "random":
            return RandomSplits(
                source=source, valid=config.valid, test=config.test, seed=config.seed
            )
        return SequentialSplits(source=source, valid=config.valid, test=config.test)


def _converted(path: str, cache_dir: Path) -> Source:
    file = find_file(path, ("train.gz", "train.csv", "train"), _ADVICE)
    digest = conversion_digest([file], {"format": _FORMAT})
    folder = made_once(cache_dir / f"avazu-{digest}", partial(_convert, file))
    return Source(files=(str(folder / "rows.parquet"),), format="parquet")


def _convert(file: Path, folder: Path) -> None:
    """The whole file, block by block."""
    with pa.input_stream(str(file), compression="detect") as stream:
        has_header = stream.read(3) == b"id,"
    source = Source(files=(str(file),), format="csv", columns=None if has_header else COLUMNS)
    with ParquetParts(folder) as parts:
        for chunk in read_chunks(source, COLUMNS[1:]):
            parts.write("rows", _rows(chunk))


def _rows(chunk: Chunk) -> pa.Table:
    stamps = text_column(chunk, "hour")
    # A block covers few different hours: the calendar is asked once for each.
    hours = pc.dictionary_encode(stamps)
    facts = [_calendar(stamp) for stamp in hours.dictionary.to_pylist()]
    known = pa.array([fact is not None for fact in facts], pa.bool_())
    require(known.take(hours.indices), "a time as YYMMDDHH", stamps, chunk, "hour")
    index = hours.indices.to_numpy()
    names = ("time", *DERIVED)
    columns: dict[str, pa.Array] = {"click": text_column(chunk, "click")}
    for name, values in zip(names, zip(*(fact for fact in facts if fact))):
        columns[name] = pa.array(np.array(values)[index])
    for name in IDS:
        columns[name] = text_column(chunk, name)
    return pa.table(columns)


def _calendar(stamp: str) -> tuple[int, int, int, int] | None:
    """Seconds since 1970, hour, day of the week from Sunday, weekend; None for no time."""
    if not (len(stamp) == 8 and stamp.isdecimal()):
        return None
    try:
        moment = datetime.datetime.strptime(f"{stamp}+0000", "%y%m%d%H%z")
    except ValueError:
        return None
    weekday = moment.isoweekday() % 7
    return int(moment.timestamp()), moment.hour, weekday, int(weekday in (0, 6))
