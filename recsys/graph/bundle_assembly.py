"""From pairs of ids to `BundleData`: names for all parts, faults refused or counted.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from recsys.errors import DataError
from recsys.graph.bundles import BundleData, Bundles
from recsys.graph.cleaning import merged_pairs
from recsys.graph.interactions import Interactions, InteractionSplits, Names
from recsys.graph.splitting import GivenSplit, Split, given_splits, split_interactions
from recsys.schema import Frozen

Pairs = tuple[Any, Any]
"""Ids of both ends of every pair."""
PARTS = ("all", "train", "valid", "test")
"""What pairs of users and bundles may be called; ``all`` are split by a rule."""


class BundleCleaning(Frozen):
    """What becomes of bundles that cannot be used."""

    empty: Literal["error", "drop"] = "error"
    """A bundle without a known item, from a name or a user's pair: refuse it, or leave it out with
    the pairs of users that are about it."""
    unknown: Literal["error", "drop"] = "error"
    """A pair with a user, bundle or item that the given names lack: refuse it, or leave it out."""


@dataclasses.dataclass(frozen=True, slots=True)
class BundleNames:
    """Ids that are known beforehand; None for those that occur in the pairs, sorted.

    Args:
        users: Ids of all users.
        bundles: Ids of all bundles.
        items: Ids of all items.
    """

    users: Names | None = None
    bundles: Names | None = None
    items: Names | None = None


def assemble(
    user_bundle: Mapping[str, Pairs],
    bundle_item: Pairs,
    user_item: Pairs | None = None,
    names: BundleNames | None = None,
    rule: Split | None = None,
    options: BundleCleaning | None = None,
) -> BundleData:
    """Numbers users, bundles and items, merges pairs that repeat, and counts what is odd.

    Report: ``unknown_rows``, ``empty_bundles`` and ``pairs_of_empty_bundles`` (left out),
    ``duplicate_rows`` (merged), ``items_without_bundle``, ``bundles_of_one_item``,
    ``bundles_without_train_users`` and ``users_without_items`` (counted, they stay), and of
    validation and test what `recsys.graph.splitting.held_out` counts, say ``test_pairs_seen``
    (left out) and ``test_bundles_not_in_train``.

    Args:
        user_bundle: Who took which bundle, by part (`PARTS`): ``all``, or ``train`` with ``valid``
            and ``test`` where there are any.
        bundle_item: Which item is in which bundle.
        user_item: Who took which item.
        names: Ids that are known beforehand.
        rule: How ``all`` is split, or which share of ``train`` validates where no ``valid`` came.
        options: What to refuse.

    Raises:
        ConfigError: See `recsys.graph.splitting.split_interactions`.
        DataError: A bundle is empty, an id unknown (see `BundleCleaning`), or no pair is left.

    Example:
        >>> data = assemble({"train": ([1, 1, 2], [5, 6, 9])}, ([5, 5, 6], [70, 71, 70]),
        ...                 options=BundleCleaning(empty="drop"))
        >>> data.num_bundles, data.report["empty_bundles"], data.report["pairs_of_empty_bundles"]
        (2, 1, 1)
    """
    if set(user_bundle) - set(PARTS) or not {"all", "train"} & set(user_bundle):
        raise DataError(f"user_bundle: expected `all` or `train`, got {sorted(user_bundle)}.")
    if "all" in user_bundle and len(user_bundle) > 1:
        raise DataError("user_bundle: expected `all` by itself, or train, valid and test.")
    options, names = options or BundleCleaning(), names or BundleNames()
    report = {"unknown_rows": 0, "duplicate_rows": 0}
    columns = {f"user_bundle.{part}": _columns(f"user_bundle.{part}", pairs)
               for part, pairs in user_bundle.items()}  # fmt: skip
    user_columns = [pairs[0] for pairs in columns.values()]
    bundle_columns = [pairs[1] for pairs in columns.values()]
    columns["bundle_item"] = _columns("bundle_item", bundle_item)
    item_columns = [columns["bundle_item"][1]]
    bundle_columns.append(columns["bundle_item"][0])
    if user_item is not None:
        columns["user_item"] = _columns("user_item", user_item)
        user_columns.append(columns["user_item"][0])
        item_columns.append(columns["user_item"][1])
    users = _union(user_columns, "users") if names.users is None else names.users
    known = _union(bundle_columns, "bundles") if names.bundles is None else names.bundles
    items = _union(item_columns, "items") if names.items is None else names.items

    content = _numbered("bundle_item", columns["bundle_item"], (known, items), options, report)
    bundles, place = _not_empty(content, known, options, report)
    pairs = merged_pairs((bundles, items), (place[content[0]], content[1]), report=report)
    made = Bundles(bundles, items, pairs.user, pairs.item)
    taken = {}
    report["pairs_of_empty_bundles"] = 0
    for part in user_bundle:
        name = f"user_bundle.{part}"
        user, bundle = _numbered(name, columns[name], (users, known), options, report)
        kept = place[bundle] >= 0
        report["pairs_of_empty_bundles"] += int((~kept).sum())
        rows = (user[kept], place[bundle[kept]])
        taken[part] = merged_pairs((users, bundles), rows, report=report)
    alone = None
    if user_item is not None:
        found = _numbered("user_item", columns["user_item"], (users, items), options, report)
        alone = merged_pairs((users, items), found, report=report)
    return _counted(_split(taken, rule), made, alone, report)


def _columns(name: str, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    first, second = (np.asarray(ids) for ids in pairs)
    if first.ndim != 1 or first.shape != second.shape:
        raise DataError(
            f"{name}: expected two columns of one length, got {first.shape} and {second.shape}."
        )
    return first, second


def _union(columns: list[np.ndarray], what: str) -> Names:
    if len({values.dtype.kind in "iu" for values in columns if len(values)}) > 1:
        raise DataError(f"{what}: expected ids of one type in all parts, got text and integers.")
    return Names(np.unique(np.concatenate([values for values in columns if len(values)] or
                                          [np.zeros(0, np.int64)])))  # fmt: skip


def _numbered(
    name: str,
    columns: tuple[np.ndarray, np.ndarray],
    names: tuple[Names, Names],
    options: BundleCleaning,
    report: dict[str, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of both ends of the rows whose ids are known."""
    numbers = [names[k].numbers(columns[k]) for k in (0, 1)]
    known = (numbers[0] >= 0) & (numbers[1] >= 0)
    if not known.all():
        row = int(np.argmin(known))
        end = 0 if numbers[0][row] < 0 else 1
        if options.unknown == "error":
            what = name.split(".")[0].split("_")[end]
            raise DataError(
                f"{name}: {what} `{columns[end][row]}` is not among the {len(names[end]):,} known "
                f"{what}s, and {int((~known).sum()) - 1:,} other rows have such ends. Correct the "
                "rows or the names, or leave them out with unknown=drop.",
                row=row + 1,
            )
        report["unknown_rows"] += int((~known).sum())
    return numbers[0][known], numbers[1][known]


