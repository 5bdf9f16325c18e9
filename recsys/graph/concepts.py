"""Queries and items described by named concepts, and which item is right for which query.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from recsys.errors import DataError
from recsys.graph.cleaning import merged_pairs
from recsys.graph.interactions import Interactions, InteractionSplits, Names
from recsys.graph.splitting import UserSplit, split_interactions

Pairs = tuple[Any, Any]
"""Both ends of every pair, as ids."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Descriptions:
    """What is known of users and items beside who took what: texts, and named concepts.

    Args:
        user_concepts: What users are known to be about; the items of it are the concepts.
        item_concepts: What items are known to be about.
        user_texts: A text of every user.
        item_texts: A text of every item.

    Raises:
        DataError: Parts are about other users, items or concepts.

    Example:
        >>> names, concepts = Names(["a", "b"]), Names(["red", "round"])
        >>> about = Interactions(names, concepts, np.array([1]), np.array([0]))
        >>> Descriptions(about, about, ("", "red"), ("", "red")).concepts.values.tolist()
        ['red', 'round']
    """

    user_concepts: Interactions
    item_concepts: Interactions
    user_texts: tuple[str, ...]
    item_texts: tuple[str, ...]

    def __post_init__(self) -> None:
        parts = (("user", self.user_concepts, self.user_texts),
                 ("item", self.item_concepts, self.item_texts))  # fmt: skip
        for name, pairs, texts in parts:
            if len(texts) != pairs.num_users:
                raise DataError(
                    f"{name}_texts: expected {pairs.num_users:,}, one a {name}, got {len(texts):,}."
                )
        both = [pairs.items.values for _, pairs, _ in parts]
        if not np.array_equal(both[0], both[1]):
            raise DataError(
                f"expected one list of concepts for users and items, got {len(both[0]):,} and "
                f"{len(both[1]):,}."
            )

    @property
    def concepts(self) -> Names:
        """Names of the concepts."""
        return self.user_concepts.items


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ConceptMatches:
    """What explicit concept spaces learn from.

    Args:
        relevance: Which item is right for which query, split; queries are the users of these
            interactions.
        concepts: Names of the concepts.
        query_concepts: What queries are known to be about; the items of it are the concepts.
        item_concepts: What items are known to be about.
        query_texts: A text of every query.
        item_texts: A text of every item.
        report: What was left out, and what is odd, by name.

    Raises:
        DataError: Parts are about other queries, items or concepts.

    Example:
        >>> matches = concept_matches(
        ...     {"q": "java coder", "r": "nurse"}, {"dev": "Developer", "med": "Medic"},
        ...     (["q", "r"], ["dev", "med"]), (["q"], ["Java"]), (["dev"], ["Java"]),
        ...     UserSplit(valid=0, test=0))
        >>> matches.concepts.values.tolist(), matches.report["queries_without_concept"]
        (['Java'], 1)
    """

    relevance: InteractionSplits
    concepts: Names
    query_concepts: Interactions
    item_concepts: Interactions
    query_texts: tuple[str, ...]
    item_texts: tuple[str, ...]
    report: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, found, expected in (
            ("query_concepts", self.query_concepts.users, self.queries),
            ("item_concepts", self.item_concepts.users, self.items),
            ("query_concepts", self.query_concepts.items, self.concepts),
            ("item_concepts", self.item_concepts.items, self.concepts),
        ):
            if found is not expected and not np.array_equal(found.values, expected.values):
                raise DataError(
                    f"{name}: expected the {len(expected):,} ids of the other parts, got "
                    f"{len(found):,}. Number all parts by the same names."
                )
        for name, names in (("query_texts", self.queries), ("item_texts", self.items)):
            if len(getattr(self, name)) != len(names):
                raise DataError(
                    f"{name}: expected {len(names):,} texts, got {len(getattr(self, name)):,}."
                )

    @property
    def queries(self) -> Names:
        """Ids of the queries."""
        return self.relevance.train.users

    @property
    def items(self) -> Names:
        """Ids of the items."""
        return self.relevance.train.items

    @property
    def descriptions(self) -> Descriptions:
        """Texts and concepts, queries as users."""
        return Descriptions(
            self.query_concepts, self.item_concepts, self.query_texts, self.item_texts
        )


