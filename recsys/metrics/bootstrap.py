"""How far the metrics of a split would move on another sample of it.

Stability: caller
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from recsys.errors import DataError
from recsys.metrics.auc import curve_auc
from recsys.metrics.curve import RankingCurve
from recsys.metrics.inputs import BinaryInputs, Floats, as_array, binary_inputs
from recsys.metrics.logloss import row_logloss


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """A percentile interval.

    Args:
        low: Lower end.
        high: Upper end.
    """

    low: float
    high: float


def bootstrap_intervals(
    labels: Any,
    probabilities: Any,
    weights: Any = None,
    groups: Any = None,
    *,
    num_samples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile intervals of auc, logloss, normalized_entropy and calibration.

    Every sample draws how often each row counts from Poisson(1), the large-sample form of drawing
    rows with replacement, so the scores are sorted only once. With ``groups`` whole groups are
    drawn: rows of one user resemble each other, and intervals by row would be too narrow.

    Args:
        labels: 1 or 0.
        probabilities: Between 0 and 1.
        weights: Weight of every row; None means all 1.
        groups: Group key of every row, or None to draw rows.
        num_samples: Samples drawn.
        level: Share of the samples within the interval.
        seed: Of the draws.

    Returns:
        Intervals by metric; both ends nan where the metric itself is (all labels equal).

    Raises:
        ValueError: ``level`` is not between 0 and 1 or ``num_samples`` is below 2.
        DataError: See `recsys.metrics.inputs.binary_inputs`.

    Source:
        Hanley and MacGibbon, "Creating non-parametric bootstrap samples using Poisson
        frequencies", Computer Methods and Programs in Biomedicine 2006.

    Example:
        >>> interval = bootstrap_intervals([0, 1] * 50, [0.2, 0.9] * 50)["logloss"]
        >>> round(interval.low, 2) < 0.17 < round(interval.high, 2)
        True
    """
    _check_samples(level, num_samples)
    rows = binary_inputs(labels, probabilities, weights, probabilities=True)
    codes = None if groups is None else _codes(groups, weights, len(rows.labels))
    order = np.argsort(rows.scores)[::-1]
    rows = BinaryInputs(rows.labels[order], rows.scores[order], rows.weights[order])
    codes = None if codes is None else codes[order]
    names = ("auc", "logloss", "normalized_entropy", "calibration")
    if rows.one_class:
        return {name: Interval(math.nan, math.nan) for name in names}
    samples = _samples(rows, codes, num_samples, np.random.default_rng(seed))
    ends = np.nanquantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: Interval(*map(float, ends[:, i])) for i, name in enumerate(names)}


def _codes(groups: Any, weights: Any, size: int) -> np.ndarray:
    keys = np.asarray(groups.detach().cpu().numpy() if hasattr(groups, "detach") else groups)
    if weights is not None and len(keys) != size:
        keys = keys[np.asarray(weights).reshape(-1) > 0]
    if len(keys) != size:
        raise DataError(f"`groups` must have a key for every row: got {len(keys):,} for {size:,}.")
    return np.unique(keys, return_inverse=True)[1].reshape(-1)


def _samples(
    rows: BinaryInputs, codes: np.ndarray | None, num_samples: int, random: np.random.Generator
) -> Floats:
    """Rows are sorted by falling score. Columns: auc, logloss, entropy ratio, calibration."""
    last = np.append(np.flatnonzero(np.diff(rows.scores)), len(rows.scores) - 1)
    losses = row_logloss(rows.labels, rows.scores)
    num_units = len(rows.labels) if codes is None else int(codes.max()) + 1
    result = np.full((num_samples, 4), np.nan)
    for sample in result:
        drawn = random.poisson(1.0, num_units).astype(np.float64)
        counts = rows.weights * (drawn if codes is None else drawn[codes])
        clicks = counts * rows.labels
        above = np.cumsum(clicks)[last]
        curve = RankingCurve(rows.scores[last], above, np.cumsum(counts)[last] - above)
        total, positive = float(counts.sum()), float(clicks.sum())
        if not 0 < positive < total:
            continue
        rate = positive / total
        entropy = -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))
        loss = float(counts @ losses) / total
        sample[:] = curve_auc(curve), loss, loss / entropy, float(counts @ rows.scores) / positive
    return result


def mean_intervals(
    columns: Mapping[str, Any], *, num_samples: int = 200, level: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Percentile intervals of means over units, say of a metric with one value a user.

    Every sample draws how often each unit counts from Poisson(1), as `bootstrap_intervals` does;
    all columns share the draws. Units where a column is nan do not count in it.

    Args:
        columns: Values by name, all of one length.
        num_samples: Samples drawn.
        level: Share of the samples within the interval.
        seed: Of the draws.

    Returns:
        Intervals by name; both ends nan where a column has no value.

    Raises:
        ValueError: ``level`` is not between 0 and 1 or ``num_samples`` is below 2.
        DataError: Columns differ in length, or there is no unit.

    Shape:
        - columns: (N,) each

    Example:
        >>> interval = mean_intervals({"recall": [0.0, 1.0] * 50})["recall"]
        >>> 0.3 < interval.low < 0.5 < interval.high < 0.7
        True
    """
    _check_samples(level, num_samples)
    samples = mean_samples(columns, num_samples, seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")
        ends = np.nanquantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: Interval(*map(float, ends[:, i])) for i, name in enumerate(columns)}


def mean_samples(columns: Mapping[str, Any], num_samples: int, seed: int = 0) -> Floats:
    """Means of the bootstrap samples that `mean_intervals` takes its quantiles of.

    Args:
        columns: Values by name, all of one length.
        num_samples: Samples drawn.
        seed: Of the draws.

    Raises:
        DataError: Columns differ in length, or there is no unit.

    Shape:
        - columns: (N,) each
        - output: (samples, columns)
    """
    values = [as_array(column, name) for name, column in columns.items()]
    sizes = {len(column) for column in values}
    if len(sizes) != 1 or 0 in sizes:
        raise DataError(f"columns must have one length of at least 1, got {sorted(sizes)}.")
    table = np.stack(values, axis=1)
    known = ~np.isnan(table)
    both = np.concatenate([np.where(known, table, 0.0), known], axis=1)
    random = np.random.default_rng(seed)
    result = np.full((num_samples, len(values)), np.nan)
    for sample in result:
        sums, counts = np.split(random.poisson(1.0, len(table)).astype(np.float64) @ both, 2)
        np.divide(sums, counts, out=sample, where=counts > 0)
    return result


def _check_samples(level: float, num_samples: int) -> None:
    if not 0 < level < 1 or num_samples < 2:
        raise ValueError(
            "`level` must be between 0 and 1 and `num_samples` at least 2, got "
            f"{level} and {num_samples}."
        )
