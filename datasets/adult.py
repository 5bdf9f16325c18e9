"""Adult: does a person of the 1994 US census earn more than 50,000 dollars?

Source: archive.ics.uci.edu/dataset/2/adult. Licence: CC BY 4.0, so it is fetched where no path is
given (checksums below). Split: the given test file; validation is drawn from the training file.

Schema: 5 numbers, 8 ids, label ``income`` (1: above 50K). 32,561 training and 16,281 test rows.

Traps:
    - The first line of ``adult.test`` is a comment or a header, and its labels end with a dot.
    - Cells begin with a blank, ``?`` means missing.
    - ``fnlwgt`` says how many people a row stands for. It is a sampling weight, no property of the
      person, so it is no feature here (``use_fnlwgt`` makes it the weight of the row).
    - ``education`` and ``education_num`` say the same thing.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from recsys.data.dataset import Dataset
from recsys.data.files import (
    ParquetParts,
    conversion_digest,
    fetch,
    find_file,
    read_copy,
    require,
    text_column,
)
from recsys.data.readers import Chunk
from recsys.data.source import GivenSplits, Source
from recsys.folders import made_once
from recsys.schema import Categorical, Label, Numeric, Schema

NUMBERS = ("age", "education_num", "capital_gain", "capital_loss", "hours_per_week")
"""Columns read as numbers."""
IDS = (
    "workclass",
    "education",
    "marital_status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "native_country",
)
"""Columns read as ids."""
# fmt: off
COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation",
    "relationship", "race", "sex", "capital_gain", "capital_loss", "hours_per_week",
    "native_country", "income",
)
"""All 15 columns, in the files' order."""
# fmt: on

_FORMAT = 1
_SOURCE = Source(files=("copy",), format="csv", columns=COLUMNS, quoted=False)
_BASE = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult"
_CHECKSUMS = {
    "adult.data": "sha256:5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    "adult.test": "sha256:a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
}
_ADVICE = (
    "Get adult.data and adult.test from https://archive.ics.uci.edu/dataset/2/adult, put them into "
    "one folder, and set `path` to that folder; without `path` they are fetched."
)


class Adult(Dataset):
    """Census income: small, mixed numbers and ids.

    Args:
        config: Files and split.

    Raises:
        DataError: From `splits`: files are missing, cannot be fetched, or hold other labels.

    Source:
        Becker and Kohavi, "Adult", UCI Machine Learning Repository, 1996.

    Example:
        >>> schema = Adult(Adult.Config()).schema()
        >>> schema.dense_width, len(schema.keys)
        (5, 8)
    """

    homepage = "https://archive.ics.uci.edu/dataset/2/adult"
    licence = "CC BY 4.0"

    class Config(Dataset.Config):
        """Files and split."""

        path: str | None = None
        """Folder with ``adult.data`` and ``adult.test``; fetched where it is not given."""
        valid: float = Field(default=0.1, ge=0, lt=1)
        """Share of the rows of ``adult.data`` for validation."""
        seed: int = Field(default=0, ge=0)
        """Of the validation rows."""
        use_fnlwgt: bool = False
        """Weight rows by ``fnlwgt``."""

    config: Config

    def schema(self) -> Schema:
        """5 numbers, 8 ids; the capital columns are heavy-tailed."""
        numbers = tuple(
            Numeric(name=name, log=name.startswith("capital"), scale="standardize")
            for name in NUMBERS
        )
        return Schema(
            features=(*numbers, *(Categorical(name=name) for name in IDS)),
            labels=(Label(name="income"),),
            weight="fnlwgt" if self.config.use_fnlwgt else None,
        )

    def splits(self, cache_dir: Path) -> GivenSplits:
        """Parquet files made at the first call."""
        cache_dir, config = Path(cache_dir), self.config
        if config.path is None:
            files = [fetch(f"{_BASE}/{name}", _CHECKSUMS[name], cache_dir) for name in _CHECKSUMS]
        else:
            files = [find_file(config.path, [name], _ADVICE) for name in _CHECKSUMS]
        options = {"format": _FORMAT, "valid": config.valid, "seed": config.seed}
        folder = cache_dir / f"adult-{conversion_digest(files, options)}"
        made_once(folder, lambda making: self._convert(files, making))
        train, valid, test = (
            Source(files=(str(file),), format="parquet") if file.exists() else None
            for file in (folder / f"{split}.parquet" for split in ("train", "valid", "test"))
        )
        assert train is not None
        return GivenSplits(train=train, valid=valid, test=test)

    def _convert(self, files: list[Path], folder: Path) -> None:
        random = np.random.default_rng(self.config.seed)
        with ParquetParts(folder) as parts:
            for file, name in zip(files, ("train", "test")):
                copy = folder / f"{file.name}.copy"
                for chunk in read_copy(file, copy, _lines(file), _SOURCE, COLUMNS):
                    table = _rows(chunk)
                    held = random.random(len(table)) < self.config.valid * (name == "train")
                    for part, mask in ((name, ~held), ("valid", held)):
                        if mask.any():
                            parts.write(part, table.filter(pa.array(mask)))


def _lines(file: Path) -> Iterator[str]:
    """The file's lines but a first one that is no row."""
    with file.open(encoding="utf-8", errors="surrogateescape") as lines:
        first = next(lines, "")
        if first.lstrip()[:1].isdigit():
            yield first
        yield from lines


def _rows(chunk: Chunk) -> pa.Table:
    """Stripped text without question marks; the label as 0 or 1."""
    columns: dict[str, pa.Array] = {}
    for name in COLUMNS[:-1]:
        text = text_column(chunk, name)
        columns[name] = pc.if_else(pc.equal(text, "?"), pa.scalar(None, pa.string()), text)
    label = text_column(chunk, "income")
    classes = pa.array(["<=50K", ">50K", "<=50K.", ">50K."])
    require(pc.is_in(label, value_set=classes), "<=50K or >50K", label, chunk, "income")
    columns["income"] = pc.starts_with(label, ">").cast(pa.int8())
    return pa.table(columns)
