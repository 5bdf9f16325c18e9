"""A click log with a planted truth: the embedded default data set, made here, fetched from nowhere.

Licence: none needed, the rows are made by this file. Split: by time, train before valid before
test. Schema: 13 numbers ``I1..I13``, 26 ids ``C1..C26`` over Criteo-like cardinalities, the bag
``tags``, label ``label``, group ``C7`` (think of it as the user), time ``time``.

What the truth is made of, so that models rank as they should:

- one weight for every id, number and tag: any model (`LR` and up);
- products of two ids, of an id and the tags, of two numbers, and of a number and an id: needs
  pairwise interactions (`FM` and up);
- products of three fields, bumps of numbers: needs a network or a cross layer.

A trained model stays below the oracle: effects are estimated from finitely many rows, the base rate
drifts, some ids were rarely or never seen. `Synthetic.ceiling` measures the last reason alone, and
it is small: ids below 100 training rows cost .001 AUC at 2 M rows, and .0045 at 300 k rows with
Criteo's full cardinalities. The rest of the gap is not taken apart.

Traps:
    - The files also hold ``true_probability``. It is no feature; it is there to judge by.
    - ``rows_per_id`` shrinks the fields with the rows so that small runs can learn. Set it to 0
      for Criteo's full cardinalities when memory or speed is what you measure.
    - Validation and test are later than training, so their share of clicks differs.

Stability: caller
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from recsys.data.dataset import Dataset
from recsys.data.planted import (
    CARDINALITIES,
    NUM_TAGS,
    NUMBER_MISSING,
    SPLITS,
    Array,
    Ids,
    PlantedConfig,
    PlantedRows,
    PlantedTruth,
    sigmoid,
)
from recsys.data.source import GivenSplits, Source
from recsys.folders import made_once
from recsys.schema import Categorical, Label, MultiValued, Numeric, Schema

_VERSION = 2  # of the generator: another number, other files
_SPAN_S = 30 * 86_400
_START_S = 1_704_067_200  # 2024-01-01


class Synthetic(Dataset):
    """Made click log whose best reachable AUC and logloss are known.

    Args:
        config: Sizes, seed and strengths.

    Example:
        >>> import tempfile
        >>> data = Synthetic(Synthetic.Config(num_rows=2000, valid_rows=500, test_rows=500))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     splits = data.splits(Path(folder))
        ...     round(data.oracle(Path(folder))["valid"]["auc"], 1)
        0.8
    """

    licence = "none needed: made by recsys"

    class Config(Dataset.Config, PlantedConfig):
        """Sizes, seed and strengths."""

        min_count: int = Field(default=1, ge=1)
        """``min_count`` of the ids in the schema; the rows do not depend on it."""

    config: Config

    def schema(self) -> Schema:
        """13 numbers, 26 ids, one bag."""
        numbers = tuple(
            Numeric(name=f"I{j + 1}", log=True, scale="standardize")
            for j in range(len(NUMBER_MISSING))
        )
        ids = tuple(
            Categorical(name=f"C{j + 1}", min_count=self.config.min_count)
            for j in range(len(CARDINALITIES))
        )
        tags = MultiValued(
            name="tags", dtype="int", pooling="mean", min_count=self.config.min_count
        )
        return Schema(
            features=(*numbers, *ids, tags),
            labels=(Label(name="label"),),
            group="C7",
            timestamp="time",
        )

    def splits(self, cache_dir: Path) -> GivenSplits:
        """Three Parquet files, made at the first call."""
        folder = self._made(Path(cache_dir))
        train, valid, test = (
            Source(files=(str(folder / f"{split}.parquet"),), format="parquet") for split in SPLITS
        )
        return GivenSplits(train=train, valid=valid, test=test)

    def oracle(self, cache_dir: Path) -> dict[str, dict[str, float]]:
        """AUC, logloss, base rate and rows of every split, judged with the true probabilities."""
        meta = json.loads((self._made(Path(cache_dir)) / "meta.json").read_text())
        return meta["oracle"]

    def ceiling(self, min_count: int, split: str = "valid") -> dict[str, float]:
        """The oracle without what training shows too rarely.

        The truth is evaluated with the effect of every id that has fewer than ``min_count``
        training rows set to zero, its mean. The difference to the oracle is the part of the gap
        that rare and unseen ids explain.

        Args:
            min_count: Training rows an id needs.
            split: The split to judge.

        Returns:
            ``auc``, ``logloss``, ``base_rate`` and ``rows``.
        """
        truth = PlantedTruth(self.config)
        counts = [np.zeros(field.id_space, dtype=np.int64) for field in truth.fields]
        tag_counts = np.zeros(NUM_TAGS, dtype=np.int64)
        for rows in truth.blocks("train"):
            for count, ids in zip(counts, rows.ids):
                count += np.bincount(ids, minlength=len(count))
            tag_counts += np.bincount(rows.tags[rows.tag_mask], minlength=NUM_TAGS)
        known = [count >= min_count for count in counts]
        score = _Score()
        for rows in truth.blocks(split):
            labels = truth.labels(rows, truth.logit(rows))
            score.add(sigmoid(truth.logit(rows, known, tag_counts >= min_count)), labels)
        return score.result()

    def _made(self, cache_dir: Path) -> Path:
        """The folder with the files; makes them where they are missing."""
        options = self.config.model_dump_json(exclude={"min_count"})
        digest = hashlib.sha256(f"{_VERSION}{options}".encode()).hexdigest()[:12]
        return made_once(cache_dir / f"synthetic-{digest}", self._make)

    def _make(self, folder: Path) -> None:
        truth = PlantedTruth(self.config)
        oracle = {
            split: _write(truth, split, folder / f"{split}.parquet").result() for split in SPLITS
        }
        meta = {"version": _VERSION, "config": self.config.model_dump(), "oracle": oracle}
        (folder / "meta.json").write_text(json.dumps(meta, indent=1))


# ----------------------------------------------------------------------------------------- files


def _hex(ids: Ids, field: int) -> pa.Array:
    """Ids as eight hexadecimal digits, id 0 as null; distinct ids stay distinct."""
    x = (ids + (field << 26)).astype(np.uint32)  # then murmur3's finalizer, a bijection
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    x = x ^ (x >> np.uint32(16))
    pairs = np.frombuffer(bytes(range(256)).hex().encode(), dtype=np.uint16)
    text = pairs[x.astype(">u4").view(np.uint8)]
    offsets = np.arange(0, 8 * len(ids) + 1, 8, dtype=np.int32)
    present = np.packbits(ids != 0, bitorder="little")
    buffers = [pa.py_buffer(present), pa.py_buffer(offsets), pa.py_buffer(text)]
    return pa.StringArray.from_buffers(len(ids), buffers[1], buffers[2], buffers[0])


def _table(truth: PlantedTruth, rows: PlantedRows) -> pa.Table:
    logit = truth.logit(rows)
    columns: dict[str, pa.Array] = {"label": pa.array(truth.labels(rows, logit))}
    seconds = _START_S + (rows.time * _SPAN_S).astype(np.int64)
    columns["time"] = pa.array(seconds)
    for j, (number, missing) in enumerate(zip(rows.numbers, rows.number_missing)):
        columns[f"I{j + 1}"] = pa.array(number, mask=missing)
    for j, ids in enumerate(rows.ids):
        columns[f"C{j + 1}"] = _hex(ids, j)
    ends = np.cumsum(rows.tag_mask.sum(1))
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    columns["tags"] = pa.ListArray.from_arrays(offsets, pa.array(rows.tags[rows.tag_mask]))
    columns["true_probability"] = pa.array(sigmoid(logit))
    return pa.table(columns)


def _write(truth: PlantedTruth, split: str, file: Path, block_rows: int = 65_536) -> _Score:
    """One split as Parquet, block by block."""
    score, writer = _Score(), None
    try:
        for rows in truth.blocks(split, block_rows):
            table = _table(truth, rows)
            if writer is None:
                writer = pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
            score.add(
                table["true_probability"].to_numpy(), table["label"].to_numpy().astype(np.int8)
            )
    finally:
        if writer is not None:
            writer.close()
    return score


class _Score:
    """AUC and logloss of probabilities, in memory that does not grow with the rows.

    The AUC is that of the probabilities rounded to 2 ** -20.
    """

    _BINS = 1 << 20

    def __init__(self) -> None:
        self.counts = np.zeros((2, self._BINS), dtype=np.int64)
        self.loss = 0.0

    def add(self, probability: Array, label: NDArray[np.int8]) -> None:
        """Counts a block of rows."""
        bins = (probability * self._BINS).astype(np.int64)
        for value in (0, 1):
            self.counts[value] += np.bincount(bins[label == value], minlength=self._BINS)
        right = np.where(label == 1, probability, 1.0 - probability)
        self.loss -= float(np.log(right).sum())

    def result(self) -> dict[str, float]:
        """The metrics of all rows so far."""
        negatives, positives = self.counts
        below = np.cumsum(negatives) - 0.5 * negatives
        num_positive, rows = int(positives.sum()), int(self.counts.sum())
        pairs = num_positive * (rows - num_positive)
        return {
            "auc": float(positives @ below / pairs) if pairs else math.nan,
            "logloss": self.loss / rows,
            "base_rate": num_positive / rows,
            "rows": rows,
        }
