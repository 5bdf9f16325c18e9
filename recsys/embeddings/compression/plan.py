"""From a budget to a scheme for every table.

Stability: caller
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Self

from pydantic import Field, model_validator

from recsys.embeddings.compression.budget import full_bytes, infeasible
from recsys.embeddings.compression.hash import Hash
from recsys.embeddings.compression.schemes import AnyScheme
from recsys.embeddings.scheme import Dtype, Full, Scheme
from recsys.errors import BudgetInfeasible, ConfigError, SchemaError, did_you_mean
from recsys.schema import Frozen, TableSpec

_GROUP = "tables"


def compress(
    tables: Sequence[TableSpec],
    scheme: Scheme,
    *,
    ratio: float | None = None,
    bytes: int | None = None,
    overrides: Mapping[str, Scheme] | None = None,
    exact_rows: int = 64,
) -> dict[str, Scheme]:
    """Plans tables of one group under a memory budget.

    The budget counts real bytes of the frozen fp32 tables: rows, remaps, codes and decoders.

    Args:
        tables: What the model asks for.
        scheme: How to hold them.
        ratio: Most bytes as a share of the full fp32 tables, in (0, 1].
        bytes: Most bytes.
        overrides: Other schemes by table name. Tables in `Full` are taken off the budget; each
            other scheme gets the share of the rest that its tables have of the full size, and
            what that lacks to its smallest size from the others.
        exact_rows: Tables of up to so many rows stay in full and are taken off the budget, as
            long as all of them take at most a quarter of it: sharing rows of small vocabularies
            saves nothing and costs much. 0 turns it off.

    Returns:
        A resolved scheme for every table, for ``EmbeddingCollection(schemes=...)`` with the
        group's name in front.

    Raises:
        ConfigError: Both or a senseless budget, or what should be a scheme is none.
        SchemaError: ``overrides``, or a field of a scheme, names an unknown table.
        BudgetInfeasible: No plan fits; ``min_bytes`` is the smallest budget that one does.

    Example:
        >>> tables = [TableSpec(name=name, num_embeddings=rows, embedding_dim=8,
        ...                     feature_names=(name,), pooling="sum")
        ...           for name, rows in (("user", 10_000), ("sex", 4))]
        >>> plan = compress(tables, Hash(), ratio=0.1)
        >>> plan["user"].num_buckets, plan["sex"].kind
        (995, 'full')
    """
    plan = compress_groups(
        {_GROUP: tables},
        scheme,
        ratio=ratio,
        bytes=bytes,
        overrides=overrides,
        exact_rows=exact_rows,
    )
    return {name.partition(".")[2]: chosen for name, chosen in plan.items()}


def compress_groups(
    groups: Mapping[str, Sequence[TableSpec]],
    scheme: Scheme,
    *,
    ratio: float | None = None,
    bytes: int | None = None,
    overrides: Mapping[str, Scheme] | None = None,
    exact_rows: int = 64,
) -> dict[str, Scheme]:
    """Plans all groups of a collection. Each gets the share of the budget that it has of the size.

    Args:
        groups: What the model asks for.
        scheme: As for `compress`, like all that follows.
        ratio: Most bytes as a share of the full fp32 tables, in (0, 1].
        bytes: Most bytes.
        overrides: Other schemes by table name, in every group that has it.
        exact_rows: Tables of up to so many rows stay in full.

    Returns:
        By ``<group>.<table>``, for ``EmbeddingCollection(schemes=...)``.

    Raises:
        ConfigError: As `compress`, like the others.
        SchemaError: A name is unknown.
        BudgetInfeasible: No plan fits.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=10_001, embedding_dim=8,
        ...                   feature_names=("user",), pooling="sum")
        >>> plan = compress_groups({"embedding": [table]}, Hash(), bytes=32_000)
        >>> plan["embedding.user"].num_buckets
        998
    """
    everything = sum(full_bytes(tables) for tables in groups.values())
    share = _share_of(everything, ratio, bytes)
    overrides = overrides or {}
    _check_schemes(groups, scheme, overrides)
    narrow = Full() if share is None else Hash(multiplex=True)
    parts = [
        (group, chosen, mine)
        for group, tables in groups.items()
        for chosen, mine in _by_scheme(tables, scheme, overrides, narrow)
    ]
    plans: dict[str, Scheme] = {}
    for group, chosen, mine in parts:
        if isinstance(chosen, Full):
            plans |= {f"{group}.{table.name}": chosen for table in mine}
    rest = [part for part in parts if not isinstance(part[1], Full)]
    whole = sum(full_bytes(mine) for _, _, mine in rest)
    kept = everything - whole
    if share is not None and kept:
        if whole == 0 and share < 1:
            tables = [table for mine in groups.values() for table in mine]
            raise infeasible("full", tables, int(share * everything), everything)
        share = (share * everything - kept) / max(whole, 1)
    try:
        found = _plan_parts([part[1:] for part in rest], share, exact_rows)
    except BudgetInfeasible as error:
        needed = kept + error.min_bytes
        if len(parts) == 1:
            raise
        ratio = math.ceil(1e4 * needed / everything) / 1e4
        raise BudgetInfeasible(
            f"{error} The budget of all tables must be {needed:,} bytes or more (`ratio` {ratio}).",
            needed,
        ) from None
    for (group, _, _), plan in zip(rest, found):
        plans |= {f"{group}.{name}": chosen for name, chosen in plan.items()}
    names = [f"{group}.{table.name}" for group, tables in groups.items() for table in tables]
    return {name: plans[name] for name in names}


def _plan_parts(
    parts: Sequence[tuple[Scheme, list[TableSpec]]],
    share: float | Fraction | None,
    exact_rows: int,
) -> list[dict[str, Scheme]]:
    """Plans parts by their share. What is too little for one is taken from the others."""
    if share is None:
        return [_plan_part(*part, None, exact_rows) for part in parts]
    sizes = [full_bytes(tables) for _, tables in parts]
    budget, rate, waiting = share * sum(sizes), share, list(range(len(parts)))
    plans: dict[int, dict[str, Scheme]] = {}
    floors: dict[int, BudgetInfeasible] = {}
    while len(plans) < len(waiting):
        plans = {}
        for number in waiting:
            try:  # at least 1 byte, which nothing fits: so the smallest size comes out
                most = max(1, int(rate * sizes[number]))
                plans[number] = _plan_part(*parts[number], most, exact_rows)
            except BudgetInfeasible as error:
                floors[number] = error
        if not plans:
            break
        if len(plans) < len(waiting):
            waiting, plans = list(plans), {}
            taken = sum(error.min_bytes for error in floors.values())
            rate = (budget - taken) / sum(sizes[number] for number in waiting)
    taken = sum(error.min_bytes for error in floors.values())
    if taken > budget:
        worst = max(floors, key=lambda number: floors[number].min_bytes / sizes[number])
        raise BudgetInfeasible(str(floors[worst]), taken)
    for number, error in floors.items():
        plans[number] = _plan_part(*parts[number], error.min_bytes, exact_rows)
    return [plans[number] for number in range(len(parts))]


def _check_schemes(
    groups: Mapping[str, Sequence[TableSpec]], scheme: Scheme, overrides: Mapping[str, Scheme]
) -> None:
    """Refuses what is no scheme, and names of tables that there are not."""
    given = {"scheme": scheme, **{f"overrides[{k!r}]": v for k, v in overrides.items()}}
    for place, value in given.items():
        if not isinstance(value, Scheme):
            raise ConfigError(
                f"`{place}`: expected a scheme, say `UnifiedEmbedding()`, got {value!r}."
            )
    known = dict.fromkeys(table.name for tables in groups.values() for table in tables)
    for name in overrides:
        if name not in known:
            raise SchemaError(
                f"no table `{name}` to compress (in `overrides`; `compression.tables` of a "
                f"configuration). {did_you_mean(name, known)}"
            )
    for table in (table for tables in groups.values() for table in tables):
        chosen = overrides.get(table.name, scheme)
        if chosen.by_frequency and not table.by_frequency:
            kind = getattr(chosen, "kind", "?")
            raise ConfigError(
                f"scheme `{kind}` favours frequent ids and takes low indices for them, but the "
                f"ids of table `{table.name}` are hashed (`encoding: hash`), in no order. Take "
                "`cafe`, which finds frequent ids in training, or `encoding: vocab`, or another "
                f"scheme for this table (`compression.tables.{table.name}`)."
            )
    for chosen in (scheme, *overrides.values()):
        chosen.check_names([name for name in known if overrides.get(name, scheme) == chosen])


def _share_of(whole: int, ratio: float | None, bytes: int | None) -> float | Fraction | None:
    """The budget as a ratio, checked; exact where it is given in bytes."""
    if ratio is not None and bytes is not None:
        raise ConfigError(f"give `ratio` or `bytes`, not both; got {ratio} and {bytes}.")
    if ratio is not None and (
        isinstance(ratio, bool) or not isinstance(ratio, numbers.Real) or not 0 < ratio <= 1
    ):
        raise ConfigError(
            f"`ratio` must be a number above 0 and at most 1, got {ratio!r}: it is the share of "
            "the full tables' bytes that may be used."
        )
    if bytes is not None and (
        isinstance(bytes, bool) or not isinstance(bytes, numbers.Integral) or bytes < 1
    ):
        raise ConfigError(f"`bytes` must be a whole number of at least 1, got {bytes!r}.")
    if bytes is not None:
        return min(Fraction(1), Fraction(int(bytes), whole)) if whole else Fraction(1)
    return ratio


def _plan_part(
    scheme: Scheme, tables: Sequence[TableSpec], budget: int | None, exact_rows: int
) -> dict[str, Scheme]:
    """Tables of one scheme: small ones in full, unless there is no room for that."""
    small = [table for table in tables if table.num_embeddings <= exact_rows]
    others = [table for table in tables if table.num_embeddings > exact_rows]
    spent = full_bytes(small)
    if not small or (budget is not None and spent > budget / 4):
        return scheme.plan(tables, budget)
    exact: dict[str, Scheme] = {table.name: Full() for table in small}
    if not others:
        return exact
    try:
        return exact | scheme.plan(others, None if budget is None else budget - spent)
    except BudgetInfeasible:
        return scheme.plan(tables, budget)


def _by_scheme(
    tables: Sequence[TableSpec], scheme: Scheme, overrides: Mapping[str, Scheme], narrow: Scheme
) -> list[tuple[Scheme, list[TableSpec]]]:
    """Tables that are planned together; those of width 1 apart where a scheme cannot hold them."""
    found: list[tuple[Scheme, list[TableSpec]]] = []
    for table in tables:
        chosen = overrides.get(table.name, scheme)
        if table.embedding_dim == 1 and not chosen.narrow:
            chosen = narrow
        for other, mine in found:
            if other == chosen:
                mine.append(table)
                break
        else:
            found.append((chosen, [table]))
    return found


class CompressionConfig(Frozen):
    """How a model's tables are compressed: ``{scheme: {kind: unified}, ratio: 0.1}``."""

    scheme: AnyScheme = Full()
    """How tables are held."""
    ratio: float | None = Field(default=None, gt=0, le=1)
    """Most bytes as a share of the full fp32 tables, indices and decoders included."""
    bytes: int | None = Field(default=None, ge=1)
    """Most bytes, instead of a ratio; shared out over groups by their full size."""
    tables: dict[str, AnyScheme] = Field(default_factory=dict)
    """Other schemes by table name."""
    exact_rows: int = Field(default=64, ge=0)
    """Tables of up to so many rows stay in full (if they take at most a quarter of the budget)."""
    planned: dict[str, AnyScheme] | None = None
    """What was planned or learned, by ``<group>.<table>``. Written by recsys."""
    dtype: Dtype | None = None
    """How rows are stored in a model that is only served. Written by recsys."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ratio is not None and self.bytes is not None:
            raise ConfigError(
                f"give `ratio` or `bytes`, not both; got {self.ratio} and {self.bytes}."
            )
        return self

    def resolve(self, groups: Mapping[str, Sequence[TableSpec]]) -> dict[str, Scheme]:
        """The scheme of every table.

        Args:
            groups: The model's tables.

        Returns:
            By ``<group>.<table>``.

        Raises:
            SchemaError: ``tables`` or ``planned`` names an unknown table.
            BudgetInfeasible: No plan fits.
        """
        names = [f"{group}.{table.name}" for group, tables in groups.items() for table in tables]
        if self.planned is not None:
            missing = [name for name in names if name not in self.planned]
            unknown = [name for name in self.planned if name not in names]
            if missing or unknown:
                hint = did_you_mean(unknown[0], missing) if missing and unknown else ""
                raise SchemaError(
                    f"compression.planned is not of this model: it lacks {len(missing)} tables "
                    f"{missing[:3]} and names {len(unknown)} unknown ones {unknown[:3]}. {hint} "
                    "Plan again: remove `planned`."
                )
            return dict(self.planned)
        return compress_groups(
            groups,
            self.scheme,
            ratio=self.ratio,
            bytes=self.bytes,
            overrides=self.tables,
            exact_rows=self.exact_rows,
        )
