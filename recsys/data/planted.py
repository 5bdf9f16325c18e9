"""Rows with a planted truth: ids, numbers, tags and the logit that labels them.

`recsys.datasets.synthetic` says what the truth is made of and writes it as files. Every random
number is a hash of (seed, stream, row), so any block of rows can be made alone and the rows do
not depend on how many are made at a time.

Example:
    >>> truth = PlantedTruth(PlantedConfig(num_rows=100, valid_rows=10, test_rows=10))
    >>> whole, part = truth.rows(0, 120), truth.rows(50, 60)
    >>> bool((truth.logit(whole)[50:60] == truth.logit(part)).all())
    True

Stability: internal
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recsys.schema import Frozen

Array = NDArray[np.float64]
Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]

SPLITS = ("train", "valid", "test")
# fmt: off
CARDINALITIES = (  # Criteo Kaggle, after facebookresearch/dlrm
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992,
    5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)
NUMBER_MISSING = (.45, 0., .21, .22, .03, .22, .04, 0., .04, .45, .04, .77, .22)
# fmt: on
NUM_TAGS, MAX_TAGS = 300, 4
_LARGE = 5000  # fields above this get new ids over time and only a weight for every id
_PAIRS = ((5, 13), (24, 21), (4, 22))  # C6 C14, C25 C22, C5 C23
_TAG_PAIR = 5  # C6 with the tags
_RANK = 1
_TRIPLES = ((8, 19, 5), (19, 16, 8), (8, 21, 19))
_SLOPES = ((1, 5), (4, 21), (7, 16))  # number, field
_PRODUCTS = ((1, 7), (4, 8))  # two numbers
_BUMPS = (1, 5, 6, 10)
# Standard deviations of the parts of the logit.
_SMALL_SD, _LARGE_SD, _TAG_SD, _NUMBER_SD = 0.2, 0.08, 0.3, 0.1
_PAIR_SD, _TAG_PAIR_SD, _PRODUCT_SD, _SLOPE_SD = 0.46, 0.35, 0.24, 0.26
_TRIPLE_SD, _BUMP_SD = 0.28, 0.25


class PlantedConfig(Frozen):
    """Sizes, seed and strengths of a planted log."""

    num_rows: int = Field(default=100_000, ge=1)
    """Training rows."""
    valid_rows: int = Field(default=20_000, ge=1)
    """Validation rows, later than training."""
    test_rows: int = Field(default=20_000, ge=1)
    """Test rows, later than validation."""
    seed: int = Field(default=7, ge=0)
    """Another seed, another truth and other rows."""
    alpha: float = Field(default=1.1, ge=0, le=3)
    """Skew of the ids: the frequency of the i-th id is about ``i ** -alpha``. Fields with few
    ids (up to 100) use half of it."""
    rows_per_id: float = Field(default=200.0, ge=0)
    """A field has at most ``num_rows / rows_per_id`` ids. 0: Criteo's full cardinalities,
    where most ids are too rare to learn."""
    cardinality: float = Field(default=1.0, gt=0)
    """Scales the number of ids of the fields with more than 100."""
    strength: float = Field(default=1.0, ge=0)
    """Scales the whole logit but its bias: 0 leaves nothing to learn."""
    interactions: float = Field(default=1.0, ge=0)
    """Scales the parts that LR cannot express: 0 makes LR the right model."""
    bias: float = -1.35
    """Logit of an average row."""
    drift: float = Field(default=0.3, ge=0, le=1)
    """How much popularity, ids and base rate change from the first row to the last."""
    missing: float = Field(default=1.0, ge=0, le=1)
    """Scales the share of missing values."""
    noise: float = Field(default=0.0, ge=0)
    """Standard deviation of noise in the logit that no model can see. The oracle sees it."""


# ------------------------------------------------------------------------------------ randomness


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The splitmix64 finalizer."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hash(numbers: Ids, *keys: int) -> NDArray[np.uint64]:
    """A hash of every number under the keys."""
    key = np.zeros(1, dtype=np.uint64)
    for part in keys:
        key = _mix(key + np.uint64(part))
    return _mix(numbers.astype(np.uint64) ^ key)


def _uniform(numbers: Ids, *keys: int) -> Array:
    """In [0, 1)."""
    return (_hash(numbers, *keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _normal(numbers: Ids, *keys: int) -> Array:
    """Standard normal (Box and Muller)."""
    radius = np.sqrt(-2.0 * np.log1p(-_uniform(numbers, *keys, 1)))
    return radius * np.cos(2.0 * math.pi * _uniform(numbers, *keys, 2))


def sigmoid(x: Array) -> Array:
    """Logits to probabilities."""
    return 1.0 / (1.0 + np.exp(-x))


def _zipf(uniform: Array, size: int, alpha: float) -> Ids:
    """Bounded Zipf ranks, 0 the most frequent, by inversion."""
    power = 1.0 - alpha
    if abs(power) < 1e-9:
        x = np.exp(uniform * math.log(size + 1))
    else:
        x = (1.0 + uniform * ((size + 1) ** power - 1.0)) ** (1.0 / power)
    return np.minimum(x.astype(np.int64) - 1, size - 1)


def _zipf_shares(size: int, alpha: float) -> Array:
    """Probability of every rank of `_zipf`."""
    edges = np.arange(1, size + 2, dtype=np.float64)
    power = 1.0 - alpha
    cumulated = np.log(edges) if abs(power) < 1e-9 else (edges**power - 1.0) / power
    return np.diff(cumulated) / cumulated[-1]


# ------------------------------------------------------------------------------------- the truth


@dataclasses.dataclass(frozen=True)
class _Field:
    """One categorical field. Its ids are 0 (missing), then one for every rank and generation."""

    position: int
    size: int
    alpha: float
    missing: float
    renews: bool
    """Whether ids retire and new ones come; else popularity moves between the same ids."""

    @property
    def id_space(self) -> int:
        return 1 + self.size * (2 if self.renews else 1)

    def shares(self, drift: float) -> Array:
        """Probability of every id half way through time (fields that do not renew)."""
        shares = _zipf_shares(self.size, self.alpha)
        moved = np.roll(shares, self.size // 3)
        mixed = (1 - drift / 2) * shares + drift / 2 * moved
        return np.concatenate([[self.missing], (1 - self.missing) * mixed])


@dataclasses.dataclass
class PlantedRows:
    """A block of rows before they become Arrow columns."""

    index: Ids
    time: Array
    """0 at the first row, 1 at the last."""
    ids: list[Ids]
    numbers: list[Ids]
    number_missing: list[Mask]
    tags: Ids
    """(rows, most tags)"""
    tag_mask: Mask


class PlantedTruth:
    """The planted model and the rows it labels."""

    def __init__(self, config: PlantedConfig) -> None:
        self.config, self.seed = config, config.seed
        sizes = (config.num_rows, config.valid_rows, config.test_rows)
        self.total = sum(sizes)
        self.starts: dict[str, int] = dict(zip(SPLITS, np.cumsum((0, *sizes[:-1])).tolist()))
        self.sizes: dict[str, int] = dict(zip(SPLITS, sizes))
        self.fields = [self._field(j, size) for j, size in enumerate(CARDINALITIES)]
        self.weights = {f.position: self._table(f, 1)[:, 0] for f in self.fields if not f.renews}
        self.vectors = {
            j: self._table(self.fields[j], 2, _RANK) for j in {j for pair in _PAIRS for j in pair}
        }
        self.gates = [
            [self._table(self.fields[j], 10 + k)[:, 0] for j in triple]
            for k, triple in enumerate(_TRIPLES)
        ]
        self.slopes = [
            self._table(self.fields[j], 30 + k)[:, 0] for k, (_, j) in enumerate(_SLOPES)
        ]
        tags = np.arange(NUM_TAGS)
        shares = _zipf_shares(NUM_TAGS, config.alpha)
        self.tag_weights = _standard(_normal(tags, self.seed, 40)[:, None], shares)[:, 0]
        self.tag_vectors = _standard(
            np.stack([_normal(tags, self.seed, 41, k) for k in range(_RANK)], 1), shares
        )
        self.moments = [self._number_moments(j) for j in range(len(NUMBER_MISSING))]

    def _field(self, position: int, cardinality: int) -> _Field:
        size = cardinality
        if cardinality > 100:
            cap = (
                self.config.num_rows / self.config.rows_per_id if self.config.rows_per_id else size
            )
            size = max(20, min(int(cardinality * self.config.cardinality), int(cap)))
        return _Field(
            position=position,
            size=size,
            alpha=self.config.alpha * (1.0 if cardinality > 100 else 0.5),
            missing=0.03 * self.config.missing if cardinality > 1000 else 0.0,
            renews=cardinality > _LARGE,
        )

    def _table(self, field: _Field, stream: int, width: int = 1) -> Array:
        """Effects of every id, mean 0 and variance 1 over the rows."""
        ids = np.arange(field.id_space)
        columns = [_normal(ids, self.seed, 1000 + field.position, stream, k) for k in range(width)]
        return _standard(np.stack(columns, 1), field.shares(self.config.drift))

    def _number_moments(self, position: int) -> tuple[float, float]:
        quantiles = NormalDist()
        normal = np.array([quantiles.inv_cdf((k + 0.5) / 2000) for k in range(2000)])
        logs = _signed_log(_number(position, normal))
        return float(logs.mean()), float(logs.std())

    def blocks(self, split: str, block_rows: int = 65_536) -> Iterator[PlantedRows]:
        """The rows of a split, in time order."""
        start, stop = self.starts[split], self.starts[split] + self.sizes[split]
        for first in range(start, stop, block_rows):
            yield self.rows(first, min(first + block_rows, stop))

    def rows(self, start: int, stop: int) -> PlantedRows:
        """Rows by their position in the whole log."""
        index = np.arange(start, stop)
        time = index / self.total
        numbers, number_missing = [], []
        for j, share in enumerate(NUMBER_MISSING):
            numbers.append(_number(j, _normal(index, self.seed, 100 + j)))
            missing = _uniform(index, self.seed, 120 + j) < share * self.config.missing
            number_missing.append(missing)
        tags = np.stack(
            [
                _zipf(_uniform(index, self.seed, 150 + k), NUM_TAGS, self.config.alpha)
                for k in range(MAX_TAGS)
            ],
            axis=1,
        )
        num_tags = (_uniform(index, self.seed, 149) * (MAX_TAGS + 1)).astype(np.int64)
        return PlantedRows(
            index=index,
            time=time,
            ids=[self._ids(field, index, time) for field in self.fields],
            numbers=numbers,
            number_missing=number_missing,
            tags=tags,
            tag_mask=np.arange(MAX_TAGS)[None, :] < num_tags[:, None],
        )

    def _ids(self, field: _Field, index: Ids, time: Array) -> Ids:
        stream = 200 + 5 * field.position
        ids = _zipf(_uniform(index, self.seed, stream), field.size, field.alpha)
        if field.renews:  # every rank changes its id once in 1 / drift of the log's length
            phase = _uniform(ids, self.seed, stream + 1)
            ids = ids + field.size * (self.config.drift * time + phase).astype(np.int64)
        else:
            moves = _uniform(index, self.seed, stream + 2) < self.config.drift * time
            ids = np.where(moves, (ids + field.size // 3) % field.size, ids)
        missing = _uniform(index, self.seed, stream + 3) < field.missing
        return np.where(missing, 0, ids + 1)

    def logit(
        self,
        rows: PlantedRows,
        known: list[Mask] | None = None,
        known_tags: Mask | None = None,
    ) -> Array:
        """The true logit of every row; effects of ids that are not ``known`` count as zero."""
        seen = None if known is None else [mask[ids] for mask, ids in zip(known, rows.ids)]

        def effect(position: int, values: Array) -> Array:
            """The ids' values, zero where the id is not known."""
            if seen is None:
                return values
            return values * (seen[position] if values.ndim == 1 else seen[position][:, None])

        def lookup(position: int, table: Array) -> Array:
            return effect(position, table[rows.ids[position]])

        tag_mask = rows.tag_mask if known_tags is None else rows.tag_mask & known_tags[rows.tags]
        tag_share = tag_mask / np.maximum(rows.tag_mask.sum(1, keepdims=True), 1)
        numbers = [
            np.where(missing, 0.0, (_signed_log(x) - mean) / sd)
            for x, missing, (mean, sd) in zip(rows.numbers, rows.number_missing, self.moments)
        ]
        linear = _TAG_SD * (self.tag_weights[rows.tags] * tag_share).sum(1)
        for field in self.fields:
            j = field.position
            if field.renews:
                weight = _normal(rows.ids[j], self.seed, 1000 + j, 1)
                linear += _LARGE_SD * effect(j, weight)
            else:
                linear += _SMALL_SD * lookup(j, self.weights[j])
        for j, number in enumerate(numbers):
            linear += (_NUMBER_SD if j % 2 else -_NUMBER_SD) * number

        tag_vectors = (self.tag_vectors[rows.tags] * tag_share[:, :, None]).sum(1)
        beyond = _TAG_PAIR_SD * (lookup(_TAG_PAIR, self.vectors[_TAG_PAIR]) * tag_vectors).sum(1)
        for a, b in _PAIRS:
            product = lookup(a, self.vectors[a]) * lookup(b, self.vectors[b])
            beyond += _PAIR_SD / math.sqrt(_RANK) * product.sum(1)
        for triple, gates in zip(_TRIPLES, self.gates):
            beyond += _TRIPLE_SD * math.prod(lookup(j, gate) for j, gate in zip(triple, gates))
        for (number, j), slope in zip(_SLOPES, self.slopes):
            beyond += _SLOPE_SD * numbers[number] * lookup(j, slope)
        for a, b in _PRODUCTS:
            beyond += _PRODUCT_SD * numbers[a] * numbers[b]
        for number in _BUMPS:
            beyond += _BUMP_SD * (np.cos(1.7 * numbers[number]) * math.sqrt(2.0))

        return (
            self.config.bias
            + self.config.drift * (rows.time - 0.5)
            + self.config.strength * (linear + self.config.interactions * beyond)
            + self.config.noise * _normal(rows.index, self.seed, 500)
        )

    def labels(self, rows: PlantedRows, logit: Array) -> NDArray[np.int8]:
        """One draw from the true probability of every row."""
        return (_uniform(rows.index, self.seed, 501) < sigmoid(logit)).astype(np.int8)


def _standard(values: Array, shares: Array) -> Array:
    """Mean 0 and variance 1 under the shares, without outliers."""
    values = np.clip(values, -2.5, 2.5)
    values = values - (shares[:, None] * values).sum(0)
    return values / np.sqrt((shares[:, None] * values**2).sum(0))


def _number(position: int, normal: Array) -> Ids:
    """Heavy-tailed counts; the second column goes below zero, as Criteo's does."""
    counts = np.floor(np.exp(0.8 + 0.25 * (position % 6) + 1.6 * normal)).astype(np.int64)
    return counts - 2 if position == 1 else counts


def _signed_log(x: Ids) -> Array:
    return np.sign(x) * np.log1p(np.abs(x))
