"""Which interactions are learnt from, which choose, and which are reported.

A `Split` is a declaration in a data set's config; `split_interactions` acts on it. Every rule is
seeded and depends on nothing but the interactions.

Stability: caller
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from recsys.data.casting import iso_microseconds
from recsys.errors import ConfigError, DataError
from recsys.graph.interactions import Interactions, InteractionSplits
from recsys.schema import Frozen

TRAIN, VALID, TEST = 0, 1, 2


class _Shares(Frozen):
    valid: float = Field(default=0.1, ge=0, lt=1)
    """Share for validation: epochs and hyperparameters are chosen by it."""
    test: float = Field(default=0.2, ge=0, lt=1)
    """Share for the final test."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.valid + self.test >= 1:
            raise ConfigError(
                f"valid + test is {self.valid + self.test:g}: nothing is left to train on. "
                "The two shares must sum to less than 1."
            )
        return self


class RandomSplit(_Shares):
    """Pairs at random over all users, exactly the shares; some users may lose all their items."""

    kind: Literal["random"] = "random"
    seed: int = Field(default=0, ge=0)
    """Another seed, other splits."""


class UserSplit(_Shares):
    """The shares of the items of every user, rounded to the nearest number (halves up).

    Test comes first, then validation; one item stays in training whatever the shares are.
    """

    kind: Literal["by_user"] = "by_user"
    order: Literal["random", "time"] = "random"
    """Which items of a user: any, or the last ones (test after validation after training; of equal
    times any)."""
    seed: int = Field(default=0, ge=0)
    """Another seed, other splits."""


class LeaveOneOut(Frozen):
    """One item of every user for test and one for validation.

    A user with two items has no validation item, a user with one is for training only.
    """

    kind: Literal["leave_one_out"] = "leave_one_out"
    order: Literal["random", "time"] = "time"
    """Which item: any, or the last one for test and the one before it for validation (of equal
    times any)."""
    valid: bool = True
    """Whether there is a validation item."""
    seed: int = Field(default=0, ge=0)
    """Another seed, other splits."""


class TimeSplit(_Shares):
    """Earlier pairs train, then validation, latest test; the same borders for all users.

    Borders are given or the quantiles of the shares; pairs of one time are in one split. Users and
    items may be new after a border: the report counts them.
    """

    kind: Literal["by_time"] = "by_time"
    valid_from: float | str | None = None
    """First time that is validation (a number in the unit of the log, or an ISO time where the log
    holds times)."""
    test_from: float | str | None = None
    """First time that is test."""


class GivenSplit(Frozen):
    """The data come split into train and test; a validation part is cut out of train."""

    kind: Literal["given"] = "given"
    valid: float = Field(default=0.1, ge=0, lt=1)
    """Share of the training items of every user, as in `UserSplit`, where no validation file is
    given. 0 for the last training, when everything is chosen."""
    seed: int = Field(default=0, ge=0)
    """Another seed, another validation part."""


Split = Annotated[
    RandomSplit | UserSplit | LeaveOneOut | TimeSplit | GivenSplit, Field(discriminator="kind")
]
"""How interactions become train, valid and test."""


