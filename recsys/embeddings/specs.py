"""From a schema to the tables of a model.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from recsys.errors import SchemaError, did_you_mean
from recsys.schema import Frozen, Init, KeyedFeature, Pooling, Schema, TableSpec


class TableOptions(Frozen):
    """What one table does differently from the model's defaults."""

    embedding_dim: int | None = Field(default=None, ge=1)
    """Width of the table's rows. If it is not the model's, a learned matrix brings them there."""
    init: Init | None = None
    """Start values, first-order weights included."""
    pooling: Pooling | None = None
    """How several indices become one vector; by default what the features say."""


def table_specs(
    schema: Schema,
    widths: Mapping[str, int],
    options: Mapping[str, TableOptions],
    init: Init,
) -> dict[str, tuple[TableSpec, ...]]:
    """The tables of a model: one a group and table name of the schema.

    Args:
        schema: Features and rows.
        widths: Width of the rows by group. Exceptions to the width only reach ``embedding``.
        options: Exceptions by table name.
        init: Start values without an exception.

    Returns:
        Tables by group, in the order of the features that first name them. Empty for a schema
        without ids.

    Raises:
        SchemaError: ``options`` names an unknown table or has no effect, a table is not fitted,
            or features of one table ask for different pooling.

    Example:
        >>> from recsys.schema import Categorical, Label
        >>> schema = Schema(features=(Categorical(name="user", num_embeddings=9),),
        ...                 labels=(Label(name="click"),))
        >>> specs = table_specs(schema, {"linear": 1}, {}, Init())
        >>> specs["linear"][0].num_embeddings, specs["linear"][0].embedding_dim
        (9, 1)
    """
    rows = schema.num_embeddings()
    for name, option in options.items():
        if name not in rows:
            raise SchemaError(
                f"`tables.{name}`: the schema has no table `{name}`. {did_you_mean(name, rows)}"
            )
        if option.embedding_dim is not None and "embedding" not in widths:
            raise SchemaError(
                f"`tables.{name}.embedding_dim` has no effect: this model has first-order weights "
                "only. Remove it."
            )
    specs: dict[str, list[TableSpec]] = {group: [] for group in widths if rows}
    for name, num_embeddings in rows.items():
        option = options.get(name, TableOptions())
        features = [feature for feature in schema.keyed if feature.table_name == name]
        for group, group_specs in specs.items():
            width = option.embedding_dim if group == "embedding" else None
            group_specs.append(
                TableSpec(
                    name=name,
                    num_embeddings=num_embeddings,
                    embedding_dim=width or widths[group],
                    feature_names=tuple(feature.name for feature in features),
                    pooling=option.pooling or _pooling(name, features),
                    init=option.init or init,
                    by_frequency=not any(_is_hashed(feature) for feature in features),
                )
            )
    return {group: tuple(group_specs) for group, group_specs in specs.items()}


def _is_hashed(feature: KeyedFeature) -> bool:
    return getattr(feature, "encoding", "vocab") == "hash"


def _pooling(table: str, features: list[KeyedFeature]) -> Pooling:
    """What the features of one table say; one index a row pools either way."""
    stated: dict[str, Pooling] = {
        feature.name: pooling
        for feature in features
        if (pooling := getattr(feature, "pooling", None)) is not None
    }
    if len(set(stated.values())) > 1:
        raise SchemaError(
            f"features of table `{table}` ask for different pooling: {stated}. "
            f"Make them equal, or set `tables.{table}.pooling`."
        )
    for pooling in stated.values():
        return pooling
    return "sum"
