"""Criteo display ads: the Kaggle file ``train.txt`` (7 days) or the 1TB ``day_0 .. day_23``.

Source: ailab.criteo.com/ressources (Kaggle Display Advertising Challenge; Terabyte Click Logs).
Licence: Criteo's terms, non-commercial, to be accepted by you, so it is not fetched. Split:
sequential by default, since the rows are in time order; or 8:1:1 at random as in BARS Criteo_x4.

Schema: tab-separated, no header, 40 columns: ``label``, 13 integers ``I1..I13``, 26 ids
``C1..C26`` as 8 hexadecimal digits. Empty cells are missing.

Traps:
    - There is no time column, but the order is time: a random split leaks the future and flatters
      every model. Compare with published x4 figures on random splits only, and with production on
      sequential ones.
    - The log-square bucket of BARS Criteo_x4 is ``floor(ln(x) ** 2)`` for x > 2. The RZD README
      says log2; the code that made the figures does not.
    - ``I2`` goes below zero. BARS sets missing numbers to 0 before bucketing; here a missing
      number is a bucket of its own.
    - The published x4 folds need scikit-learn 0.19.1 to be reproduced. `split="random"` draws
      other rows of the same shares; take the x4 files themselves for exact folds
      (``valid_path`` and ``test_path``).
    - ``test.txt`` of Kaggle has no label column. It is never read.
    - ``day_10`` sorts before ``day_2``: days are put in the order of their number here.

Stability: caller
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from recsys.data.dataset import Dataset
from recsys.data.files import find_file, needed_path
from recsys.data.source import GivenSplits, RandomSplits, SequentialSplits, Source, Splits
from recsys.schema import Bucketized, Categorical, Feature, Label, Numeric, Schema

NUMBERS = tuple(f"I{j}" for j in range(1, 14))
"""The integer columns."""
IDS = tuple(f"C{j}" for j in range(1, 27))
"""The id columns."""
COLUMNS = ("label", *NUMBERS, *IDS)
"""All 40 columns, in the files' order."""

_ADVICE = (
    "Accept Criteo's terms at https://ailab.criteo.com/ressources/, unpack `train.txt` of the "
    "Kaggle challenge or the files `day_0` to `day_23` of the Terabyte log (gzipped is fine), put "
    "them into one folder, and set `path` to that folder or to one file."
)
_DAY = re.compile(r"day_(\d+)(\.(tsv|txt))?(\.gz)?$")


class Criteo(Dataset):
    """Ad clicks with 13 numbers and 26 ids.

    Args:
        config: Files, split and treatment of the numbers.

    Raises:
        DataError: From `splits`: the files are missing.

    Example:
        >>> schema = Criteo(Criteo.Config(path="data", numbers="log")).schema()
        >>> schema.dense_width, len(schema.keys)
        (13, 26)
    """

    homepage = "https://ailab.criteo.com/ressources/"
    licence = "Criteo's terms: non-commercial use, no redistribution of the Kaggle file"

    class Config(Dataset.Config):
        """Files, split and treatment of the numbers."""

        path: str | None = None
        """The file, or the folder with ``train.txt`` or ``day_*``."""
        valid_path: str | None = None
        """A file of validation rows. With it ``path`` is training only and ``split`` is unused."""
        test_path: str | None = None
        """A file of test rows, where ``valid_path`` is given."""
        split: Literal["sequential", "random"] = "sequential"
        """How one log is cut: by order, or at random as in BARS Criteo_x4."""
        valid: float = Field(default=0.1, ge=0, lt=1)
        """Share of the rows for validation."""
        test: float = Field(default=0.1, ge=0, lt=1)
        """Share of the rows for the final test."""
        seed: int = 2018
        """Of the random split."""
        numbers: Literal["log_square", "log"] = "log_square"
        """``log_square``: ids by the buckets of BARS Criteo_x4. ``log``: standardized logarithms,
        passed dense."""
        min_count: int = Field(default=10, ge=1)
        """Rarer ids and buckets share the OOV row. BARS: 10 (x4_001), 2 (x4_002)."""

    config: Config

    def schema(self) -> Schema:
        """13 numbers, 26 ids."""
        min_count = self.config.min_count
        numbers: tuple[Feature, ...]
        if self.config.numbers == "log_square":
            numbers = tuple(
                Bucketized(name=name, method="log_square", min_count=min_count) for name in NUMBERS
            )
        else:
            numbers = tuple(Numeric(name=name, log=True, scale="standardize") for name in NUMBERS)
        ids = tuple(Categorical(name=name, min_count=min_count) for name in IDS)
        return Schema(features=(*numbers, *ids), labels=(Label(name="label"),))

    def splits(self, cache_dir: Path) -> Splits:
        """The files as they are."""
        del cache_dir
        config = self.config
        path = needed_path(config.path, "Criteo", _ADVICE)
        source = _source(
            _days(Path(path).expanduser()) or [find_file(path, ["train.txt"], _ADVICE)]
        )
        if config.valid_path is not None:
            valid, test = (
                None if p is None else _source([find_file(p, ["valid.txt", "test.txt"], _ADVICE)])
                for p in (config.valid_path, config.test_path)
            )
            return GivenSplits(train=source, valid=valid, test=test)
        if config.split == "random":
            return RandomSplits(
                source=source, valid=config.valid, test=config.test, seed=config.seed
            )
        return SequentialSplits(source=source, valid=config.valid, test=config.test)


def _days(folder: Path) -> list[Path]:
    """The day files in the order of their number, where there is no ``train.txt``."""
    if not folder.is_dir() or (folder / "train.txt").is_file():
        return []
    numbered = [(match, p) for p in folder.iterdir() if (match := _DAY.match(p.name))]
    return [p for _, p in sorted((int(match[1]), p) for match, p in numbered)]


def _source(files: list[Path]) -> Source:
    return Source(
        files=tuple(str(file) for file in files), format="tsv", columns=COLUMNS, quoted=False
    )
