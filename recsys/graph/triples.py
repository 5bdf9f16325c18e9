"""Triples of files as a knowledge graph about the items of interactions.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recsys.data.source import Source
from recsys.errors import DataError
from recsys.graph.interactions import Names
from recsys.graph.knowledge import KnowledgeGraph
from recsys.graph.log_reader import atomic_source, read_columns_of
from recsys.graph.number_files import read_columns, require_line_end


def knowledge_graph(
    items: Names, triples: Sequence[Any], links: Sequence[Any] | None = None
) -> KnowledgeGraph:
    """Numbers entities (items first, then the others sorted) and relations (sorted).

    Triples that repeat are left out. A linked item has the id of its entity, an item without an
    entity is called ``item:<id>`` (and then all entities have text ids). Of several items with one
    entity the first has it; of several entities of an item the first counts.

    Report: ``duplicate_triples``; ``items_without_triples``; ``unknown_items``, which no
    interaction has (with links: items there, whose links are left out; else entities with a number
    below that of some item, which are entities like others); with links also
    ``items_without_entity``, ``items_sharing_an_entity`` and ``items_with_more_entities``.

    Args:
        items: Of the interactions.
        triples: Ids of heads, relations and tails.
        links: Ids of items and of their entities; None where items are entities under the same id.

    Raises:
        DataError: There is no triple, or no item is in any.

    Example:
        >>> graph = knowledge_graph(Names([3, 5]), ([3, 9], ["by", "in"], [9, 8]))
        >>> graph.entities.values.tolist(), graph.head.tolist(), graph.tail.tolist()
        ([3, 5, 8, 9], [0, 3], [3, 2])
        >>> graph.report["items_without_triples"]
        1
    """
    heads, relations, tails = (pd.Index(part) for part in triples)
    if len(heads) == 0:
        raise DataError("the knowledge graph has no triple.")
    report: dict[str, int] = {}
    named = heads.union(tails).unique()
    if links is None:
        of_items = pd.Index(items.values)
        report["unknown_items"] = _numbers_between(of_items, named)
    else:
        of_items = _linked(items, links, report)
        if of_items.dtype != named.dtype:
            heads, tails, named = (part.astype(str) for part in (heads, tails, named))
    others = named.difference(of_items, sort=True)
    entities = Names(of_items.append(others))
    names = Names(relations.unique().sort_values())
    table = np.stack(
        [entities.numbers(heads), names.numbers(relations), entities.numbers(tails)], axis=1
    )
    unique = np.unique(table, axis=0)
    report["duplicate_triples"] = len(table) - len(unique)
    head, relation, tail = (np.ascontiguousarray(unique[:, k]) for k in range(3))
    ends = np.concatenate([head, tail])
    known = len(np.unique(ends[ends < len(items)]))
    report["items_without_triples"] = len(items) - known
    if known == 0:
        raise DataError(
            f"no triple names an item: items are like {items.values[0]!r}, entities like "
            f"{named[0]!r}. Do the files belong together?"
        )
    return KnowledgeGraph(entities, names, len(items), head, relation, tail, report)


def _numbers_between(items: pd.Index, named: pd.Index) -> int:
    """Entities with a number up to the largest of the items that are none of them."""
    if not (pd.api.types.is_integer_dtype(items) and pd.api.types.is_integer_dtype(named)):
        return 0
    numbers = named.to_numpy()
    return len(np.setdiff1d(numbers[numbers <= items.max()], items.to_numpy()))


def _linked(items: Names, links: Sequence[Any], report: dict[str, int]) -> pd.Index:
    """The id as entity of every item."""
    numbers, entities = items.numbers(links[0]), pd.Index(links[1])
    report["unknown_items"] = int((numbers < 0).sum())
    numbers, entities = numbers[numbers >= 0], entities[numbers >= 0]
    order = np.argsort(numbers, kind="stable")
    numbers, entities = numbers[order], entities[order]
    shared = entities.duplicated()
    numbers, entities = numbers[~shared], entities[~shared]
    more = pd.Index(numbers).duplicated()
    numbers, entities = numbers[~more], entities[~more]
    report["items_sharing_an_entity"] = int(shared.sum())
    report["items_with_more_entities"] = int(more.sum())
    report["items_without_entity"] = len(items) - len(numbers)
    if len(numbers) == len(items):
        return entities
    ids = np.array([f"item:{value}" for value in items.values], object)
    ids[numbers] = entities.astype(str)
    return pd.Index(ids, dtype="str")


def read_triples(file: str | Path, items: Names) -> KnowledgeGraph:
    """Reads ``head relation tail`` lines of numbers, as KGAT, KGIN and MCCLK have them.

    Items are the entities with the same number.

    Args:
        file: ``kg_final.txt``.
        items: Of the interactions, integers.

    Raises:
        DataError: The file is missing, cut or malformed, or names no item.
    """
    return knowledge_graph(items, read_columns(file, ("head", "relation", "tail")))


def read_named_triples(kg: str | Path, links: str | Path, items: Names) -> KnowledgeGraph:
    """Reads KGCN's raw files: ``head <tab> relation name <tab> tail``, and ``item <tab> entity``.

    Args:
        kg: ``kg.txt``.
        links: ``item_index2entity_id.txt``.
        items: Of the interactions, integers.

    Raises:
        DataError: A file is missing, cut or malformed, or no triple names an item.
    """
    source = Source(
        files=(str(kg),), format="tsv", columns=("head", "relation", "tail"), quoted=False
    )
    require_line_end(kg)
    rows = read_columns_of(source, ("head", "relation", "tail"))
    relation = rows.complete("relation").to_pylist()
    triples = (rows.counts("head"), relation, rows.counts("tail"))
    return knowledge_graph(items, triples, read_columns(links, ("item", "entity")))


def read_atomic_triples(kg: str | Path, links: str | Path, items: Names) -> KnowledgeGraph:
    """Reads RecBole's ``.kg`` and ``.link`` files.

    Args:
        kg: With ``head_id``, ``relation_id`` and ``tail_id``.
        links: With ``item_id`` and ``entity_id``.
        items: Of the interactions, text.

    Raises:
        DataError: A file is missing, cut or malformed, or no triple names an item.
    """
    triples = _atomic_columns(kg, ("head_id", "relation_id", "tail_id"))
    linked = _atomic_columns(links, ("item_id", "entity_id"))
    return knowledge_graph(items, triples, linked)


def _atomic_columns(file: str | Path, names: tuple[str, ...]) -> list[pd.Index]:
    """Columns of text without a gap."""
    source, cells = atomic_source(file)
    columns = [cells.get(name, name) for name in names]
    rows = read_columns_of(source, columns)
    return [pd.Index(rows.complete(column).to_pylist(), dtype="str") for column in columns]
