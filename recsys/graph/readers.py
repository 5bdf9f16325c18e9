"""Folders of collaborative filtering research as splits: numbers in text files, split or labelled.

Logs are read by `recsys.graph.log_reader`, triples by `recsys.graph.triples`.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recsys.data.source import Source
from recsys.errors import DataError
from recsys.graph.cleaning import Cleaning, core, merged_pairs
from recsys.graph.interactions import Interactions, InteractionSplits, Names
from recsys.graph.log_reader import LogColumns, read_columns_of, read_log
from recsys.graph.number_files import read_columns, read_lists, require_line_end
from recsys.graph.splitting import GivenSplit, Split, given_splits, split_interactions

Files = Mapping[str, Path]
"""The file of ``train`` and, where they are there, of ``valid`` and ``test``."""


def read_user_item_lists(
    files: Files, rule: GivenSplit, names: Mapping[str, Path] | None = None
) -> InteractionSplits:
    """Reads ``user item item ...`` lines, as LightGCN, NGCF, KGAT and UltraGCN have them.

    Users and items are numbered by their sorted ids over all files, so a number is the id where
    ids have no gap. Report: ``duplicate_rows``, ``users_without_items`` (lines with a user only),
    and what `recsys.graph.splitting.held_out` counts.

    Args:
        files: By split.
        rule: Which share of train becomes the validation part, where no file is given for it.
        names: Files ``user_list.txt`` and ``item_list.txt`` under ``user`` and ``item``, with the
            original ids; then these are the ids. See `read_original_ids`.

    Raises:
        DataError: A file is missing, cut or malformed, or there is no training pair.
    """
    parts: dict[str, tuple[np.ndarray, ...]] = {}
    lonely = 0
    for split, file in files.items():
        user, item, without = read_lists(file)
        if len(user) == 0:
            raise DataError("no line has an item. Is it the right file?", file=str(file))
        parts[split] = (user, item, without)
        lonely += len(without)
    users = np.unique(np.concatenate([part[k] for part in parts.values() for k in (0, 2)]))
    items = np.unique(np.concatenate([part[1] for part in parts.values()]))
    report = {"users_without_items": lonely}
    pairs = {split: (part[0], part[1]) for split, part in parts.items()}
    return _given(pairs, (users, items), rule, report, names=names)


def read_weighted_pairs(
    files: Files, rule: GivenSplit, more_users: np.ndarray | None = None
) -> InteractionSplits:
    """Reads ``user <tab> item <tab> count`` lines, as LightGCN's lastfm has them.

    Counts may be written as ``3.2466e+05``. Pairs that repeat in a file are added up. Report as
    `read_user_item_lists`.

    Args:
        files: By split.
        rule: Which share of train becomes the validation part.
        more_users: Ids of users that are known although they may have no pair.

    Raises:
        DataError: A file is missing, cut or malformed, or there is no training pair.
    """
    parts = {split: _weighted(file) for split, file in files.items()}
    ids = [np.unique(np.concatenate([part[k] for part in parts.values()])) for k in (0, 1)]
    if more_users is not None:
        ids[0] = np.union1d(ids[0], more_users)
    weights = {split: part[2] for split, part in parts.items()}
    pairs = {split: (part[0], part[1]) for split, part in parts.items()}
    return _given(pairs, (ids[0], ids[1]), rule, {}, weights)


def _weighted(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User, item and weight of every row."""
    require_line_end(file)
    names = ("user", "item", "count")
    rows = read_columns_of(
        Source(files=(str(file),), format="tsv", columns=names, quoted=False), names
    )
    return rows.counts("user"), rows.counts("item"), rows.counts("count", whole=False)


def _given(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    ids: tuple[np.ndarray, np.ndarray],
    rule: GivenSplit,
    report: dict[str, int],
    weights: Mapping[str, np.ndarray] | None = None,
    names: Mapping[str, Path] | None = None,
) -> InteractionSplits:
    """Splits of pairs of ids."""
    users, items = ids
    named = (Names(users), Names(items))
    if names is not None:
        named = (
            Names(read_original_ids(names["user"], users)),
            Names(read_original_ids(names["item"], items)),
        )
    made: dict[str, Interactions] = {}
    for split, (user, item) in pairs.items():
        numbers = (np.searchsorted(users, user), np.searchsorted(items, item))
        weight = None if weights is None else weights[split]
        made[split] = merged_pairs(
            named, numbers, weight=weight, options=Cleaning(merge_weight="sum"), report=report
        )
    return given_splits(made["train"], made.get("test"), rule, made.get("valid"), report)


