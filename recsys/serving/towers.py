"""Vectors of users and of items from a trained model of two towers, each from its own columns.

Stability: experimental
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from recsys.base import RecModel
from recsys.data.encoder import FeatureEncoder
from recsys.errors import ConfigError, DataError
from recsys.schema import Categorical, Schema
from recsys.serving.artefact import load_artefact
from recsys.serving.rows import RowReader, Rows
from recsys.serving.vectors import Vectors
from recsys.types import Batch

Side = Literal["user", "item"]


@runtime_checkable
class TwoTowers(Protocol):
    """A model that scores by the inner product of a user's vector and an item's."""

    item_features: tuple[str, ...]
    """Names of the features that make an item's vector."""
    user_features: tuple[str, ...]
    """Names of those that make a user's, with the context."""
    item_id: str | None
    """The feature with the item's id."""

    def user_vectors(self, batch: Batch) -> Tensor:
        """(B, D); reads user features only."""
        ...

    def item_vectors(self, batch: Batch) -> Tensor:
        """(B, D); reads item features only."""
        ...


class Towers:
    """Encodes rows of users, and rows of items, that have only the columns of their side.

    What comes out goes into `recsys.retrieval.index.Index` as it is: the inner product of a user's
    and an item's vector is the score that the model gives the two together. Both carry the version
    of the model, so that an index refuses those of another.

    Args:
        model: A trained model of two towers; it is put in eval mode.
        encoder: Of the data it was trained on.
        device: Where to compute.
        batch_size: Rows computed at once.
        version: Of the model; `load` takes it from the folder.

    Raises:
        ConfigError: The model has no towers, or ``batch_size`` is not positive.
    """

    def __init__(
        self,
        model: RecModel,
        encoder: FeatureEncoder,
        device: torch.device | str = "cpu",
        batch_size: int = 8192,
        version: str | None = None,
    ) -> None:
        if not isinstance(model, TwoTowers):
            raise ConfigError(
                f"expected a model with vectors of users and of items, got {type(model).__name__}. "
                "Train recsys.models.ctr.two_tower.TwoTower, or serve this one by Predictor."
            )
        if batch_size < 1:
            raise ConfigError(f"`batch_size` must be at least 1, got {batch_size}.")
        self.model, self.schema = model, encoder.schema
        model.to(device).eval()
        self.device, self.batch_size = torch.device(device), batch_size
        self.metadata: dict[str, Any] = {}
        self.version = version
        self._encoders: dict[Side, FeatureEncoder] = {
            "user": _part(encoder, model.user_features),
            "item": _part(encoder, model.item_features),
        }
        self._readers = {side: RowReader(part.schema) for side, part in self._encoders.items()}

    @classmethod
    def load(
        cls, directory: Path | str, model_class: type[RecModel] | None = None, **options: Any
    ) -> Self:
        """Loads a model folder, verified and without running anything it holds.

        Args:
            directory: A run folder or the model folder in it.
            model_class: The model's class, where it is not one of ``recsys.models``.
            options: ``device`` and ``batch_size`` as in the class.

        Raises:
            CheckpointError: The folder is not a sound artefact, or its class is not trusted.
            ConfigError: The model has no towers, or an option is wrong.
        """
        artefact = load_artefact(directory, model_class)
        towers = cls(artefact.model, artefact.encoder, version=artefact.version, **options)
        towers.metadata = artefact.metadata
        return towers

    @property
    def item_columns(self) -> tuple[str, ...]:
        """Raw columns that rows of items must have."""
        return self._readers["item"].columns

    @property
    def user_columns(self) -> tuple[str, ...]:
        """Raw columns that rows of users must have, those of the context among them."""
        return self._readers["user"].columns

    def items(self, rows: Rows, id_column: str | None = None) -> Vectors:
        """Vectors of items, for an index.

        Args:
            rows: One row an item, in any form that `recsys.serving.predictor.Predictor` takes.
                Other columns are ignored.
            id_column: Which of `item_columns` names the vectors; None takes the model's item id.

        Raises:
            ConfigError: There is no such column, or none is known.
            DataError: Columns are missing, a value is bad, or an id is missing or comes twice.
        """
        feature = getattr(self.model, "item_id", None)
        if id_column is None and feature is not None:
            id_column = self.schema.feature(feature).source
        return self._named("item", rows, id_column)

    def users(self, rows: Rows, id_column: str) -> Vectors:
        """Vectors of users by id, for questions that name a user.

        Args:
            rows: One row a user, with a typical context, in any form.
            id_column: Which of `user_columns` names the vectors.

        Raises:
            ConfigError: There is no such column.
            DataError: Columns are missing, a value is bad, or an id is missing or comes twice.
        """
        return self._named("user", rows, id_column)

    def queries(self, rows: Rows) -> np.ndarray:
        """Vectors of users, one a row and without ids: a request's context as it is now.

        A search with them names their version: ``search(..., version=towers.version)``.

        Args:
            rows: Users with their context, in any form.

        Returns:
            float32, (B, D).

        Raises:
            DataError: Columns are missing, or a value is bad.
        """
        return self._encoded("user", rows, None)[0]

    # ---------------------------------------------------------------------------------- encoding

    def _named(self, side: Side, rows: Rows, id_column: str | None) -> Vectors:
        columns = self._readers[side].columns
        if id_column not in columns:
            raise ConfigError(
                f"id_column: expected a column that the {side} tower reads, got {id_column!r}. "
                f"Known: {', '.join(columns)}."
            )
        values, ids = self._encoded(side, rows, id_column)
        names, first, counts = np.unique(ids, return_index=True, return_counts=True)
        twice = np.flatnonzero(counts > 1)
        if len(twice):
            name, count = names.tolist()[twice[0]], counts[twice[0]]
            raise DataError(
                f"expected one row for every {side}, got {count} of {name!r}. Keep one of them.",
                row=int(first[twice[0]]) + 1,
                column=id_column,
            )
        return Vectors(ids, values, version=self.version)

    def _encoded(
        self, side: Side, rows: Rows, id_column: str | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors, and ids where a column is named."""
        encoder, model = self._encoders[side], self.model
        assert isinstance(model, TwoTowers)
        encode = model.user_vectors if side == "user" else model.item_vectors
        vectors: list[np.ndarray] = []
        ids: list[np.ndarray] = []
        for start, table in self._readers[side].slices(rows, self.batch_size):
            try:
                batch = widened(encoder.batch(table), self.schema, encoder.schema)
                if id_column is not None:
                    ids.append(_ids(table.column(id_column), encoder.schema, id_column))
            except DataError as error:
                row = None if error.row is None else error.row + start
                raise DataError(error.message, row=row, column=error.column) from None
            except pa.ArrowException as error:
                told = str(error).splitlines()[0]
                raise DataError(f"a column has values that it cannot hold: {told}.") from None
            with torch.inference_mode():
                vectors.append(encode(batch.to(self.device)).float().cpu().numpy())
        if not vectors:
            raise DataError(f"expected rows of {side}s, got none.")
        return np.concatenate(vectors), np.concatenate(ids) if ids else np.zeros(0, np.int64)


def widened(batch: Batch, schema: Schema, part: Schema) -> Batch:
    """A batch of some features as one of all: the others have empty bags and zeros.

    Args:
        batch: With the keys and numbers of ``part``.
        schema: All features.
        part: Some of them, in the same order.
    """
    size, counts = batch.batch_size, dict(zip(batch.keys, batch.value_counts))
    none = batch.lengths.new_zeros(size)
    lengths = [batch.key_lengths(key) if key in counts else none for key in schema.keys]
    dense = batch.dense.new_zeros(size, schema.dense_width)
    dense[:, [_columns(schema)[name] for name in _columns(part)]] = batch.dense
    return dataclasses.replace(
        batch,
        dense=dense,
        lengths=torch.cat([*lengths, none[:0]]),
        labels=batch.dense.new_zeros(size, schema.num_tasks),
        keys=schema.keys,
        value_counts=tuple(counts.get(key, 0) for key in schema.keys),
    )


def _columns(schema: Schema) -> dict[tuple[str, int], int]:
    """Where every number is in ``Batch.dense``."""
    names = [(feature.name, 0) for feature in schema.numeric]
    names += [(vector.name, place) for vector in schema.vectors for place in range(vector.dim)]
    return {name: place for place, name in enumerate(names)}


def _part(encoder: FeatureEncoder, names: Sequence[str]) -> FeatureEncoder:
    """The encoder of some features."""
    schema = encoder.schema
    chosen = tuple(feature for feature in schema.features if feature.name in names)
    part = Schema(features=chosen, labels=schema.labels)
    return FeatureEncoder(part, encoder.state, encoder.vocabularies)


def _ids(column: pa.ChunkedArray, schema: Schema, name: str) -> np.ndarray:
    """Ids as the schema has them: integers, or else text."""
    if column.null_count:
        row = next(row for row, value in enumerate(column.to_pylist(), 1) if value is None)
        raise DataError("expected an id in every row, got none.", row=row, column=name)
    of_ints = any(
        isinstance(feature, Categorical) and feature.dtype == "int" and feature.source == name
        for feature in schema.features
    )
    column = column.cast(pa.int64() if of_ints else pa.string())
    return column.to_numpy() if of_ints else np.array(column.to_pylist(), object)
