"""The bases of all models: how a model is configured, and what every CTR model starts from.

A model is an ordinary ``nn.Module`` built from ``(config, schema)``. Building it needs no files,
no process group and no network, and works on ``meta``.

Stability: caller
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.fx.experimental import _config as symbolic_config

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.plan import CompressionConfig
from recsys.embeddings.ids import is_traced
from recsys.embeddings.specs import TableOptions, table_specs
from recsys.layers.factored import Factored
from recsys.layers.initialization import initialize
from recsys.layers.interaction.factorization_machine import FactorizationMachine
from recsys.layers.numeric import DenseLinear, NumericEmbedding
from recsys.losses.pointwise import binary_cross_entropy
from recsys.schema import Init, ModelConfig, Schema, TableSpec
from recsys.types import Batch


class RecModel(nn.Module):
    """A recommender built from a typed config and a schema.

    A subclass declares its options as a nested, frozen class ``Config`` and builds its layers in
    ``__init__(config, schema)``; nothing else happens there.

    Args:
        config: An instance of the class's own ``Config``.
        schema: A fitted schema (with ``num_embeddings``).

    Raises:
        TypeError: At class creation: there is no own ``Config``, or it accepts changes or unknown
            keys. At construction: an argument has another type.

    Stability: caller
    """

    class Config(ModelConfig):
        """Options that all models share."""

        compression: CompressionConfig | None = None
        """How the embedding tables are held in fewer bytes; None holds them in full."""

    embeddings: EmbeddingCollection
    """The model's one collection of tables."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        config = cls.__dict__.get("Config")
        if not (isinstance(config, type) and issubclass(config, ModelConfig)):
            raise TypeError(
                f"{cls.__name__} needs a nested `class Config(ModelConfig)` of its own, got "
                f"{config!r}. Derive it from the base's: `class Config(CTRModel.Config)`."
            )
        options = config.model_config
        if not (options.get("frozen") and options.get("extra") == "forbid"):
            raise TypeError(
                f"{cls.__name__}.Config must stay frozen and forbid unknown keys; "
                "remove its `model_config`."
            )

    def __init__(self, config: ModelConfig, schema: Schema) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(config, type(self).Config):
            raise TypeError(
                f"{name}: `config` must be a {name}.Config, got {type(config).__qualname__}. "
                f"Write {name}({name}.Config(...), schema); a mapping is read by "
                f"{name}.Config.model_validate(mapping)."
            )
        if not isinstance(schema, Schema):
            raise TypeError(
                f"{name}: `schema` must be a recsys.schema.Schema, got {type(schema).__qualname__}."
            )
        self.config, self.schema = config, schema

    def make_embeddings(
        self, groups: Mapping[str, Sequence[TableSpec]], keys: Sequence[str]
    ) -> EmbeddingCollection:
        """The collection of the model's tables, compressed as the config says.

        What was planned is kept in ``self.config``, so that it travels with the model.

        Args:
            groups: Tables of every group.
            keys: Features of the batches.

        Raises:
            BudgetInfeasible: No plan fits the budget.
            SchemaError: The compression names an unknown table.
        """
        compression = getattr(self.config, "compression", None)
        if compression is None:
            return EmbeddingCollection(groups, keys)
        schemes = compression.resolve(groups)
        planned = compression.model_copy(update={"planned": schemes})
        self.config = self.config.model_copy(update={"compression": planned})
        return EmbeddingCollection(groups, keys, schemes=schemes, dtype=compression.dtype)

    def reset_parameters(self, seed: int) -> None:
        """Draws all start values anew.

        They depend on the seed alone: not on the device, the backend or the global random state.
        A model built on ``meta`` is filled by ``model.to_empty(device=...)`` and this.

        Args:
            seed: Any integer from 0.
        """
        initialize(self, torch.Generator().manual_seed(seed))
        self.embeddings.reset_parameters(seed)

    def auxiliary_loss(self) -> Tensor:
        """What is added to the mean loss of a batch besides it: a scalar, mostly 0."""
        if not self.embeddings.groups:
            return torch.zeros(())
        return self.embeddings.aux_loss()


