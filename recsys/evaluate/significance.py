"""Whether one model's lists are better than another's, or only seem so on these users.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import stats

from recsys.errors import DataError, did_you_mean
from recsys.evaluate.summary import text_table
from recsys.evaluate.user_results import UserResults
from recsys.metrics.bootstrap import Interval, mean_samples


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same users, by one metric.

    Args:
        metric: Name.
        users: Users with a value in both.
        base: Mean of the first model.
        other: Mean of the second.
        difference: ``other - base``.
        interval: Bootstrap interval of the difference, drawn over users.
        bootstrap_p: Two-sided p-value of the same draws.
        test_p: Two-sided p-value of the chosen test.
        wins: Users for whom the second is better.
        losses: Users for whom it is worse.
    """

    metric: str
    users: int
    base: float
    other: float
    difference: float
    interval: Interval
    bootstrap_p: float
    test_p: float
    wins: int
    losses: int


def compare(
    base: UserResults,
    other: UserResults,
    metrics: Sequence[str] | None = None,
    *,
    test: Literal["wilcoxon", "t"] = "wilcoxon",
    num_samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Comparison]:
    """Compares two models user by user.

    The bootstrap draws users, so a user's two values stay together; its p-value is the share of
    samples whose difference is at least as far from the observed one as that is from 0 (plus one in
    both counts). The Wilcoxon signed-rank test leaves out users without a difference; ``t`` is the
    paired t-test. P-values are of one metric each and are not corrected for looking at several.

    Users are a sample of users; training again with another seed is another source of chance, which
    neither test sees.

    Args:
        base: Of the first model.
        other: Of the second.
        metrics: Names; None takes all that both have.
        test: Second test beside the bootstrap.
        num_samples: Of the bootstrap.
        level: Of the interval.
        seed: Of the draws.

    Raises:
        DataError: Users or protocols differ, or a metric is missing.
        ValueError: ``num_samples`` or ``level`` is out of range.

    Source:
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 16.4 (shifting the
        distribution to the null hypothesis).

    Example:
        >>> users = np.arange(40)
        >>> one = UserResults(users, {"hr@1": users % 2 * 1.0}, "all items")
        >>> two = UserResults(users, {"hr@1": (users % 4 > 0) * 1.0}, "all items")
        >>> found = compare(one, two)[0]
        >>> found.difference, found.wins, found.losses, found.test_p < 0.01
        (0.25, 10, 0, True)
    """
    if not 0 < level < 1 or num_samples < 2:
        raise ValueError(
            "`level` must be between 0 and 1 and `num_samples` at least 2, got "
            f"{level} and {num_samples}."
        )
    if base.protocol != other.protocol:
        raise DataError(
            f"the results were computed differently: {base.protocol!r} and {other.protocol!r}. "
            "Evaluate both models with the same options."
        )
    names = [name for name in base.values if name in other.values] if metrics is None else metrics
    for name in names:
        if name not in base.values or name not in other.values:
            hint = did_you_mean(name, base.values.keys() & other.values.keys())
            raise DataError(f"metric `{name}` is not in both results. {hint}")
    order = _aligned(base, other)
    pairs = {name: (base.values[name], other.values[name][order]) for name in names}
    differences = {name: second - first for name, (first, second) in pairs.items()}
    if not differences:
        raise DataError("the two results have no metric in common.")
    samples = mean_samples(differences, num_samples, seed)
    ends = ((1 - level) / 2, (1 + level) / 2)
    return [
        _comparison(name, *pairs[name], samples[:, column], ends, test)
        for column, name in enumerate(names)
    ]


def _aligned(base: UserResults, other: UserResults) -> np.ndarray:
    """Where each user of the first is in the second."""
    if np.array_equal(base.users, other.users):
        return np.arange(len(base.users))
    missing = len(base.users) - int(np.isin(base.users, other.users).sum())
    extra = len(other.users) - int(np.isin(other.users, base.users).sum())
    if missing or extra:
        raise DataError(
            f"the results are of different users: {missing:,} of {len(base.users):,} are not in "
            f"the second, {extra:,} of {len(other.users):,} not in the first. Evaluate both "
            "models on the same split."
        )
    position = np.argsort(other.users, kind="stable")
    return position[np.searchsorted(other.users, base.users, sorter=position)]


def _comparison(
    name: str,
    first: np.ndarray,
    second: np.ndarray,
    samples: np.ndarray,
    ends: tuple[float, float],
    test: Literal["wilcoxon", "t"],
) -> Comparison:
    known = ~(np.isnan(first) | np.isnan(second))
    first, second = first[known], second[known]
    if not len(first):
        raise DataError(f"metric `{name}`: no user has a value in both results.")
    # Values are ratios of small integers: what differs by rounding only is equal.
    change = second - first
    change[np.abs(change) < 1e-12] = 0.0
    difference = float(change.mean())
    samples = samples[~np.isnan(samples)]
    far = int((np.abs(samples - difference) >= abs(difference)).sum())
    low, high = np.quantile(samples, ends)
    return Comparison(
        metric=name,
        users=len(first),
        base=float(first.mean()),
        other=float(second.mean()),
        difference=difference,
        interval=Interval(float(low), float(high)),
        bootstrap_p=(1 + far) / (1 + len(samples)),
        test_p=_p_value(change, test),
        wins=int((change > 0).sum()),
        losses=int((change < 0).sum()),
    )


def _p_value(change: np.ndarray, test: Literal["wilcoxon", "t"]) -> float:
    if not change.any():
        return 1.0
    if test == "wilcoxon":
        return float(np.asarray(stats.wilcoxon(change))[1])
    if len(change) < 2:
        return 1.0
    if np.ptp(change) == 0:
        return 0.0
    return float(np.asarray(stats.ttest_1samp(change, 0.0))[1])


def comparison_table(rows: Sequence[Comparison]) -> str:
    """Comparisons as text.

    Args:
        rows: From `compare`.
    """
    cells = [
        [row.metric, row.base, row.other, row.difference, row.interval.low, row.interval.high,
         row.bootstrap_p, row.test_p, row.wins, row.losses]
        for row in rows
    ]  # fmt: skip
    columns = ["metric", "base", "other", "difference", "low", "high", "p bootstrap", "p test"]
    return text_table([*columns, "wins", "losses"], cells)
