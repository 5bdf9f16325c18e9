"""What the columns of a log mean, and what an embedding table is. Pydantic only, no torch.

A `Schema` is declared once (in a dataset's file or by hand), fitted on the training split by
`recsys.data.prepare`, and handed to models and to the predictor. Fitting only fills
``num_embeddings``; everything else is what the user declared.

Example:
    >>> schema = Schema(
    ...     features=(
    ...         Categorical(name="user", min_count=2),
    ...         Numeric(name="age", scale="standardize"),
    ...         MultiValued(name="tags", separator="|", pooling="mean"),
    ...     ),
    ...     labels=(Label(name="click"),),
    ... )
    >>> schema.keys, schema.dense_width
    (('user', 'tags'), 1)
    >>> Schema.model_validate_json(schema.model_dump_json()) == schema
    True

Stability: caller
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recsys.errors import SchemaError

PAD_INDEX = 0
"""Row 0 of every table: padding. Its vector is zero and is never trained."""
OOV_INDEX = 1
"""Row 1 of every table: ids that training did not see, or saw too rarely."""
FIRST_INDEX = 2
"""The first row that belongs to an id."""

Pooling = Literal["sum", "mean"]
Name = Annotated[str, Field(pattern=r"^[^\s./\\@]+$")]


class Frozen(BaseModel):
    """Base of every declaration: immutable, unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), ser_json_inf_nan="constants"
    )


class ModelConfig(Frozen):
    """Base of every model's nested ``Config``."""


# ------------------------------------------------------------------------------------- features


class _Feature(Frozen):
    name: Name
    """Name in the model, in errors and in reports. No spaces, dots, slashes or ``@``."""
    column: str | None = None
    """Column in the raw files, where it differs from ``name``."""

    @property
    def source(self) -> str:
        """The column in the raw files."""
        return self.column or self.name


class _Keyed(_Feature):
    """A feature that becomes table indices."""

    table: Name | None = None
    """Table to share with other features of the same ``table``; by default one of its own.
    Sharing features share one vocabulary."""
    num_embeddings: int | None = Field(default=None, ge=FIRST_INDEX)
    """Rows of the table, PAD and OOV included. Filled by fitting."""

    @property
    def table_name(self) -> str:
        """Name of the table this feature looks up."""
        return self.table or self.name


class _Ids(_Keyed):
    """How ids become indices: by vocabulary or by hash."""

    dtype: Literal["string", "int"] = "string"
    """Type of the ids in the raw files. ``int`` is int64."""
    encoding: Literal["vocab", "hash"] = "vocab"
    """``vocab``: an index for every id seen ``min_count`` times in training, by falling count,
    ties by id, so that growing the vocabulary appends. ``hash``: salted 64-bit hash."""
    min_count: int = Field(default=1, ge=1)
    """Rarer ids share the OOV row (``vocab`` only)."""
    max_vocab: int | None = Field(default=None, ge=1)
    """Keep only so many of the most frequent ids (``vocab`` only)."""
    num_buckets: int | None = Field(default=None, ge=1)
    """Rows for hashed ids, PAD and OOV come on top (``hash`` only, required there)."""
    salt: int = Field(default=0, ge=0)
    """Seed of the hash (``hash`` only)."""

    @model_validator(mode="after")
    def _check_encoding(self) -> Self:
        if self.encoding == "hash" and self.num_buckets is None:
            raise SchemaError(
                f"feature `{self.name}`: encoding=hash needs `num_buckets`. "
                "State how many rows the hashed ids may use."
            )
        if self.encoding == "vocab" and self.num_buckets is not None:
            raise SchemaError(
                f"feature `{self.name}`: `num_buckets` belongs to encoding=hash, got "
                "encoding=vocab. Use `max_vocab` to bound a vocabulary."
            )
        return self


class Categorical(_Ids):
    """One id a row. A missing value is an id of its own, like any other."""

    kind: Literal["categorical"] = "categorical"


