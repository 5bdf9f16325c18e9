"""Items with a text and labels by aspect: what is alike in which respect.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy.sparse import csr_array

from recsys.errors import ConfigError, DataError
from recsys.graph.interactions import Names
from recsys.schema import Frozen

SPLITS = ("train", "valid", "test")
"""Names of the splits."""


class AspectRule(Frozen):
    """How items become train, valid and test, and which labels count."""

    valid: float = Field(default=0.1, ge=0, lt=1)
    """Share of the items for validation."""
    test: float = Field(default=0.2, ge=0, lt=1)
    """Share of the items for the final test."""
    seed: int = Field(default=0, ge=0)
    """Another seed, other splits."""
    max_items: int | None = Field(default=None, ge=2)
    """Labels of more items are left out: they say little (100 in Ostendorff et al.)."""
    unknown: Literal["error", "drop"] = "error"
    """A label of an item without a text: refuse it, or leave it out and count it."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class AspectTable:
    """Items, and which label they have in which aspect. Two items are alike where they share one.

    Args:
        items: Ids of the items.
        texts: A text of every item.
        aspects: Names of the aspects.
        labels: The labels: every one of one aspect.
        label_aspect: Number of the aspect of every label.
        item: Number of the item of every pair of an item and a label.
        label: Number of its label.
        split: Number of the split of every item, by `SPLITS`.
        report: What was left out, and what is odd, by name.
        vectors: Vectors of the items that were made elsewhere, by name: of their sentences, of a
            collaborative filter, of pictures.

    Shape:
        - vectors: (items, width) float32 each
        - label_aspect: (labels,) int64
        - item, label: (E,) int64, by item, then label, every pair once
        - split: (items,) int64

    Raises:
        DataError: Lengths differ, a number is out of range, a pair is there twice or out of order,
            or no item is to learn from.

    Example:
        >>> table = aspect_table({"a": "red ball", "b": "red car", "c": "blue car"},
        ...                      ["a", "b", "c", "b", "c"],
        ...                      ["colour", "colour", "colour", "kind", "kind"],
        ...                      ["red", "red", "blue", "car", "car"], AspectRule(valid=0, test=0))
        >>> [pair.tolist() for pair in table.pairs("kind", "train")]
        [[1], [2]]
        >>> table.report["pairs:colour"], table.labels_of(1)
        (1, {'colour': ['red'], 'kind': ['car']})
    """

    items: Names
    texts: tuple[str, ...]
    aspects: tuple[str, ...]
    labels: tuple[str, ...]
    label_aspect: np.ndarray
    item: np.ndarray
    label: np.ndarray
    split: np.ndarray
    report: dict[str, int] = dataclasses.field(default_factory=dict)
    vectors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, length, count in (
            *(
                (f"vectors of {name}", len(found), len(self.items))
                for name, found in self.vectors.items()
            ),
            ("texts", len(self.texts), len(self.items)),
            ("split", len(self.split), len(self.items)),
            ("label_aspect", len(self.label_aspect), len(self.labels)),
            ("label", len(self.label), len(self.item)),
        ):
            if length != count:
                raise DataError(f"aspects: expected {count:,} values of `{name}`, got {length:,}.")
        for name, limit in (("label_aspect", len(self.aspects)), ("item", len(self.items)),
                            ("label", len(self.labels)), ("split", len(SPLITS))):  # fmt: skip
            values = getattr(self, name)
            if len(values) and not 0 <= values.min() <= values.max() < limit:
                raise DataError(
                    f"aspects: expected `{name}` from 0 to {limit - 1}, got {values.min()} to "
                    f"{values.max()}."
                )
        if len(set(self.aspects)) < len(self.aspects) or not self.aspects:
            raise DataError(f"aspects: expected different names, got {list(self.aspects)}.")
        for name, found in self.vectors.items():
            if found.ndim != 2 or not np.isfinite(found).all():
                raise DataError(f"aspects: expected finite vectors of `{name}`, (items, width).")
        keys = self.item * np.int64(max(1, len(self.labels))) + self.label
        if (np.diff(keys) <= 0).any():
            raise DataError("aspects: expected every item and label once, by item, then label.")
        if not (self.split == 0).any():
            raise DataError("aspects: there is no item to learn from. Change the shares.")

    def __len__(self) -> int:
        return len(self.items)

    def aspect_number(self, aspect: str) -> int:
        """Position of an aspect.

        Args:
            aspect: Its name.

        Raises:
            DataError: There is no such aspect.
        """
        if aspect not in self.aspects:
            raise DataError(f"expected one of the aspects {list(self.aspects)}, got {aspect!r}.")
        return self.aspects.index(aspect)

    def members(self, split: str) -> np.ndarray:
        """Numbers of the items of a split, rising.

        Args:
            split: One of `SPLITS`.

        Raises:
            DataError: There is no such split.
        """
        if split not in SPLITS:
            raise DataError(f"expected one of the splits {list(SPLITS)}, got {split!r}.")
        return np.flatnonzero(self.split == SPLITS.index(split))

    def labels_in(self, aspect: str, split: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of an item and a label of one aspect.

        Args:
            aspect: Its name.
            split: Of which items; None for all.

        Returns:
            Item and label, (pairs,) int64 each, by item, then label.
        """
        here = self.label_aspect[self.label] == self.aspect_number(aspect)
        if split is not None:
            inside = np.zeros(len(self), bool)
            inside[self.members(split)] = True
            here = here & inside[self.item]
        return self.item[here], self.label[here]

    def pairs(self, aspect: str, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Items that are alike: all pairs of items of a split that share a label of an aspect.

        Grows with the square of the items of a label; `labels_in` is what large data need.

        Args:
            aspect: Its name.
            split: Of both items.

        Returns:
            Both items, the first the smaller, (pairs,) int64 each, in order, every pair once.
        """
        has = self.has_label(aspect, split)
        alike = (has @ has.T).tocoo()
        first, second = (ends.astype(np.int64) for ends in alike.coords)
        above = first < second
        order = np.lexsort((second[above], first[above]))
        return first[above][order], second[above][order]

    def has_label(self, aspect: str, split: str | None = None) -> csr_array:
        """Which item has which label of an aspect: sparse (items, labels) of ones, int32.

        Args:
            aspect: Its name.
            split: Of which items; None for all.
        """
        item, label = self.labels_in(aspect, split)
        ones = np.ones(len(item), np.int32)
        return csr_array((ones, (item, label)), shape=(len(self), len(self.labels)))

    def labels_of(self, item: int) -> dict[str, list[str]]:
        """Labels of one item by aspect.

        Args:
            item: Its number.
        """
        found: dict[str, list[str]] = {}
        for label in self.label[self.item == item].tolist():
            aspect = self.aspects[int(self.label_aspect[label])]
            found.setdefault(aspect, []).append(self.labels[label])
        return found


def aspect_table(
    texts: dict[Any, str],
    item_ids: Sequence[Any],
    aspect_names: Sequence[str],
    label_names: Sequence[str],
    rule: AspectRule | None = None,
    aspects: Sequence[str] | None = None,
) -> AspectTable:
    """Numbers items, aspects and labels, and splits the items.

    Report: ``unknown_rows`` (labels of items without a text), ``empty_rows`` (without a label) and
    ``frequent_labels`` (see ``rule.max_items``) are left out, ``duplicate_rows`` merged;
    ``items_without_label``, ``items_without_text`` (an empty one) and, of every aspect,
    ``items:<aspect>``, ``labels:<aspect>`` and ``pairs:<aspect>`` (pairs that are alike, over all
    items) are counted.

    Args:
        texts: The text of every item; also says which items there are.
        item_ids: Item of every row.
        aspect_names: Aspect of every row.
        label_names: Label of every row; empty for none.
        rule: How to split, and which labels count.
        aspects: Names of the aspects in their order; None for those that occur, sorted.

    Raises:
        ConfigError: The shares leave nothing to learn from.
        DataError: Columns differ in length, an item or an aspect is not known, or no label is left.
    """
    rule, report = rule or AspectRule(), {"unknown_rows": 0, "empty_rows": 0}
    if not len(item_ids) == len(aspect_names) == len(label_names):
        raise DataError(
            f"aspects: expected columns of one length, got {len(item_ids)} items, "
            f"{len(aspect_names)} aspects and {len(label_names)} labels."
        )
    ids = sorted(texts)
    place = {name: number for number, name in enumerate(ids)}
    known = set(aspects) if aspects is not None else None
    rows: list[tuple[int, str, str]] = []
    for row, (item, aspect, label) in enumerate(zip(item_ids, aspect_names, label_names)):
        if known is not None and aspect not in known:
            raise DataError(f"expected one of the aspects {sorted(known)}, got {aspect!r}.",
                            row=row + 1)  # fmt: skip
        if item not in place:
            if rule.unknown == "error":
                raise DataError(
                    f"item `{item}` has a label and no text. Add the text, or leave such rows out "
                    "with unknown=drop.", row=row + 1,
                )  # fmt: skip
            report["unknown_rows"] += 1
        elif not (aspect and label):
            report["empty_rows"] += 1
        else:
            rows.append((place[item], aspect, label))
    kept = _without_frequent(rows, rule, report)
    if not kept:
        raise DataError(f"no label is left of {len(item_ids):,} rows: {report}.")
    order = tuple(aspects) if aspects is not None else tuple(sorted({row[1] for row in kept}))
    names = sorted({(order.index(aspect), label) for _, aspect, label in kept})
    numbers = {name: number for number, name in enumerate(names)}
    pairs = np.array(
        sorted({(item, numbers[order.index(aspect), label]) for item, aspect, label in kept})
    )
    table = AspectTable(
        Names(ids), tuple(texts[name] for name in ids), order,
        tuple(label for _, label in names), np.array([aspect for aspect, _ in names]),
        pairs[:, 0], pairs[:, 1], _split(len(ids), rule), report,
    )  # fmt: skip
    report |= _counts(table)
    return table


def _without_frequent(
    rows: list[tuple[int, str, str]], rule: AspectRule, report: dict[str, int]
) -> set[tuple[int, str, str]]:
    kept = set(rows)
    report["duplicate_rows"] = len(rows) - len(kept)
    report["frequent_labels"] = 0
    if rule.max_items is None:
        return kept
    times: dict[tuple[str, str], int] = {}
    for _, aspect, label in kept:
        times[aspect, label] = times.get((aspect, label), 0) + 1
    frequent = {name for name, count in times.items() if count > rule.max_items}
    report["frequent_labels"] = len(frequent)
    return {row for row in kept if row[1:] not in frequent}


def _split(count: int, rule: AspectRule) -> np.ndarray:
    if rule.valid + rule.test >= 1:
        raise ConfigError(
            f"valid + test is {rule.valid + rule.test:g}: nothing is left to learn from. The two "
            "shares must sum to less than 1."
        )
    order = np.random.default_rng(rule.seed).permutation(count)
    num_test, num_valid = round(count * rule.test), round(count * rule.valid)
    split = np.zeros(count, np.int64)
    split[order[:num_test]] = 2
    split[order[num_test : num_test + num_valid]] = 1
    return split


def _counts(table: AspectTable) -> dict[str, int]:
    together = dataclasses.replace(table, split=np.zeros(len(table), np.int64), report={})
    labelled = np.bincount(table.item, minlength=len(table)) > 0
    counts = {
        "items_without_label": int((~labelled).sum()),
        "items_without_text": sum(not text.strip() for text in table.texts),
    }
    for aspect in table.aspects:
        item, label = table.labels_in(aspect)
        counts[f"items:{aspect}"] = len(np.unique(item))
        counts[f"labels:{aspect}"] = len(np.unique(label))
        counts[f"pairs:{aspect}"] = len(together.pairs(aspect, "train")[0])
    return counts
