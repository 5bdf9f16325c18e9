"""The base of models of aspects: one item, one vector for every aspect, from the item's features.

Stability: caller
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array, hstack
from torch import Tensor, nn
from torch.nn import functional

from recsys.base import RecModel
from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.specs import TableOptions, table_specs
from recsys.errors import ConfigError, DataError
from recsys.graph.aspect_batches import AspectBatch
from recsys.graph.aspects import AspectTable
from recsys.graph.text_features import TextFeatures, TextOptions
from recsys.schema import FIRST_INDEX, Categorical, Init, Label, MultiValued, Schema, Vector
from recsys.types import Batch

_BLOCK = 512  # items that are encoded at once


class AspectModel(RecModel, abc.ABC):
    """Vectors of items in every aspect; two items are as alike in it as the cosine of theirs.

    An item's features are the grams of its text (a bag of rows of a table, and a fixed vector along
    principal axes), its id, and the vectors that the table of items brings: of sentences, of a
    collaborative filter, of pictures. `fixed` are those that are not trained.

    A subclass overrides `encode` and `loss`.

    Args:
        config: An instance of the class's own ``Config``.
        table: Items, texts, labels and splits.

    Raises:
        ConfigError: There is no feature.
    """

    class Config(RecModel.Config):
        """Options that models of aspects share."""

        text: TextOptions | None = TextOptions()
        """How texts are read; null leaves them out."""
        use_ids: bool = False
        """Whether every known item has a vector of its own. New items have none."""
        embedding_dim: int = Field(default=64, ge=1)
        """Width of what a feature is turned into."""
        init_std: float = Field(default=0.1, ge=0)
        """Standard deviation of the start values of the tables."""
        tables: dict[str, TableOptions] = Field(default_factory=dict)
        """Exceptions by table, ``text`` or ``item``."""

    projects: ClassVar[bool] = True
    """Whether fixed vectors are projected to `embedding_dim`, as `fields` has them."""

    def __init__(self, config: Config, table: AspectTable) -> None:
        super().__init__(config, aspect_schema(config, table))
        self.table, self.aspects = table, table.aspects
        groups = table_specs(
            self.schema, {"embedding": config.embedding_dim}, config.tables,
            Init(std=config.init_std),
        )  # fmt: skip
        self.embeddings = EmbeddingCollection({}, ())
        if groups:
            self.embeddings = self.make_embeddings(groups, self.schema.keys)
        self.text: TextFeatures | None = None
        if config.text is not None:
            self.text = TextFeatures(table.texts, config.text, table.members("train"))
        self.brought = _side_by_side(table)
        self.embedding_dim = config.embedding_dim
        self.num_fields = len(self.schema.keys) + len(self.schema.vectors)
        self.projections = nn.ModuleList(
            nn.Linear(vector.dim, config.embedding_dim, bias=False)
            for vector in self.schema.vectors if self.projects
        )  # fmt: skip
        self._kept: dict[int, Tensor] = {}
        self.place = nn.Buffer(torch.zeros(()), persistent=False)  # knows the device

    @abc.abstractmethod
    def encode(self, batch: Batch, aspect: int) -> Tensor:
        """Vectors of items in one aspect, of any length.

        Args:
            batch: Features of B items.
            aspect: Its number.

        Returns:
            (B, D).
        """

    @abc.abstractmethod
    def loss(self, batch: AspectBatch) -> Tensor:
        """The loss of a batch.

        Args:
            batch: Pairs of one aspect.

        Returns:
            A scalar with gradient.
        """

    def forward(self, batch: AspectBatch) -> Tensor:
        """See `loss`."""
        return self.loss(batch)

    def both(self, batch: AspectBatch) -> tuple[Tensor, Tensor]:
        """Vectors of the anchors and of the positives, each item encoded once.

        Args:
            batch: Pairs of one aspect.
        """
        items, place = torch.cat([batch.anchor, batch.positive]).unique(return_inverse=True)
        found = self.encode(self.features(items), batch.aspect)
        anchors, positives = functional.embedding(place, found).chunk(2)
        return anchors, positives

    # ------------------------------------------------------------------------------ features

    @property
    def fixed_width(self) -> int:
        """Width of what `fixed` gives."""
        return self.schema.dense_width

    def fixed(self, batch: Batch) -> Tensor:
        """What is known of items and is not trained: the generic vector, side by side.

        Each part has length 1, or 0 where nothing is known.

        Args:
            batch: From `features`.

        Returns:
            (B, fixed_width).
        """
        return batch.dense

    @property
    def fields_width(self) -> int:
        """Width of what `fields` gives."""
        return self.num_fields * self.embedding_dim

    def fields(self, batch: Batch) -> Tensor:
        """What is trained on: the sum of a text's grams, the id's vector, projected fixed vectors.

        Args:
            batch: From `features`.

        Returns:
            (B, fields_width).
        """
        parts = [self.embeddings(batch)["embedding"].values] if self.schema.keys else []
        return torch.cat([*parts, *self.projected(batch)], dim=1)

    def projected(self, batch: Batch) -> list[Tensor]:
        """Fixed vectors, each (B, embedding_dim).

        Args:
            batch: From `features`.
        """
        parts = self.fixed(batch).split([vector.dim for vector in self.schema.vectors], 1)
        return [project(part) for project, part in zip(self.projections, parts)]

    def features(self, items: Tensor) -> Batch:
        """Features of known items.

        Args:
            items: Numbers, (B,) int64.
        """
        numbers = items.cpu().numpy()
        rows = None if self.text is None else self.text.rows(numbers)
        brought = None if self.brought is None else self.brought[numbers]
        return self._batch(rows, brought, numbers)

    def features_of(
        self, texts: Sequence[str], vectors: dict[str, np.ndarray] | None = None
    ) -> Batch:
        """Features of items that are new.

        Args:
            texts: Of every item; empty ones where nothing is known.
            vectors: As the table of items has them, by name.

        Raises:
            DataError: Vectors are missing, or of another width.
        """
        wanted = {name: found.shape[1] for name, found in self.table.vectors.items()}
        given = {name: np.asarray(found, np.float32) for name, found in (vectors or {}).items()}
        sizes = {name: found.shape for name, found in given.items()}
        if sizes != {name: (len(texts), width) for name, width in wanted.items()}:
            raise DataError(
                f"expected vectors of {len(texts)} items with the widths {wanted}, got {sizes}."
            )
        rows = None if self.text is None else self.text.rows_of(texts)
        brought = None
        if wanted:
            brought = np.concatenate([_unit(given[name]) for name in wanted], axis=1)
        return self._batch(rows, brought, np.full(len(texts), -1))

    def _batch(
        self, rows: csr_array | None, brought: np.ndarray | None, numbers: np.ndarray
    ) -> Batch:
        size = len(numbers)
        dense = [torch.zeros(size, 0)]
        if rows is not None and self.text is not None and self.text.options.axes:
            dense.append(functional.normalize(self.text.along_axes(rows), dim=1))
        if brought is not None:
            dense.append(torch.from_numpy(brought))
        values, lengths, weights = [], [], []
        if rows is not None and "text" in self.schema.keys:
            values.append(rows.indices.astype(np.int32) + FIRST_INDEX)
            lengths.append(np.diff(rows.indptr).astype(np.int32))
            weights.append(rows.data)
        if "item" in self.schema.keys:
            known = numbers >= 0
            values.append((numbers[known] + FIRST_INDEX).astype(np.int32))
            lengths.append(known.astype(np.int32))
            weights.append(np.ones(int(known.sum()), np.float32))
        nothing = np.zeros(0, np.int32)
        return Batch(
            dense=torch.cat(dense, dim=1),
            values=torch.from_numpy(np.concatenate([nothing, *values])),
            lengths=torch.from_numpy(np.concatenate([nothing, *lengths])),
            labels=torch.zeros(size, 1),
            keys=self.schema.keys,
            value_counts=tuple(len(part) for part in values),
            value_weights=torch.from_numpy(np.concatenate([nothing.astype(np.float32), *weights])),
        ).to(self.place.device)

    # ------------------------------------------------------------------------------- vectors

    def train(self, mode: bool = True) -> Any:
        """See torch. Vectors that were kept are forgotten."""
        self._kept = {}
        return super().train(mode)

    def vectors(self, aspect: str, items: np.ndarray | None = None) -> Tensor:
        """Vectors of items in one aspect, of length 1: products are cosines.

        Args:
            aspect: Its name.
            items: Numbers, (n,) int64; None for all.

        Returns:
            (n, D) float32 on the CPU, without gradient; in eval mode those of all items are
            computed once.

        Raises:
            DataError: There is no such aspect.
        """
        number = self.table.aspect_number(aspect)
        if number in self._kept:
            return self._kept[number] if items is None else self._kept[number][items]
        wanted = torch.arange(len(self.table)) if items is None else torch.from_numpy(items)
        blocks = wanted.split(_BLOCK)
        found = torch.cat([self._encoded(self.features(block), number) for block in blocks])
        if items is None and not self.training:
            self._kept[number] = found
        return found

    def vectors_of(
        self, aspect: str, texts: Sequence[str], vectors: dict[str, np.ndarray] | None = None
    ) -> Tensor:
        """Vectors of new items in one aspect, of length 1. See `vectors` and `features_of`.

        Args:
            aspect: Its name.
            texts: Of every item.
            vectors: As the table of items has them.
        """
        number = self.table.aspect_number(aspect)
        return self._encoded(self.features_of(texts, vectors), number)

    def _encoded(self, batch: Batch, aspect: int) -> Tensor:
        was_training = self.training
        super().train(False)
        try:
            with torch.no_grad():
                return functional.normalize(self.encode(batch, aspect), dim=1).cpu()
        finally:
            super().train(was_training)

    def generic(self) -> csr_array:
        """What is known of every item before any training: rows whose cosines are the baseline.

        Weighted grams of texts and the vectors that the table brings, side by side.

        Returns:
            Sparse (items, width) float32, rows of length 1 or 0.
        """
        everybody, parts = np.arange(len(self.table)), []
        if self.text is not None:
            parts.append(self.text.rows(everybody))
        if self.brought is not None:
            parts.append(csr_array(self.brought))
        if not parts:
            return csr_array((len(self.table), 1), dtype=np.float32)
        both = csr_array(hstack(parts, format="csr"))
        squares = np.asarray(both.power(2).sum(1)).ravel()
        both.data = both.data / np.sqrt(np.repeat(squares, np.diff(both.indptr)))
        return both


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; those of zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _side_by_side(table: AspectTable) -> np.ndarray | None:
    """What the table brings, each part of length 1."""
    if not table.vectors:
        return None
    return np.concatenate([_unit(np.asarray(found)) for found in table.vectors.values()], axis=1)


def aspect_schema(config: AspectModel.Config, table: AspectTable) -> Schema:
    """The features of items, with the rows of their tables.

    Args:
        config: Of the model.
        table: Items and the vectors they bring.

    Raises:
        ConfigError: There is none.
    """
    features: list[Any] = []
    if config.text is not None and config.text.trained:
        rows = config.text.num_buckets
        features.append(MultiValued(
            name="text", encoding="hash", num_buckets=rows, num_embeddings=rows + FIRST_INDEX,
            pooling="sum", salt=config.text.salt,
        ))  # fmt: skip
    if config.use_ids:
        features.append(Categorical(name="item", num_embeddings=len(table) + FIRST_INDEX))
    if config.text is not None and config.text.axes:
        features.append(Vector(name="axes", dim=config.text.axes))
    for number, (name, found) in enumerate(table.vectors.items()):
        features.append(Vector(name=f"vector{number}", column=name, dim=found.shape[1]))
    if not features:
        raise ConfigError(
            "the items have no features: text is null, use_ids is off, and the data brings no "
            "vectors. Set one of them."
        )
    return Schema(features=tuple(features), labels=(Label(name="alike"),))