@dataclasses.dataclass(frozen=True, slots=True)
class CTRInputs:
    """What a CTR model computes on, from one pass through the tables.

    A *field* is one vector: first those of features with indices, then embedded numbers, then
    pretrained vectors; schema order within each. Embedded numbers are kept as two factors, value
    and vector, and written out only by `fields` and `flat`.

    Args:
        keyed: Fields of features with indices.
        numbers: Values of the numbers that are embedded, or None.
        number_vectors: What they are multiplied by.
        more: The fields behind: pretrained vectors (and numbers, where they have a bias), or None.
        linear: First-order term of all features, without bias. Width 0 in models without one.
        dense: Numbers that are not embedded; None where there are none.

    Shape:
        - keyed: (B, F1, D)
        - numbers: (B, N)
        - number_vectors: (N, D)
        - more: (B, F2, D)
        - linear: (B, T)
        - dense: (B, N)
    """

    keyed: Tensor
    numbers: Tensor | None
    number_vectors: Tensor | None
    more: Tensor | None
    linear: Tensor
    dense: Tensor | None

    @property
    def fields(self) -> Tensor:
        """All fields, (B, F, D)."""
        parts = [self.keyed]
        if self.numbers is not None and self.number_vectors is not None:
            parts.append(self.numbers.unsqueeze(2) * self.number_vectors)
        if self.more is not None:
            parts.append(self.more)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def flat(self) -> Tensor:
        """``x_0``: all fields and dense numbers side by side, (B, F * D + N)."""
        if self.dense is None:
            return self.fields.flatten(1)
        return torch.cat([self.fields.flatten(1), self.dense], dim=1)

    def deep(self) -> Tensor | Factored:
        """What `flat` gives, for an `MLP`: without writing the embedded numbers out."""
        if self.numbers is None or self.number_vectors is None:
            return self.flat()
        tail = None if self.more is None else self.more.flatten(1)
        return Factored(self.keyed.flatten(1), self.numbers, self.number_vectors, tail)

    def pairs(self, interaction: FactorizationMachine) -> Tensor:
        """The second-order term of all fields, (B, 1).

        Args:
            interaction: Computes it.
        """
        written = self.keyed if self.more is None else torch.cat([self.keyed, self.more], dim=1)
        return interaction(written, self.numbers, self.number_vectors)