class Bucketized(_Keyed):
    """A number that becomes one index a row. A missing value is a bucket of its own."""

    kind: Literal["bucketized"] = "bucketized"
    method: Literal["quantile", "log_square"]
    """``quantile``: ``num_buckets`` of equal training frequency. ``log_square``: Criteo's
    ``floor(ln(x)^2)`` for x > 2, else the integer part; buckets form a vocabulary."""
    num_buckets: int | None = Field(default=None, ge=2)
    """Number of buckets (``quantile`` only, required there)."""
    min_count: int = Field(default=1, ge=1)
    """Rarer buckets share the OOV row (``log_square`` only)."""

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        if (self.method == "quantile") != (self.num_buckets is not None):
            raise SchemaError(
                f"feature `{self.name}`: `num_buckets` is required for method=quantile and "
                f"not allowed for method=log_square; got {self.num_buckets}."
            )
        return self


class MultiValued(_Ids):
    """Several ids a row, in no particular order, possibly none: a bag."""

    kind: Literal["multi_valued"] = "multi_valued"
    pooling: Pooling
    """How the vectors of a bag become one. Stated, never assumed."""
    separator: str | None = None
    """Splits a text column into ids. None means the column holds lists."""
    max_length: int | None = Field(default=None, ge=1)
    """Keep at most so many ids a row, the first ones."""
    weights: str | None = None
    """Column with one weight for every id (same separator, or lists)."""


class Sequence(_Ids):
    """Several ids a row in time order, oldest first: a behaviour history."""

    kind: Literal["sequence"] = "sequence"
    pooling: Pooling
    """How models that do not read sequences pool it."""
    separator: str | None = None
    """Splits a text column into ids. None means the column holds lists."""
    max_length: int = Field(ge=1)
    """Keep the latest so many ids."""


class Numeric(_Feature):
    """One number a row, float32."""

    kind: Literal["numeric"] = "numeric"
    log: bool = False
    """``sign(x) * ln(1 + |x|)`` first."""
    scale: Literal["none", "standardize", "minmax"] = "none"
    """``standardize``: (x - mean) / sd. ``minmax``: (x - min) / (max - min), clipped to 0..1.
    Fitted on train."""
    fill: float | Literal["mean"] = "mean"
    """What a missing value becomes: a number before ``log`` and ``scale``, or the training mean
    after ``log``."""
    nan: Literal["error", "missing"] = "error"
    """Whether NaN in a file is a bad value or a missing one. Infinity is always bad."""


class Vector(_Feature):
    """A pretrained vector a row (list column of floats), passed through."""

    kind: Literal["vector"] = "vector"
    dim: int = Field(ge=1)
    """Length of the vector."""


Feature = Annotated[
    Categorical | Bucketized | MultiValued | Sequence | Numeric | Vector,
    Field(discriminator="kind"),
]
KeyedFeature = Categorical | Bucketized | MultiValued | Sequence


class Label(Frozen):
    """What is predicted: 1 or 0."""

    name: Name
    """Name in reports."""
    column: str | None = None
    """Column in the raw files, where it differs from ``name``."""
    threshold: float | None = None
    """Values of at least this are 1, the others 0. Without it only 0 and 1 are allowed."""
    ignore: tuple[float, ...] = ()
    """Rows with one of these raw values are left out and counted (say 3-star ratings)."""

    @property
    def source(self) -> str:
        """The column in the raw files."""
        return self.column or self.name