def read_original_ids(file: str | Path, numbers: np.ndarray) -> np.ndarray:
    """Original ids from a list with a header and ``org_id remap_id ...`` lines.

    Args:
        file: ``user_list.txt``, ``item_list.txt``, ``entity_list.txt`` or ``relation_list.txt``.
        numbers: The ``remap_id`` whose ids are wanted.

    Returns:
        Text, in the order of ``numbers``.

    Raises:
        DataError: The file is missing or malformed, or lacks a number.
    """
    try:
        lines = Path(file).expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"not readable: {error}. Check the path.", file=str(file)) from None
    if not lines or lines[0].split()[:2] != ["org_id", "remap_id"]:
        raise DataError("expected the header `org_id remap_id ...`.", file=str(file))
    found: dict[int, str] = {}
    for row, line in enumerate(lines[1:]):
        cells = line.split()
        if len(cells) < 2 or not (cells[1].isascii() and cells[1].isdigit()):
            raise DataError(f"expected `org_id remap_id`, got {line[:40]!r}.", file=str(file),
                            row=row + 1)  # fmt: skip
        found[int(cells[1])] = cells[0]
    missing = [number for number in numbers.tolist() if number not in found]
    if missing:
        raise DataError(
            f"{len(missing):,} numbers have no original id, the first is {missing[0]}. Is the "
            "file complete?",
            file=str(file),
        )
    return np.array([found[number] for number in numbers.tolist()], object)


# ------------------------------------------------------------------------------- labelled pairs


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class LabelledPairs:
    """Pairs with a label, negatives drawn by somebody else included, in the order of the file.

    Args:
        users: Ids of all users.
        items: Ids of all items, also of those that only negatives name.
        user: Number of the user of every pair.
        item: Number of its item.
        label: 1 where it was seen, else 0.

    Shape:
        - user, item, label: (pairs,) int64
    """

    users: Names
    items: Names
    user: np.ndarray
    item: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def of_label(self, label: int, report: dict[str, int] | None = None) -> Interactions:
        """The pairs with one label, as interactions.

        Args:
            label: 1 for what was seen, 0 for negatives.
            report: Gets ``duplicate_rows`` added.
        """
        here = self.label == label
        return merged_pairs(
            (self.users, self.items), (self.user[here], self.item[here]), report=report
        )


def read_labelled_pairs(file: str | Path) -> LabelledPairs:
    """Reads ``user item label`` lines, as KGCN, RippleNet and MCCLK write them.

    Args:
        file: ``ratings_final.txt``.

    Raises:
        DataError: The file is missing, cut or malformed, a label is not 0 or 1, or a pair has both.
    """
    user, item, label = read_columns(file, ("user", "item", "label"))
    if label.max() > 1:
        row = int(np.argmax(label > 1))
        raise DataError(f"expected a label of 0 or 1, got {label[row]}.", file=str(file),
                        row=row + 1)  # fmt: skip
    users, items = np.unique(user), np.unique(item)
    user, item = np.searchsorted(users, user), np.searchsorted(items, item)
    keys = user * len(items) + item
    both = np.isin(keys[label == 1], keys[label == 0])
    if both.any():
        row = int(np.flatnonzero(label == 1)[np.argmax(both)])
        raise DataError("the pair has label 1 here and label 0 in another row.", file=str(file),
                        row=row + 1)  # fmt: skip
    return LabelledPairs(Names(users), Names(items), user, item, label)


def split_labelled(
    pairs: LabelledPairs, rule: Split
) -> tuple[InteractionSplits, dict[str, LabelledPairs]]:
    """Splits what was seen and what was not by the same rule.

    Args:
        pairs: Both kinds.
        rule: How.

    Returns:
        The pairs that were seen as interactions, and, by split, the same with the negatives
        (positives first), for metrics like AUC that need both.

    Raises:
        ConfigError: See `recsys.graph.splitting.split_interactions`.
        DataError: See there.
    """
    report: dict[str, int] = {}
    seen = split_interactions(pairs.of_label(1, report), rule, report)
    unseen = dict(split_interactions(pairs.of_label(0), rule).items())
    labelled = {}
    for name, split in seen.items():
        other = unseen[name]
        labelled[name] = dataclasses.replace(
            pairs,
            user=np.concatenate([split.user, other.user]),
            item=np.concatenate([split.item, other.item]),
            label=np.repeat(np.array([1, 0]), [len(split), len(other)]),
        )
    return seen, labelled


# --------------------------------------------------------------------------------------- plays


def read_linked_plays(
    plays: str | Path, links: str | Path, options: Cleaning | None = None
) -> tuple[Interactions, dict[str, int]]:
    """Reads KGCN's ``user_artists.dat``, and keeps the items that the knowledge graph knows.

    Args:
        plays: Tab-separated, with the header ``userID artistID weight``.
        links: ``item_index2entity_id.txt``: item and entity in every line.
        options: What to merge and to leave out.

    Returns:
        As `recsys.graph.cleaning.clean`, with ``pairs_of_unlinked_items`` in the report.

    Raises:
        DataError: A file is missing, cut or malformed, or nothing is left.
    """
    options = options or Cleaning()
    require_line_end(plays)
    source = Source(files=(str(plays),), format="tsv", quoted=False)
    columns = LogColumns(user="userID", item="artistID", weight="weight", ids="int")
    whole = options.model_copy(update={"min_weight": None, "min_user": 1, "min_item": 1})
    found, report = read_log(source, columns, whole)
    linked, _ = read_columns(links, ("item", "entity"))
    known = np.isin(found.items.values, linked)[found.item]
    report["pairs_of_unlinked_items"] = int(len(known) - known.sum())
    return core(found.take(known), options, report), report
