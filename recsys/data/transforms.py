"""What numbers become: scaled floats or buckets, and the streaming statistics behind both.

Stability: internal
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pydantic import Field

from recsys.hashing import splitmix64
from recsys.schema import FIRST_INDEX, OOV_INDEX, Frozen, Numeric


class NumberFit(Frozen):
    """What training values of one numeric feature looked like, after ``fill`` and ``log``."""

    count: int = 0
    """Values that were there."""
    mean: float = 0.0
    """Mean."""
    sd: float = 0.0
    """Standard deviation of the population."""
    minimum: float = 0.0
    """Smallest."""
    maximum: float = 0.0
    """Largest."""


class BucketFit(Frozen):
    """Borders of quantile buckets: bucket i holds ``borders[i-1] <= x < borders[i]``."""

    borders: tuple[float, ...] = Field(default=())
    """Rising."""
    missing: bool = False
    """Whether training saw missing values, which then have the last index."""

    @property
    def num_embeddings(self) -> int:
        """Rows of the table, PAD and OOV included."""
        return FIRST_INDEX + len(self.borders) + 1 + int(self.missing)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Index of every value.

        Args:
            values: float64, NaN where missing.

        Returns:
            int32 indices.
        """
        codes = np.searchsorted(np.asarray(self.borders), values, side="right") + FIRST_INDEX
        missing = np.isnan(values)
        if missing.any():
            codes[missing] = self.num_embeddings - 1 if self.missing else OOV_INDEX
        return codes.astype(np.int32)


class Moments:
    """Streaming mean and variance (Chan's merge of batches, in float64), minimum and maximum."""

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, 0.0, 0.0
        self._minimum, self._maximum = np.inf, -np.inf

    def add(self, values: np.ndarray) -> None:
        """Adds values; NaN counts as missing.

        Args:
            values: float64.
        """
        values = values[~np.isnan(values)]
        if not len(values):
            return
        count, mean = len(values), float(values.mean())
        squares = float(np.square(values - mean).sum())
        total, delta = self._count + count, mean - self._mean
        self._mean += delta * count / total
        self._squares += squares + delta * delta * self._count * count / total
        self._count = total
        self._minimum = min(self._minimum, float(values.min()))
        self._maximum = max(self._maximum, float(values.max()))

    def fit(self) -> NumberFit:
        """What was added so far."""
        if not self._count:
            return NumberFit()
        return NumberFit(
            count=self._count,
            mean=self._mean,
            sd=float(np.sqrt(self._squares / self._count)),
            minimum=self._minimum,
            maximum=self._maximum,
        )


class RowSample:
    """A uniform sample of rows of bounded size: those with the smallest hash of their position.

    It depends neither on block sizes nor on the process, and it is all rows while they fit.

    Args:
        size: Rows to keep.
        seed: Another seed, another sample.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self._size, self._seed, self._seen = size, seed, 0
        self._limit = np.uint64(2**64 - 1)
        self._ranks: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []
        self._held = 0

    @property
    def seen(self) -> int:
        """Rows offered so far."""
        return self._seen

    def add(self, rows: np.ndarray) -> None:
        """Offers rows, in the order of the data.

        Args:
            rows: One row a line.
        """
        positions = np.arange(self._seen, self._seen + len(rows))
        self._seen += len(rows)
        ranks = splitmix64(splitmix64(positions) ^ self._seed).view(np.uint64)
        chosen = ranks <= self._limit
        self._ranks.append(ranks[chosen])
        self._rows.append(rows[chosen])
        self._held += len(self._ranks[-1])
        if self._held > 2 * self._size:
            self._shrink()

    def rows(self) -> np.ndarray:
        """The sample, in no particular order."""
        self._shrink()
        return self._rows[0]

    def _shrink(self) -> None:
        ranks, rows = np.concatenate(self._ranks), np.concatenate(self._rows)
        if len(ranks) > self._size:
            kept = np.argpartition(ranks, self._size - 1)[: self._size]
            ranks, rows = ranks[kept], rows[kept]
            self._limit = ranks.max()
        self._ranks, self._rows, self._held = [ranks], [rows], len(ranks)


def squash(feature: Numeric, values: np.ndarray) -> np.ndarray:
    """The steps of a numeric feature before its statistics are taken: fill number, then log.

    Args:
        feature: The feature.
        values: float64, NaN where missing.
    """
    if feature.fill != "mean":
        values = np.where(np.isnan(values), feature.fill, values)
    if feature.log:
        values = np.copysign(np.log1p(np.abs(values)), values)
    return values


def scale(feature: Numeric, fit: NumberFit, values: np.ndarray) -> np.ndarray:
    """A numeric feature as the model sees it.

    Args:
        feature: The feature.
        fit: Its statistics from training.
        values: float64, NaN where missing.

    Returns:
        float32, no NaN.
    """
    values = squash(feature, values)
    if feature.fill == "mean":
        values = np.where(np.isnan(values), fit.mean, values)
    if feature.scale == "standardize":
        values = (values - fit.mean) / (fit.sd or 1.0)
    elif feature.scale == "minmax":
        width = fit.maximum - fit.minimum
        values = np.clip((values - fit.minimum) / (width or 1.0), 0.0, 1.0)
    return values.astype(np.float32)


def quantile_borders(values: np.ndarray, num_buckets: int) -> tuple[float, ...]:
    """Borders that cut values into buckets of about equal frequency; equal borders are merged.

    Args:
        values: Sampled training values, NaN where missing.
        num_buckets: How many buckets.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return ()
    shares = np.arange(1, num_buckets) / num_buckets
    borders = np.unique(np.quantile(values, shares, method="inverted_cdf"))
    return tuple(borders[borders > values.min()].tolist())


def log_square(values: np.ndarray) -> pa.Array:
    """Criteo's buckets: ``floor(ln(x)^2)`` for x > 2, else the integer part; null where missing.

    Args:
        values: float64, NaN where missing.

    Source:
        The Criteo Kaggle 2014 winners (Juan et al.): ``int(log(x)^2)`` for x > 2, else ``SP<x>``.
        Differs: both kinds share one number line, as FuxiCTR does.

    Example:
        >>> log_square(np.array([-1.0, 2.0, 100.0, np.nan])).to_pylist()
        [-1, 2, 21, None]
    """
    missing = np.isnan(values)
    plain = np.where(missing, 0.0, values)
    logged = np.floor(np.square(np.log(np.maximum(plain, 2.0))))
    # Integer parts far below zero would not fit int64.
    codes = np.where(plain > 2, logged, np.maximum(np.trunc(plain), -(2.0**62)))
    return pa.array(codes.astype(np.int64), mask=missing)