class Schema(Frozen):
    """The features, labels and roles of a log's columns."""

    features: tuple[Feature, ...]
    """In this order they reach every model."""
    labels: tuple[Label, ...]
    """One or more tasks."""
    weight: str | None = None
    """Column with the weight of a row in loss and metrics."""
    group: str | None = None
    """Column for grouped metrics (say the user)."""
    timestamp: str | None = None
    """Column with the time of a row: integer, float or timestamp."""
    version: Literal[1] = 1
    """Of this format."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.features:
            raise SchemaError("`features` is empty: a model needs at least one feature.")
        if not self.labels:
            raise SchemaError("`labels` is empty: name at least one label column.")
        names = [feature.name for feature in self.features] + [label.name for label in self.labels]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SchemaError(f"names are used twice: {twice}. Give every feature its own name.")
        self._check_shared_tables()
        return self

    def _check_shared_tables(self) -> None:
        """Features of one table share one id space, so they must encode alike."""
        alike = ("kind", "dtype", "encoding", "min_count", "max_vocab", "num_buckets", "salt")
        first: dict[str, KeyedFeature] = {}
        for feature in self.keyed:
            other = first.setdefault(feature.table_name, feature)
            for field in alike[1:]:
                mine, theirs = getattr(feature, field, None), getattr(other, field, None)
                if mine != theirs:
                    raise SchemaError(
                        f"features `{other.name}` and `{feature.name}` share table "
                        f"`{feature.table_name}` but differ in `{field}`: {theirs} and {mine}. "
                        "Make them equal or give each its own table."
                    )
            if isinstance(feature, Bucketized) and other is not feature:
                raise SchemaError(
                    f"feature `{feature.name}`: bucketized features cannot share a table."
                )

    # ------------------------------------------------------------------------------- questions

    @property
    def keyed(self) -> tuple[KeyedFeature, ...]:
        """Features that become indices, in order."""
        return tuple(f for f in self.features if isinstance(f, KeyedFeature))

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the features that become indices, in the one fixed key order."""
        return tuple(feature.name for feature in self.keyed)

    @property
    def numeric(self) -> tuple[Numeric, ...]:
        """Numeric features, in order: the first columns of ``Batch.dense``."""
        return tuple(f for f in self.features if isinstance(f, Numeric))

    @property
    def vectors(self) -> tuple[Vector, ...]:
        """Pretrained vectors, in order: the columns of ``Batch.dense`` after the numbers."""
        return tuple(f for f in self.features if isinstance(f, Vector))

    @property
    def dense_width(self) -> int:
        """Columns of ``Batch.dense``."""
        return len(self.numeric) + sum(vector.dim for vector in self.vectors)

    @property
    def num_tasks(self) -> int:
        """Number of labels."""
        return len(self.labels)

    @property
    def digest(self) -> str:
        """A hash of the declaration, stable across processes and Python versions."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def feature(self, name: str) -> Feature:
        """The feature of this name.

        Raises:
            SchemaError: There is none.
        """
        for feature in self.features:
            if feature.name == name:
                return feature
        names = [feature.name for feature in self.features]
        raise SchemaError(f"no feature `{name}`; the schema has {names}.")

    def num_embeddings(self) -> dict[str, int]:
        """Rows of every table.

        Raises:
            SchemaError: A feature is not fitted yet.
        """
        rows: dict[str, int] = {}
        for feature in self.keyed:
            if feature.num_embeddings is None:
                raise SchemaError(
                    f"feature `{feature.name}` has no `num_embeddings` yet. Fit the schema with "
                    "recsys.data.prepare, or state the number of rows."
                )
            rows[feature.table_name] = max(rows.get(feature.table_name, 0), feature.num_embeddings)
        return rows

    def fitted(self, num_embeddings: dict[str, int]) -> Schema:
        """The same schema with the rows of every table filled in.

        Args:
            num_embeddings: Rows by table name.
        """
        features: list[Any] = [
            feature.model_copy(update={"num_embeddings": num_embeddings[feature.table_name]})
            if isinstance(feature, KeyedFeature)
            else feature
            for feature in self.features
        ]
        return self.model_copy(update={"features": tuple(features)})


# --------------------------------------------------------------------------------------- tables


class Init(Frozen):
    """How a table starts."""

    kind: Literal["normal", "uniform", "zeros"] = "normal"
    """Distribution, centred at zero."""
    std: float = Field(default=1e-4, ge=0)
    """Standard deviation of the *decoded* embedding, whatever the distribution; compressed tables
    choose the scale of their rows so that this holds."""


class TableSpec(Frozen):
    """One logical embedding table. The words are torchrec's ``EmbeddingBagConfig``."""

    name: Name
    """Unique in its group."""
    num_embeddings: int = Field(ge=1)
    """Rows, PAD and OOV included."""
    embedding_dim: int = Field(ge=1)
    """Width."""
    feature_names: tuple[str, ...] = Field(min_length=1)
    """Features that look it up."""
    pooling: Pooling
    """How several indices of one row become one vector. No default on purpose."""
    init: Init = Init()
    """Starting values."""
    by_frequency: bool = True
    """Whether the index order is one of falling frequency, as vocabularies have it. Hashed ids are
    in no order."""