def _not_empty(
    content: tuple[np.ndarray, np.ndarray],
    bundles: Names,
    options: BundleCleaning,
    report: dict[str, int],
) -> tuple[Names, np.ndarray]:
    """The bundles that have items, and the new number of every bundle, -1 where it is left out."""
    full = np.bincount(content[0], minlength=len(bundles)) > 0
    report["empty_bundles"] = int((~full).sum())
    if not full.any():
        raise DataError("no bundle has an item. Check the file of bundles and items.")
    if not full.all() and options.empty == "error":
        raise DataError(
            f"bundle `{bundles.values[int(np.argmin(full))]}` is empty, as are "
            f"{report['empty_bundles'] - 1:,} others. Correct the bundles, or leave them out with "
            "empty=drop."
        )
    place = np.where(full, np.cumsum(full) - 1, -1)
    return (bundles if full.all() else Names(bundles.values[full])), place


def _split(taken: dict[str, Interactions], rule: Split | None) -> InteractionSplits:
    if "all" in taken:
        if rule is None:
            raise DataError("user_bundle: `all` needs a rule that says how it is split.")
        return split_interactions(taken["all"], rule)
    if rule is not None and not isinstance(rule, GivenSplit):
        raise DataError(f"pairs came split, so split.kind={rule.kind} has nothing to do.")
    given = rule or GivenSplit(valid=0)
    return given_splits(taken["train"], taken.get("test"), given, taken.get("valid"))


def _counted(
    splits: InteractionSplits, bundles: Bundles, alone: Interactions | None, report: dict[str, int]
) -> BundleData:
    renamed = {name.replace("items", "bundles"): count for name, count in splits.report.items()}
    report |= renamed
    report["items_without_bundle"] = bundles.items_without_bundle
    report["bundles_of_one_item"] = int((bundles.sizes() == 1).sum())
    report["bundles_without_train_users"] = int((splits.train.item_degrees() == 0).sum())
    if alone is not None:
        report["users_without_items"] = int((alone.user_degrees() == 0).sum())
    return BundleData(dataclasses.replace(splits, report=renamed), bundles, alone, report=report)