class CTRModel(RecModel):
    """Base of models that predict clicks: inputs from the schema, binary cross entropy.

    A subclass names in ``groups`` the tables it needs ("embedding" for field vectors, "linear" for
    first-order weights), builds its layers from ``num_fields``, ``dense_width`` and ``flat_width``
    and computes logits in ``forward`` from ``self.inputs(batch)``.

    Args:
        config: An instance of the class's own ``Config``.
        schema: A fitted schema.

    Shape:
        - input: Batch of B rows
        - output: (B, T) logits, one column a label

    Raises:
        SchemaError: ``config.tables`` names an unknown table, a table is not fitted, features of
            one table ask for different pooling, or an option has no effect in this model.

    Stability: caller
    """

    class Config(RecModel.Config):
        """Options that all CTR models share."""

        embedding_dim: int = Field(default=16, ge=1)
        """Width of a field's vector."""
        numeric: Literal["embed", "dense"] = "embed"
        """``embed``: a numeric feature is a field, its value times a learned vector. ``dense``:
        its value goes to the model's dense layers as it is (and to the first-order term)."""
        numeric_bias: bool = False
        """Adds a learned vector to each embedded number, so that 0 is not the zero vector."""
        init_std: float = Field(default=1e-4, ge=0)
        """Standard deviation of the start values of tables, numbers and first-order weights."""
        tables: dict[str, TableOptions] = Field(default_factory=dict)
        """Exceptions by table name (the feature's name, or what its ``table`` says)."""

    groups: ClassVar[tuple[str, ...]] = ("embedding",)
    """Table groups of the model: ``embedding``, ``linear`` or both."""

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__(config, schema)
        dim, tasks = config.embedding_dim, schema.num_tasks
        widths = {"embedding": dim, "linear": tasks}
        specs = table_specs(
            schema,
            {group: widths[group] for group in self.groups},
            config.tables,
            Init(std=config.init_std),
        )
        self.embeddings = self.make_embeddings(specs, schema.keys)
        self.num_tasks, self.embedding_dim = tasks, dim
        self.num_fields = self.dense_width = 0
        self.num_numeric = len(schema.numeric)
        self.embeds_numeric = config.numeric == "embed" and self.num_numeric > 0
        if "embedding" in self.groups:
            vectors = len(schema.vectors)
            self.num_fields = len(schema.keys) + vectors + self.embeds_numeric * self.num_numeric
            self.dense_width = 0 if self.embeds_numeric else self.num_numeric
            self._build_fields(dim, specs.get("embedding", ()))
        if "linear" in self.groups:
            self.linear = DenseLinear(schema.dense_width, tasks, config.init_std)
        self.flat_width = self.num_fields * dim + self.dense_width

    def _build_fields(self, dim: int, specs: tuple[TableSpec, ...]) -> None:
        schema, config = self.schema, self.config
        assert isinstance(config, CTRModel.Config)
        if self.embeds_numeric:
            self.numeric = NumericEmbedding(
                self.num_numeric, dim, config.init_std, bias=config.numeric_bias
            )
        # Names in a ModuleDict must not be those of its methods ("items"), hence the prefixes.
        # No bias: an empty bag is the zero vector before and after.
        self.projections = nn.ModuleDict(
            {f"table:{s.name}": _projection(s.embedding_dim, dim) for s in specs
             if s.embedding_dim != dim}
        )  # fmt: skip
        self.projections.update(
            {f"vector:{vector.name}": _projection(vector.dim, dim) for vector in schema.vectors}
        )

    # ------------------------------------------------------------------------------- forward

    def inputs(self, batch: Batch) -> CTRInputs:
        """Looks up everything the model needs, once.

        Args:
            batch: B rows.

        Returns:
            Fields, first-order term and dense numbers.
        """
        pooled = self.embeddings(batch) if self.schema.keys else {}
        dense = batch.dense
        linear, number_vectors, number_values, numbers = dense[:, :0], None, None, None
        keyed = dense.new_zeros(dense.shape[0], 0, self.embedding_dim)
        more: list[Tensor] = []
        if "embedding" in self.groups:
            numbers = dense[:, : self.num_numeric] if self.num_numeric else None
            if self.schema.keys:
                keyed = self._keyed_fields(pooled["embedding"])
            if self.embeds_numeric and self.numeric.bias is None:
                number_values, number_vectors, numbers = numbers, self.numeric.weight, None
            elif self.embeds_numeric and numbers is not None:
                more, numbers = [self.numeric(numbers)], None
            more += self._vector_fields(dense)
        if "linear" in self.groups:
            linear = self.linear(dense)
            if self.schema.keys:
                linear = linear + pooled["linear"].stacked().sum(dim=1)
        behind = torch.cat(more, dim=1) if more else None
        return CTRInputs(keyed, number_values, number_vectors, behind, linear, numbers)

    def _keyed_fields(self, pooled: Any) -> Tensor:
        """The fields of all features with indices, (B, F1, D)."""
        tables = [f"table:{feature.table_name}" for feature in self.schema.keyed]
        if not any(table in self.projections for table in tables):
            return pooled.stacked()
        parts = [
            self.projections[table](part) if table in self.projections else part
            for table, part in zip(tables, pooled.split())
        ]
        return torch.stack(parts, dim=1)

    def _vector_fields(self, dense: Tensor) -> list[Tensor]:
        """The projected pretrained vectors, each (B, 1, D)."""
        parts, start = [], self.num_numeric
        for vector in self.schema.vectors:
            columns = dense[:, start : start + vector.dim]
            parts.append(self.projections[f"vector:{vector.name}"](columns).unsqueeze(1))
            start += vector.dim
        return parts

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Binary cross entropy of every row, the mean over tasks. Row weights are not applied.

        Args:
            logits: Of this batch, (B, T).
            batch: With labels (B, T).

        Returns:
            (B,) float32.
        """
        return binary_cross_entropy(logits.float(), batch.labels)


def _projection(width: int, dim: int) -> nn.Linear:
    layer = nn.Linear(width, dim, bias=False)
    initialize(layer)
    return layer


class FlatInputs(nn.Module):
    """A model whose inputs are plain tensors: the form for ``torch.export`` and other runtimes.

    Args:
        model: A CTR model on the local backend.

    Shape:
        - dense: (B, N) float32
        - values: (L,) int32, feature-major
        - lengths: (F * B,) int32
        - value_weights: (L,) float32, only for schemas with weighted bags
        - output: (B, T) logits

    Stability: caller
    """

    def __init__(self, model: CTRModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        dense: Tensor,
        values: Tensor,
        lengths: Tensor,
        value_weights: Tensor | None = None,
    ) -> Tensor:
        """Logits of flat inputs."""
        keys, counts = self.model.schema.keys, ()
        if keys and not is_traced(values):  # a trace may not read data
            counts = tuple(lengths.view(len(keys), -1).sum(1).tolist())
        batch = Batch(
            dense=dense,
            values=values,
            lengths=lengths,
            labels=dense[:, :0],
            keys=keys,
            value_counts=counts,
            value_weights=value_weights,
        )
        return self.model(batch)

    def export(self, batch: Batch) -> torch.export.ExportedProgram:
        """The model as a program that needs neither recsys nor Python, for any batch size.

        Args:
            batch: Any batch of the schema, at least two rows, with an index.

        Returns:
            A program with the inputs of `forward`.
        """
        rows, total = torch.export.Dim("rows", min=1), torch.export.Dim("total", min=0)
        num_keys = len(batch.keys)
        shapes: dict[str, dict[int, Any] | None] = {
            "dense": {0: rows},
            "values": {0: total} if num_keys else None,
            "lengths": {0: num_keys * rows} if num_keys else None,
        }
        if batch.value_weights is not None:
            shapes["value_weights"] = {0: total}
        # Without this, a program traced on 8 rows refuses a batch of 1.
        with symbolic_config.patch(backed_size_oblivious=True):  # pyright: ignore[reportAttributeAccessIssue]
            return torch.export.export(self, self.flatten(batch), dynamic_shapes=shapes)

    @staticmethod
    def flatten(batch: Batch) -> tuple[Tensor, ...]:
        """The inputs of `forward`.

        Args:
            batch: Any batch.
        """
        inputs = (batch.dense, batch.values, batch.lengths)
        return inputs if batch.value_weights is None else (*inputs, batch.value_weights)
