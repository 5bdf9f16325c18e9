"""What tests of hashing schemes share: the hash in plain Python integers, and checks of plans."""

from __future__ import annotations

import pytest
import xxhash

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.budget import full_bytes, planned_bytes
from recsys.embeddings.scheme import Scheme
from recsys.errors import BudgetInfeasible
from recsys.schema import TableSpec
from tests.embeddings.compression.toy import round_trip, table

_MASK64 = (1 << 64) - 1
RATIOS = [0.02, 0.1, 0.25, 0.5, 0.9]
TABLES = [table("a", 90), table("b", 5_000), table("c", 60_000)]


def row(index: int, name: str, buckets: int, salt: int = 0) -> int:
    """Row of an index under the hash of a name: written down from the documentation."""
    if index == 0:
        return 0
    mixed = (index + 0x9E3779B97F4A7C15) & _MASK64
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK64
    mixed ^= mixed >> 31
    factor = xxhash.xxh3_64_intdigest(name.encode(), salt) | 1
    return 1 + ((((factor * mixed) & _MASK64) >> 32) * buckets >> 32)


def collection(tables: list[TableSpec], plan: dict[str, Scheme]) -> EmbeddingCollection:
    schemes = {f"g.{name}": scheme for name, scheme in plan.items()}
    return EmbeddingCollection({"g": tables}, [t.name for t in tables], schemes=schemes)


def check_plan(scheme: Scheme, ratio: float, uses: float = 0.98) -> None:
    """A plan fits, uses most of the budget, and is what a collection built from it holds."""
    budget = int(ratio * full_bytes(TABLES))
    plan = scheme.plan(TABLES, budget)
    planned = planned_bytes(TABLES, plan)
    assert uses * budget < planned <= budget
    assert {name: round_trip(found) for name, found in plan.items()} == plan
    assert collection(TABLES, plan).bytes("infer").total == planned


def check_floor(scheme: Scheme, least: int) -> None:
    """Exactly this many bytes are enough for `TABLES`, and one less is not."""
    assert planned_bytes(TABLES, scheme.plan(TABLES, least)) == least
    with pytest.raises(BudgetInfeasible, match=str(scheme.model_dump()["kind"])) as error:
        scheme.plan(TABLES, least - 1)
    assert error.value.min_bytes == least


def check_whole_budget(scheme: Scheme) -> None:
    """Where all tables fit in full, nothing is compressed."""
    plan = scheme.plan(TABLES, full_bytes(TABLES))
    assert {found.model_dump()["kind"] for found in plan.values()} == {"full"}