def split_interactions(
    interactions: Interactions, rule: Split, report: dict[str, int] | None = None
) -> InteractionSplits:
    """Splits interactions that have not been split.

    Args:
        interactions: All pairs.
        rule: How.
        report: What was left out before; `held_out` adds to it.

    Raises:
        ConfigError: The rule is ``given``, or its borders are in the wrong order.
        DataError: The rule needs times and there are none, or no pair is left to train on.

    Example:
        >>> from recsys.graph.cleaning import clean
        >>> log, _ = clean([1, 1, 1, 2], [5, 6, 7, 5], time=[30, 10, 20, 40])
        >>> splits = split_interactions(log, LeaveOneOut())
        >>> [split.items.values[split.item].tolist() for _, split in splits.items()]
        [[6, 5], [7], [5]]
    """
    if isinstance(rule, GivenSplit):
        raise ConfigError(
            "split.kind=given is for data that come as train and test. Choose by_user, "
            "leave_one_out, by_time or random."
        )
    if isinstance(rule, RandomSplit):
        part, wanted = _random(interactions, rule), (rule.valid > 0, rule.test > 0)
    elif isinstance(rule, UserSplit):
        part, wanted = _by_user(interactions, rule), (rule.valid > 0, rule.test > 0)
    elif isinstance(rule, LeaveOneOut):
        part, wanted = _leave_one_out(interactions, rule), (rule.valid, True)
    else:
        part = _by_time(interactions, rule)
        wanted = (
            rule.valid > 0 or rule.valid_from is not None,
            rule.test > 0 or rule.test_from is not None,
        )
    train, valid, test = (interactions.take(part == number) for number in (TRAIN, VALID, TEST))
    return held_out(train, valid if wanted[0] else None, test if wanted[1] else None, report)


def given_splits(
    train: Interactions,
    test: Interactions | None,
    rule: GivenSplit,
    valid: Interactions | None = None,
    report: dict[str, int] | None = None,
) -> InteractionSplits:
    """Splits that came with the data, with a validation part out of train where none came.

    Args:
        train: Given pairs.
        test: Given pairs with the same users and items, or None.
        rule: Which share to cut.
        valid: Given pairs; then nothing is cut.
        report: What was left out before; `held_out` adds to it.

    Raises:
        DataError: No pair is left to train on.
    """
    if valid is None and rule.valid > 0:
        train, valid = cut_validation(train, rule.valid, rule.seed)
    return held_out(train, valid, test, report)


def cut_validation(
    train: Interactions, share: float, seed: int = 0
) -> tuple[Interactions, Interactions]:
    """Cuts a validation part out of training pairs, so that nothing is chosen on test.

    Args:
        train: Pairs.
        share: Of the items of every user, rounded to the nearest number; one item stays.
        seed: Another seed, another part.

    Returns:
        What stays for training, and the validation part.

    Example:
        >>> from recsys.graph.cleaning import clean
        >>> log, _ = clean([1] * 10 + [2], list(range(10)) + [0])
        >>> [len(part) for part in cut_validation(log, 0.2)]
        [9, 2]
    """
    part = _by_user(train, UserSplit(valid=share, test=0, seed=seed))
    return train.take(part == TRAIN), train.take(part == VALID)


def held_out(
    train: Interactions,
    valid: Interactions | None,
    test: Interactions | None,
    report: dict[str, int] | None = None,
) -> InteractionSplits:
    """Splits with what is not fit to be asked counted, or left out.

    Pairs that an earlier split holds are left out of later ones (``test_pairs_seen``): seen items
    are masked, so they can never be found. All else is only counted: ``users_without_train_items``,
    and, for validation and test, ``test_users_without_train_items``, ``test_items_not_in_train``
    and ``test_pairs_of_items_not_in_train``.

    Args:
        train: To learn from.
        valid: To choose by.
        test: To report.
        report: What was left out before; it is not changed.

    Raises:
        DataError: There is no training pair.
    """
    if len(train) == 0:
        raise DataError("there is no training interaction. Check the files and the split.")
    counts = dict(report or {})
    degrees, seen = train.user_degrees(), train.item_degrees() > 0
    counts["users_without_train_items"] = int((degrees == 0).sum())
    earlier, kept = [train], []
    for name, part in (("valid", valid), ("test", test)):
        if part is not None:
            known = np.zeros(len(part), bool)
            for other in earlier:
                known |= _among(other.keys, part.keys)
            part = part.take(~known) if known.any() else part
            earlier.append(part)
            users = np.unique(part.user)
            counts[f"{name}_pairs_seen"] = int(known.sum())
            counts[f"{name}_users_without_train_items"] = int((degrees[users] == 0).sum())
            counts[f"{name}_items_not_in_train"] = int((~seen[np.unique(part.item)]).sum())
            counts[f"{name}_pairs_of_items_not_in_train"] = int((~seen[part.item]).sum())
        kept.append(part)
    return InteractionSplits(train, kept[0], kept[1], counts)