def concept_matches(
    queries: dict[Any, str],
    items: dict[Any, str],
    relevant: Pairs,
    query_concepts: Pairs,
    item_concepts: Pairs,
    rule: UserSplit | None = None,
    by_query: bool = False,
    min_times: int = 1,
) -> ConceptMatches:
    """Numbers queries, items and concepts, and splits what is relevant.

    Report: ``duplicate_rows`` (merged), ``unknown_rows`` (ends that are no query or item; left
    out), ``rare_concepts`` (left out, see ``min_times``), ``queries_without_concept``,
    ``items_without_concept``, ``concepts_of_queries_alone`` and ``concepts_of_items_alone``
    (counted), and, unless whole queries are held out, those of
    `recsys.graph.splitting.held_out`.

    Args:
        queries: The text of every query.
        items: The text of every item.
        relevant: Query and item of every pair that is right.
        query_concepts: Query and concept.
        item_concepts: Item and concept.
        rule: Shares and seed. Of the items of every query, or of queries, see ``by_query``.
        by_query: Whether whole queries are held out, as new ones are asked.
        min_times: Fewest queries and items together that a concept is known of.

    Raises:
        DataError: No query, item, concept or relevant pair is left.
    """
    rule = rule or UserSplit()
    report = {"unknown_rows": 0, "duplicate_rows": 0, "rare_concepts": 0}
    named = {"query": Names(sorted(queries)), "item": Names(sorted(items))}
    known_pairs = []
    for name, pairs in (("query", query_concepts), ("item", item_concepts)):
        ends, words = list(pairs[0]), list(pairs[1])
        if len(words) != len(ends):
            raise DataError(f"{name}_concepts: expected two columns of one length.")
        numbers = named[name].numbers(ends) if ends else np.zeros(0, np.int64)
        report["unknown_rows"] += int((numbers < 0).sum())
        kept = (numbers >= 0) & np.array([bool(word) for word in words], bool)
        known_pairs.append((numbers[kept], np.asarray(words, object)[kept]))
    concepts, places = _concepts(known_pairs, min_times, report)
    made = {}
    for name, (ends, _), place in zip(("query", "item"), known_pairs, places):
        kept = place >= 0
        made[name] = merged_pairs((named[name], concepts), (ends[kept], place[kept]),
                                  report=report)  # fmt: skip
    ends = [named[name].numbers(list(column))
            for name, column in zip(("query", "item"), relevant)]  # fmt: skip
    kept = (ends[0] >= 0) & (ends[1] >= 0)
    report["unknown_rows"] += int((~kept).sum())
    log = merged_pairs((named["query"], named["item"]), (ends[0][kept], ends[1][kept]),
                       report=report)  # fmt: skip
    if not len(log):
        raise DataError(f"no relevant pair is left of {len(relevant[0]):,}: {report}.")
    splits = _by_query(log, rule) if by_query else split_interactions(log, rule)
    degrees = {name: pairs.user_degrees() for name, pairs in made.items()}
    known = {name: pairs.item_degrees() > 0 for name, pairs in made.items()}
    report |= splits.report | {
        "queries_without_concept": int((degrees["query"] == 0).sum()),
        "items_without_concept": int((degrees["item"] == 0).sum()),
        "concepts_of_queries_alone": int((known["query"] & ~known["item"]).sum()),
        "concepts_of_items_alone": int((known["item"] & ~known["query"]).sum()),
    }
    return ConceptMatches(
        splits, concepts, made["query"], made["item"],
        tuple(queries[name] for name in sorted(queries)),
        tuple(items[name] for name in sorted(items)), report,
    )  # fmt: skip


def _concepts(
    sides: list[tuple[np.ndarray, np.ndarray]], min_times: int, report: dict[str, int]
) -> tuple[Names, list[np.ndarray]]:
    """Concepts that enough queries and items have, and the number of every row's, -1 for none."""
    codes, words = pd.factorize(np.concatenate([side[1] for side in sides]), sort=True)
    ends = np.concatenate([sides[0][0], -1 - sides[1][0]])
    pairs = np.unique(np.stack([codes, ends]), axis=1)
    enough = np.bincount(pairs[0].astype(np.int64), minlength=len(words)) >= min_times
    report["rare_concepts"] = int((~enough).sum())
    if not enough.any():
        raise DataError(
            f"no concept is left of {len(words):,}. Lower min_times, or check the files."
        )
    place = np.where(enough, np.cumsum(enough) - 1, -1)[codes]
    return Names(words[enough]), np.split(place, [len(sides[0][0])])


def _by_query(log: Interactions, rule: UserSplit) -> InteractionSplits:
    """Whole queries in one split."""
    asked = np.flatnonzero(log.user_degrees() > 0)
    order = np.random.default_rng(rule.seed).permutation(len(asked))
    num_test, num_valid = round(len(asked) * rule.test), round(len(asked) * rule.valid)
    part = np.zeros(log.num_users, np.int64)
    part[asked[order[:num_test]]] = 2
    part[asked[order[num_test : num_test + num_valid]]] = 1
    train, valid, test = (log.take(part[log.user] == number) for number in range(3))
    if not len(train):
        raise DataError("there is no relevant pair to learn from. Change the shares.")
    return InteractionSplits(
        train, valid if rule.valid > 0 else None, test if rule.test > 0 else None
    )
