"""The bases of collaborative filters: built from the training graph, giving scores of all items.

Three kinds: those that learn vectors of users and items (`EmbeddingModel`), those that are *fitted*
in closed form (`recsys.cf_fitted`), and anything else that has scores (`CFModel`).

Stability: caller
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional

from recsys.base import RecModel
from recsys.embeddings.specs import TableOptions, table_specs
from recsys.embeddings.whole import whole_table
from recsys.errors import ConfigError
from recsys.graph.epoch_loader import EpochLoader, InTurn
from recsys.graph.explanation import Explanation
from recsys.graph.fitted_buffers import check_history
from recsys.graph.interaction_graph import FIRST_INDEX, InteractionGraph
from recsys.graph.negatives import SamplingConfig
from recsys.graph.products import one_each, scaled, sparse_dense, sums
from recsys.graph.sampling import PairLoader
from recsys.schema import Init, Schema
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
    needs_contents: bool = False
    """Whether the items must be bundles of which the graph knows the contents."""
    needs_descriptions: bool = False
    """Whether the graph must have texts and concepts of users and items."""
    needs_features: bool = False
    """Whether the graph should have features of the items."""

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, self.schema_of(config, graph))
        self.graph = graph

    @classmethod
    def schema_of(cls, config: Config, graph: InteractionGraph) -> Schema:
        """Features and rows of the tables; models with more kinds of nodes add theirs.

        Args:
            config: Of the model.
            graph: To learn from.
        """
        del config
        return graph.schema

    @property
    def knows_unseen_items(self) -> bool:
        """Whether more than a start value is known of items that nobody has in training."""
        return self.graph.knowledge is not None

    @property
    def knows_unseen_users(self) -> bool:
        """Whether more than a start value is known of users who have nothing in training."""
        return False

    @abc.abstractmethod
    def scores(self, users: Tensor) -> Tensor:
        """How much users want every item, seen ones too: more is better.

        Args:
            users: Numbers, (B,) int64.

        Returns:
            (B, I) float32, without gradient.
        """

    # What a model may be able to do beside scoring those it was trained on. Whatever it cannot do
    # is refused: the default of a wrong answer would be believed.

    def scores_of(self, history: csr_array) -> Tensor:
        """Scores of all items for anybody with a history, also users that training did not see.

        Args:
            history: Sparse (B, I) float32; 1 where an item was seen (or its weight).

        Returns:
            (B, I) float32, more is better.

        Raises:
            ConfigError: The model cannot.
        """
        raise ConfigError(
            f"{type(self).__name__} has no vectors of users that it was not trained on. Train it "
            "again with them, or use a model that needs nothing but a history: fitted ones (say "
            "EASE, ItemKNN, GFCF, iALS) or those with linear propagation (say LightGCN)."
        )

    def scores_of_texts(self, texts: Sequence[str]) -> Tensor:
        """Scores of all items for anybody with a text.

        Args:
            texts: Of each, B.

        Returns:
            (B, I) float32, more is better.

        Raises:
            ConfigError: The model cannot.
        """
        raise self._reads_no_texts()

    def explain_text(self, text: str, item: int) -> Explanation:
        """Why somebody with a text may want an item.

        Args:
            text: Of somebody new.
            item: Number of the item.

        Raises:
            ConfigError: The model cannot say.
        """
        raise self._reads_no_texts()

    def _reads_no_texts(self) -> ConfigError:
        return ConfigError(
            f"{type(self).__name__} knows users by their interactions, not by texts. Use a model "
            "that reads texts, say SESA."
        )

    def similarities(self, items: Tensor) -> Tensor:
        """How like some items all items are.

        Args:
            items: Numbers, (N,) int64.

        Returns:
            (N, I) float32, more is more alike, ``-inf`` where there is no likeness to speak of.

        Raises:
            ConfigError: The model cannot say.
        """
        raise ConfigError(f"{type(self).__name__} cannot say which items are alike.")

    def explain(self, item: int, history: csr_array, user: int | None = None) -> Explanation:
        """Why somebody may want an item.

        A model whose reasons are no sum over seen items (say paths with attention in a knowledge
        graph) overrides it.

        Args:
            item: Number of the item.
            history: What the user has seen, sparse (1, I) float32.
            user: Number of the user; None for one that training did not see.

        Raises:
            ConfigError: The model cannot say, or not without a known user.
        """
        raise ConfigError(
            f"{type(self).__name__} cannot explain its scores. Models of item similarities can "
            "(EASE, ItemKNN, ...), and so can those with linear propagation (say LightGCN)."
        )

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users and items whose dot products are the scores, (U, D) and (I, D).

        Raises:
            ConfigError: The model has none.
        """
        raise ConfigError(
            f"{type(self).__name__} has no vectors of users and items. Its scores come from "
            "`scores`."
        )


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

    stores_vectors: ClassVar[bool] = True
    """Whether a model folder holds the vectors; else scores are made from the weights."""

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        for table, options in config.tables.items():
            if options.embedding_dim not in (None, config.embedding_dim):
                raise ConfigError(
                    f"tables.{table}.embedding_dim: expected {config.embedding_dim}, as "
                    f"`embedding_dim`, got {options.embedding_dim}: users and items are compared "
                    "by dot products. Set `embedding_dim` for all tables, or compress the table."
                )
        groups = table_specs(
            self.schema, {"embedding": config.embedding_dim}, config.tables,
            Init(std=config.init_std),
        )  # fmt: skip
        self.embeddings = self.make_embeddings(groups, self.schema.keys)
        self._encoded: tuple[Tensor, Tensor] | None = None
        self._messages: Tensor | None = None

    def rows(self) -> Tensor:
        """All rows of both tables with their gradient, users first, (U + I, D)."""
        return self.rows_of("user", "item")

    def rows_of(self, *tables: str) -> Tensor:
        """All rows of some tables with their gradient, one table after the other.

        Args:
            tables: Names.
        """
        whole = [whole_table(self.embeddings, "embedding", table) for table in tables]
        widths = {None if rows is None else rows.shape[1] for rows in whole}
        if len(widths) == 1 and None not in widths:
            return torch.cat([rows[FIRST_INDEX:] for rows in whole if rows is not None])
        sizes = self.schema.num_embeddings()
        counts = [sizes[key] - FIRST_INDEX if key in tables else 0 for key in self.schema.keys]
        batch = _all_rows(self.schema.keys, counts, self.device)
        return torch.cat([self.embeddings.sequence(batch, "embedding", t)[0] for t in tables])

    @property
    def device(self) -> torch.device:
        """Where the tables are."""
        return self.embeddings.store.device

    def encode(self) -> Tensor:
        """Vectors of all users and items with their gradient; noise and dropout in training only.

        Returns:
            (U + I, D), users first.
        """
        return self.rows()

    def gather(self, vectors: Tensor, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The vectors that a batch is about, in one look-up (whose gradient is one buffer).

        Args:
            vectors: Of all nodes, (U + I, D).
            batch: With negatives.

        Returns:
            Of the users (B, D), of the items (B, D), of the negatives (B, N, D), or (N, D) where
            they are shared.

        Raises:
            ConfigError: The batch has no negatives.
        """
        first, size = self.graph.num_users, batch.batch_size
        wanted = self.negatives_of(batch)
        nodes = torch.cat([batch.user, batch.item + first, wanted.reshape(-1) + first])
        user, item, negatives = functional.embedding(nodes, vectors).split(
            [size, size, wanted.numel()]
        )
        return user, item, negatives.view(*wanted.shape, vectors.shape[1])

    def negatives_of(self, batch: PairBatch) -> Tensor:
        """The negatives of a batch.

        Args:
            batch: Any.

        Raises:
            ConfigError: It has none.
        """
        if batch.negatives is None:
            raise ConfigError(
                f"{type(self).__name__} learns from negatives and the batches have none. Set "
                "`sampling.negatives`, say to uniform."
            )
        return batch.negatives

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

    def loader(
        self,
        sampling: SamplingConfig | None = None,
        batch_size: int = 2048,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> EpochLoader[Any] | InTurn:
        """The batches that the model is trained on: pairs, and whatever else takes turns with them.

        Args:
            sampling: Which pairs and negatives.
            batch_size: Pairs of a batch on each rank.
            seed: Of the order and of all draws.
            rank: This process.
            world_size: Number of processes that share the pairs out.
        """
        return PairLoader(
            self.graph, sampling, batch_size, seed, rank, world_size, self.pair_scores
        )

    def begin_epoch(self, epoch: int, seed: int = 0) -> None:
        """Called when an epoch of training begins, and when training goes on within one.

        A model that draws something for a whole epoch, say changed graphs, overrides it and draws
        from these two numbers alone, so that resuming changes nothing. Loops of one's own call it
        too.

        Args:
            epoch: From 0.
            seed: Of the run, the same on every rank.
        """

    def train(self, mode: bool = True) -> Any:
        """See torch. Vectors that were kept for scores are forgotten."""
        self._encoded = self._messages = None
        return super().train(mode)

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users and items without gradient; in eval mode they are computed once."""
        if self._encoded is not None:
            return self._encoded
        # FBGEMM's sharded lookups have no kernel for inference mode, which the caller may be in.
        with torch.inference_mode(False), torch.no_grad():
            users, items = self.encode().split([self.graph.num_users, self.graph.num_items])
        if not self.training:
            self._encoded = users, items
        return users, items

    def pair_scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of some items of every user by the rows of the tables, as they are now.

        For choosing hard negatives: without propagation, which would cost more than the step.

        Args:
            users: (B,) int64.
            items: (B, P) int64.

        Returns:
            (B, P) without gradient.
        """
        with torch.no_grad():
            rows = self.rows()
            found = rows[items + self.graph.num_users] @ rows[users].unsqueeze(2)
        return found.squeeze(2)

    def keep_vectors(self, users: Tensor, items: Tensor) -> None:
        """Takes vectors that `vectors` gave before, until the next training.

        Args:
            users: (U, D).
            items: (I, D).
        """
        self._encoded = users, items

    def scores(self, users: Tensor) -> Tensor:
        """See `CFModel`."""
        user_vectors, item_vectors = self.vectors()
        with torch.inference_mode():
            return user_vectors[users] @ item_vectors.T

    # ------------------------------------------------------------------ nodes that are new

    def messages(self) -> Tensor:
        """What every node passes on to the vector of a neighbour of degree 1.

        A model whose vectors are linear in its rows overrides it; then new users and new items
        get vectors by one sum, and scores can be explained. With K layers that are averaged it is
        ``d_n^-1/2 (h_n^(0) + ... + h_n^(K-1)) / (K + 1)``, see
        `recsys.graph.fold_in.mean_messages`.

        Returns:
            (U + I, D), users first, without gradient.

        Raises:
            ConfigError: The model has no such thing.
        """
        raise ConfigError(
            f"{type(self).__name__} has no vectors of users or items that it was not trained on, "
            "and its scores are no sum over neighbours. Train it again with them, or use a model "
            "that needs nothing but a history: those with linear propagation (say LightGCN) or "
            "fitted ones (say EASE, ItemKNN, GFCF, iALS)."
        )

    def folded_in(self, neighbours: csr_array, kind: Literal["user", "item"] = "user") -> Tensor:
        """Vectors of new users from their items, or of new items from their users.

        ``sum_n w_n m_n / sqrt(sum_n w_n)`` with m the `messages` of the neighbours; 0 without any.

        Args:
            neighbours: Sparse (B, I) or (B, U) float32.
            kind: What is new.

        Returns:
            (B, D).

        Raises:
            ConfigError: The model has no `messages`.
        """
        with torch.inference_mode():
            if self._messages is None or self.training:
                self._messages = self.messages().cpu()
            users, items = self._messages.split([self.graph.num_users, self.graph.num_items])
            known = items if kind == "user" else users
            check_history(neighbours, len(known))
            degrees = sums(neighbours, 1)
            roots = np.sqrt(np.where(degrees > 0, degrees, 1))
            return sparse_dense(scaled(neighbours, 1 / roots, None), known.contiguous())

    def scores_of(self, history: csr_array) -> Tensor:
        """See `CFModel` and `folded_in`."""
        found = self.folded_in(history)
        with torch.inference_mode():
            return found @ self.vectors()[1].cpu().T

    def similarities(self, items: Tensor) -> Tensor:
        """Cosines of vectors. See `CFModel`."""
        vectors = functional.normalize(self.vectors()[1], dim=1)
        with torch.inference_mode():
            found = (vectors[items] @ vectors.T).cpu()
            if not self.knows_unseen_items:
                found[:, self.graph.item_degrees() == 0] = -torch.inf
        return found

    def explain(self, item: int, history: csr_array, user: int | None = None) -> Explanation:
        """What every seen item passes on; the rest is the user's own row. See `CFModel`."""
        parts = one_each(history.indices, history.data, self.graph.num_items)
        total = float(np.sqrt(max(sums(history, 1)[0], np.finfo(np.float32).tiny)))
        alone = self.folded_in(parts) * torch.from_numpy(np.sqrt(history.data) / total)[:, None]
        with torch.inference_mode():
            users, items = self.vectors()
            given = (alone @ items[item].cpu()).numpy()
            score = float(given.sum())
            if user is not None:
                score = float(users[user] @ items[item])
        return Explanation.of_items(item, history.indices, given, score, score - float(given.sum()))


def _all_rows(keys: Sequence[str], counts: Sequence[int], device: torch.device) -> Batch:
    """A batch that looks up so many rows of every table once."""
    size = max(counts)
    values = [torch.arange(FIRST_INDEX, count + FIRST_INDEX, dtype=torch.int32) for count in counts]
    lengths = [(torch.arange(size) < count).int() for count in counts]
    return Batch(
        dense=torch.zeros(size, 0),
        values=torch.cat(values),
        lengths=torch.cat(lengths),
        labels=torch.zeros(size, 1),
        keys=tuple(keys),
        value_counts=tuple(counts),
    ).to(device)