def _among(keys: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Which of the asked keys are among rising keys."""
    if len(keys) == 0:
        return np.zeros(len(asked), bool)
    at = np.searchsorted(keys, asked)
    return (at < len(keys)) & (keys[np.minimum(at, len(keys) - 1)] == asked)


# ------------------------------------------------------------------------------------------ rules


def _random(interactions: Interactions, rule: RandomSplit) -> np.ndarray:
    total = len(interactions)
    order = np.random.default_rng(rule.seed).permutation(total)
    num_test, num_valid = round(total * rule.test), round(total * rule.valid)
    part = np.full(total, TRAIN)
    part[order[:num_test]] = TEST
    part[order[num_test : num_test + num_valid]] = VALID
    return part


def _ranks(interactions: Interactions, order: str, seed: int) -> np.ndarray:
    """Place of every pair among its user's, from 0: latest first, or at random."""
    keys = [np.random.default_rng(seed).random(len(interactions))]
    if order == "time":
        keys.append(-_time(interactions, "order=time"))
    sorted_rows = np.lexsort((*keys, interactions.user))
    ranks = np.empty(len(interactions), np.int64)
    ranks[sorted_rows] = np.arange(len(interactions))
    return ranks - interactions.offsets()[interactions.user]


def _by_user(interactions: Interactions, rule: UserSplit) -> np.ndarray:
    degrees = interactions.user_degrees()
    spare = np.maximum(degrees - 1, 0)
    num_test = np.minimum(np.floor(degrees * rule.test + 0.5), spare)
    num_valid = np.minimum(np.floor(degrees * rule.valid + 0.5), spare - num_test)
    ranks, user = _ranks(interactions, rule.order, rule.seed), interactions.user
    return np.where(
        ranks < num_test[user], TEST, np.where(ranks < (num_test + num_valid)[user], VALID, TRAIN)
    )


def _leave_one_out(interactions: Interactions, rule: LeaveOneOut) -> np.ndarray:
    degrees = interactions.user_degrees()[interactions.user]
    ranks = _ranks(interactions, rule.order, rule.seed)
    part = np.where((ranks == 0) & (degrees >= 2), TEST, TRAIN)
    return np.where((ranks == 1) & (degrees >= 3), VALID, part) if rule.valid else part


def _by_time(interactions: Interactions, rule: TimeSplit) -> np.ndarray:
    times = _time(interactions, "split.kind=by_time")
    shares = (1 - rule.valid - rule.test, 1 - rule.test)
    given = (rule.valid_from, rule.test_from)
    wanted = (rule.valid > 0, rule.test > 0)
    borders = [np.inf, np.inf]
    for i in (1, 0):
        if given[i] is not None:
            borders[i] = _border(given[i])
        elif wanted[i]:
            borders[i] = float(np.quantile(times, shares[i], method="higher"))
        elif i == 0:
            borders[i] = borders[1]
    if borders[0] > borders[1]:
        raise ConfigError(
            f"valid_from ({borders[0]:g}) is after test_from ({borders[1]:g}): train comes first, "
            "then valid, then test. Correct the two borders."
        )
    return np.searchsorted(borders, times, "right")


def _border(value: float | str | None) -> float:
    try:
        return float(value or 0.0)
    except ValueError:
        pass
    try:
        return float(iso_microseconds(str(value)))
    except ValueError:
        raise ConfigError(f"expected a number or an ISO time as border, got {value!r}.") from None


def _time(interactions: Interactions, what: str) -> np.ndarray:
    if interactions.time is None:
        raise DataError(
            f"{what} needs times, and the interactions have none. Name the column of the time, or "
            "split at random."
        )
    return interactions.time
