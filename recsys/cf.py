"""The bases of collaborative filters: built from the training graph, giving scores of all items.

Three kinds: those that are *fitted* in closed form (`FittedModel`), those that learn vectors of
users and items (`EmbeddingModel`), and anything else that has scores (`CFModel`).

Stability: caller
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor

from recsys.base import RecModel
from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.specs import TableOptions, table_specs
from recsys.errors import ConfigError
from recsys.graph.interaction_graph import FIRST_INDEX, InteractionGraph
from recsys.schema import Init
from recsys.types import Batch, PairBatch


class CFModel(RecModel, abc.ABC):
    """A collaborative filter: scores of every item for a user.

    Args:
        config: An instance of the class's own ``Config``.
        graph: The training pairs, with a knowledge graph where the model needs one.

    Stability: caller
    """

    class Config(RecModel.Config):
        """Options that all collaborative filters share."""

    needs_knowledge: bool = False
    """Whether the graph must have a knowledge graph."""

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph.schema)
        self.graph = graph

    @abc.abstractmethod
    def scores(self, users: Tensor) -> Tensor:
        """How much users want every item, seen ones too: more is better.

        Args:
            users: Numbers, (B,) int64.

        Returns:
            (B, I) float32, without gradient.
        """


class FittedModel(CFModel):
    """A filter without gradient descent: `fit` computes it, and scores follow from a history.

    What `fit` computes are buffers (so that state dicts hold them); before it they are empty. A
    user's score depends on nothing but the items that were seen, so anybody with a history gets
    scores, known or new.

    Args:
        config: An instance of the class's own ``Config``.
        graph: The training pairs.
    """

    class Config(CFModel.Config):
        """Options that fitted models share."""

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        if config.compression is not None:
            raise ConfigError(
                f"{type(self).__name__} has no embedding tables, so there is nothing to compress. "
                "Remove `compression`."
            )
        self.embeddings = EmbeddingCollection({}, ())

    @abc.abstractmethod
    def fit(self, say: Callable[[str], None]) -> None:
        """Computes everything from the graph.

        Args:
            say: Shows a line of progress of long work.
        """

    @abc.abstractmethod
    def scores_of(self, history: csr_array) -> Tensor:
        """Scores of all items for anybody with a history.

        Args:
            history: Sparse (B, I) float32; 1 where an item was seen (or its weight).

        Returns:
            (B, I) float32, more is better.
        """

    def scores(self, users: Tensor) -> Tensor:
        """See `CFModel`."""
        with torch.inference_mode():
            return self.scores_of(history_rows(self.graph, users))

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Buffers take the shapes of what is loaded: only `fit` knows them."""
        for name, buffer in list(self._buffers.items()):
            found = state_dict.get(prefix + name)
            if found is not None and buffer is not None and found.shape != buffer.shape:
                setattr(self, name, torch.empty_like(found, device=buffer.device))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def history_rows(graph: InteractionGraph, users: Tensor) -> csr_array:
    """What users have seen, (B, I).

    Args:
        graph: With the pairs.
        users: Numbers, (B,) int64.
    """
    return graph.matrix()[users.numpy()]


class EmbeddingModel(CFModel):
    """A model with a vector for every user and item; the score is their dot product.

    A subclass overrides `encode` (how rows of the tables become vectors, say by propagation) and
    `loss`. Rows come from one embedding collection, so tables may be compressed or sharded.

    Args:
        config: An instance of the class's own ``Config``.
        graph: The training pairs.
    """

    class Config(CFModel.Config):
        """Options that models with vectors share."""

        embedding_dim: int = Field(default=64, ge=1)
        """Width of the rows of the tables."""
        init_std: float = Field(default=0.1, ge=0)
        """Standard deviation of their start values."""
        tables: dict[str, TableOptions] = Field(default_factory=dict)
        """Exceptions by table, ``user`` or ``item``."""

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        groups = table_specs(
            self.schema, {"embedding": config.embedding_dim}, config.tables,
            Init(std=config.init_std),
        )  # fmt: skip
        self.embeddings = self.make_embeddings(groups, self.schema.keys)
        self._encoded: tuple[Tensor, Tensor] | None = None

    def rows(self) -> Tensor:
        """All rows of both tables with their gradient, users first, (U + I, D)."""
        batch = _all_rows(self.graph, self.device)
        users, _ = self.embeddings.sequence(batch, "embedding", "user")
        items, _ = self.embeddings.sequence(batch, "embedding", "item")
        return torch.cat([users, items])

    @property
    def device(self) -> torch.device:
        """Where the tables are."""
        return next(self.embeddings.parameters()).device

    def encode(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users and items with their gradient; noise and dropout in training only.

        Returns:
            (U, D) and (I, D).
        """
        users, items = self.rows().split([self.graph.num_users, self.graph.num_items])
        return users, items

    @abc.abstractmethod
    def loss(self, batch: PairBatch) -> Tensor:
        """The loss of a batch, its regularization included.

        Args:
            batch: Pairs, with the negatives that the model's sampling asks for.

        Returns:
            A scalar with gradient.
        """

    def forward(self, batch: PairBatch) -> Tensor:
        """See `loss`."""
        return self.loss(batch)

    def train(self, mode: bool = True) -> Any:
        """See torch. Vectors that were kept for scores are forgotten."""
        self._encoded = None
        return super().train(mode)

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users and items without gradient; in eval mode they are computed once."""
        if self._encoded is not None:
            return self._encoded
        with torch.inference_mode():
            found = self.encode()
        if not self.training:
            self._encoded = found
        return found

    def scores(self, users: Tensor) -> Tensor:
        """See `CFModel`."""
        user_vectors, item_vectors = self.vectors()
        with torch.inference_mode():
            return user_vectors[users] @ item_vectors.T


def _all_rows(graph: InteractionGraph, device: torch.device) -> Batch:
    """A batch that looks up every user and every item once."""
    counts = (graph.num_users, graph.num_items)
    size = max(counts)
    values = [torch.arange(FIRST_INDEX, count + FIRST_INDEX, dtype=torch.int32) for count in counts]
    lengths = [(torch.arange(size) < count).int() for count in counts]
    return Batch(
        dense=torch.zeros(size, 0),
        values=torch.cat(values),
        lengths=torch.cat(lengths),
        labels=torch.zeros(size, 1),
        keys=("user", "item"),
        value_counts=counts,
    ).to(device)
