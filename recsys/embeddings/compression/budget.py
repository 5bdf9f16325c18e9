"""What plans share: sizes by construction, and the search for the largest plan that fits.

Stability: internal
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.scheme import Full, Scheme
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.schema import TableSpec

_GROUP = "plan"
_STEPS = 40


def planned_bytes(tables: Sequence[TableSpec], schemes: Mapping[str, Scheme]) -> int:
    """Bytes of tables once frozen in fp32: indices and decoders included, shared parts once.

    Nothing is allocated: the collection is built on meta and its storages are added up.

    Args:
        tables: Of one group.
        schemes: Resolved, by table name; the others are held in full.
    """
    if not tables:
        return 0
    keys = tuple(table.name for table in tables)
    tables = [table.model_copy(update={"feature_names": (table.name,)}) for table in tables]
    frozen = {f"{_GROUP}.{name}": scheme.frozen_scheme() for name, scheme in schemes.items()}
    collection = EmbeddingCollection({_GROUP: tuple(tables)}, keys, "meta", frozen, "fp32")
    return collection.bytes("infer").total


def full_bytes(tables: Sequence[TableSpec]) -> int:
    """Bytes of fp32 tables held in full."""
    return sum(4 * table.num_embeddings * table.embedding_dim for table in tables)


def smaller_of(table: TableSpec, scheme: Scheme) -> Scheme:
    """The scheme where it makes a table smaller, else `Full`. Not for shared physical tables.

    Args:
        table: One.
        scheme: Resolved for it.
    """
    size = planned_bytes([table], {table.name: scheme})
    return scheme if size < full_bytes([table]) else Full()


def fit(
    kind: str,
    tables: Sequence[TableSpec],
    budget: int,
    at: Callable[[float], dict[str, Scheme]],
    low: float = 0.0,
    high: float = 1.0,
) -> dict[str, Scheme]:
    """The largest plan within a budget, by bisection over one number.

    Args:
        kind: Of the scheme, for the error.
        tables: Of one group.
        budget: Most bytes.
        at: The plan at a size; its bytes must not fall when the size grows.
        low: The smallest size.
        high: The largest.

    Raises:
        BudgetInfeasible: The plan at ``low`` is above the budget.
    """
    best = at(low)
    least = planned_bytes(tables, best)
    if least > budget:
        raise infeasible(kind, tables, budget, least)
    largest = at(high)
    if planned_bytes(tables, largest) <= budget:
        return largest
    for _ in range(_STEPS):
        middle = (low + high) / 2
        plan = at(middle)
        if planned_bytes(tables, plan) <= budget:
            low, best = middle, plan
        else:
            high = middle
    return best


def check_fixed(
    kind: str, tables: Sequence[TableSpec], budget: int | None, plan: dict[str, Scheme]
) -> dict[str, Scheme]:
    """The plan of a scheme without a size to choose, after checking it against the budget.

    Args:
        kind: Of the scheme, for the error.
        tables: Of one group.
        budget: Most bytes; None for any.
        plan: The only one.

    Raises:
        BudgetInfeasible: It is above the budget.
    """
    if budget is not None:
        size = planned_bytes(tables, plan)
        if size > budget:
            raise infeasible(kind, tables, budget, size)
    return plan


def infeasible(kind: str, tables: Sequence[TableSpec], budget: int, least: int) -> BudgetInfeasible:
    """The error for a budget below what a scheme can reach.

    Args:
        kind: Of the scheme.
        tables: What was planned.
        budget: Asked for.
        least: The smallest size.
    """
    full = full_bytes(tables)
    return BudgetInfeasible(
        f"scheme `{kind}` cannot hold {len(tables)} tables in {budget:,} bytes "
        f"({budget / full:.4f} of {full:,}). Its smallest size is {least:,} bytes "
        f"({least / full:.4f}). Raise the budget, or take a scheme that reaches any size "
        "(`unified`, `hash`, `cafe`).",
        least,
    )


def search_first(kind: str, table: TableSpec) -> ConfigError:
    """The error for freezing a table before its search.

    Args:
        kind: Of the scheme.
        table: Frozen too early.
    """
    return ConfigError(
        f"table `{table.name}`: scheme `{kind}` has not searched yet, so there is nothing to "
        "serve. Train all of its phases (`recsys train` does), and freeze the model of the last."
    )
