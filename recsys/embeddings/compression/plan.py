"""From a budget to a scheme for every table.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from pydantic import Field, model_validator

from recsys.embeddings.compression.budget import full_bytes
from recsys.embeddings.compression.hash import Hash
from recsys.embeddings.compression.schemes import AnyScheme
from recsys.embeddings.scheme import Dtype, Full, Scheme
from recsys.errors import ConfigError, SchemaError, did_you_mean
from recsys.schema import Frozen, TableSpec


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
        overrides: Other schemes by table name. Each gets the share of the budget that its tables
            have of the full size.
        exact_rows: Tables of up to so many rows stay in full and are taken off the budget, as
            long as all of them take at most a quarter of it: sharing rows of small vocabularies
            saves nothing and costs much. 0 turns it off.

    Returns:
        A resolved scheme for every table, for ``EmbeddingCollection(schemes=...)`` with the
        group's name in front.

    Raises:
        ConfigError: Both or a senseless budget.
        SchemaError: ``overrides`` names an unknown table.
        BudgetInfeasible: No plan fits; it names the smallest reachable size.

    Example:
        >>> tables = [TableSpec(name=name, num_embeddings=rows, embedding_dim=8,
        ...                     feature_names=(name,), pooling="sum")
        ...           for name, rows in (("user", 10_000), ("sex", 4))]
        >>> plan = compress(tables, Hash(), ratio=0.1)
        >>> plan["user"].num_buckets, plan["sex"].kind
        (995, 'full')
    """
    ratio = _share_of(full_bytes(tables), ratio, bytes)
    names = [table.name for table in tables]
    for name in overrides or {}:
        if name not in names:
            raise SchemaError(f"no table `{name}` to compress. {did_you_mean(name, names)}")
    plan: dict[str, Scheme] = {}
    narrow = Full() if ratio is None else Hash(multiplex=True)
    for chosen, mine in _by_scheme(tables, scheme, overrides or {}, narrow):
        budget = None if ratio is None else int(ratio * full_bytes(mine))
        small = [table for table in mine if table.num_embeddings <= exact_rows]
        spent = full_bytes(small)
        if small and (budget is None or spent <= budget / 4):
            plan |= {table.name: Full() for table in small}
            mine = [table for table in mine if table.num_embeddings > exact_rows]
            budget = None if budget is None else budget - spent
        if mine:
            plan |= chosen.plan(mine, budget)
    return {name: plan[name] for name in names}


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
        ConfigError: Both or a senseless budget.
        SchemaError: ``overrides`` names an unknown table.
        BudgetInfeasible: No plan fits.

    Example:
        >>> table = TableSpec(name="user", num_embeddings=10_001, embedding_dim=8,
        ...                   feature_names=("user",), pooling="sum")
        >>> plan = compress_groups({"embedding": [table]}, Hash(), bytes=32_000)
        >>> plan["embedding.user"].num_buckets
        998
    """
    ratio = _share_of(sum(full_bytes(tables) for tables in groups.values()), ratio, bytes)
    known = {table.name for tables in groups.values() for table in tables}
    for name in overrides or {}:
        if name not in known:
            raise SchemaError(f"no table `{name}` to compress. {did_you_mean(name, known)}")
    found: dict[str, Scheme] = {}
    for group, tables in groups.items():
        mine = {table.name for table in tables}
        others = {name: other for name, other in (overrides or {}).items() if name in mine}
        plan = compress(tables, scheme, ratio=ratio, overrides=others, exact_rows=exact_rows)
        found |= {f"{group}.{name}": chosen for name, chosen in plan.items()}
    return found


def _share_of(whole: int, ratio: float | None, bytes: int | None) -> float | None:
    """The budget as a ratio, checked."""
    if ratio is not None and bytes is not None:
        raise ConfigError(f"give `ratio` or `bytes`, not both; got {ratio} and {bytes}.")
    if ratio is not None and not 0 < ratio <= 1:
        raise ConfigError(
            f"`ratio` must be above 0 and at most 1, got {ratio}: it is the share of the full "
            "tables' bytes that may be used."
        )
    if bytes is not None and bytes < 1:
        raise ConfigError(f"`bytes` must be at least 1, got {bytes}.")
    if bytes is not None:
        return min(1.0, bytes / whole) if whole else 1.0
    return ratio


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
                f"compression: give `ratio` or `bytes`, not both; got {self.ratio} and "
                f"{self.bytes}."
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
            if set(self.planned) != set(names):
                raise SchemaError(
                    f"compression.planned has {sorted(self.planned)}, the model {sorted(names)}. "
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
