"""What trained collaborative filters share: pairs looked up and scored, and linear propagation.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recsys.cf import EmbeddingModel
from recsys.embeddings.whole import whole_table
from recsys.errors import ConfigError
from recsys.graph.epoch_loader import EpochLoader, InTurn
from recsys.graph.fold_in import mean_messages
from recsys.graph.interaction_graph import FIRST_INDEX, InteractionGraph
from recsys.graph.negatives import SamplingConfig
from recsys.graph.propagation import Adjacency
from recsys.losses.ranking import BPRLoss, RankingLoss, Triple
from recsys.losses.regularization import l2_regularization
from recsys.types import Batch, PairBatch


class PairModel(EmbeddingModel):
    """A model that is trained on pairs and their negatives.

    Args:
        config: An instance of the class's own ``Config``.
        graph: The training pairs.
    """

    class Config(EmbeddingModel.Config):
        """Options that models of pairs share."""

        l2: float = Field(default=1e-4, ge=0)
        """Weight of the L2 regularization."""

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self.l2 = config.l2

    def look_up(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of some users and items with their gradient; the others are not touched.

        So tables may be trained by row gradients (``embedding.mode: sparse``).

        Args:
            users: Numbers, (N,) int64.
            items: Numbers, (M,) int64.

        Returns:
            (N, D) and (M, D).
        """
        found = []
        for table, numbers in (("user", users), ("item", items)):
            whole = whole_table(self.embeddings, "embedding", table)
            if whole is None:
                batch = _batch_of(self.schema.keys, {"user": users, "item": items})
                return (
                    self.embeddings.sequence(batch, "embedding", "user")[0],
                    self.embeddings.sequence(batch, "embedding", "item")[0],
                )
            found.append(functional.embedding(numbers + FIRST_INDEX, whole))
        return found[0], found[1]

    def look_up_nodes(self, nodes: Tensor) -> Tensor:
        """Rows of some nodes with their gradient; the others are not touched.

        Args:
            nodes: Numbers, users first, (N,) int64.

        Returns:
            (N, D).
        """
        is_user = nodes < self.graph.num_users
        found = self.look_up(nodes[is_user], nodes[~is_user] - self.graph.num_users)
        order = torch.cat([is_user.nonzero()[:, 0], (~is_user).nonzero()[:, 0]])
        return functional.embedding(torch.argsort(order), torch.cat(found))

    def look_up_batch(self, batch: PairBatch) -> Triple:
        """The rows that a batch is about, in one look-up of each table.

        Args:
            batch: With negatives.

        Raises:
            ConfigError: The batch has no negatives.
        """
        negatives = self.negatives_of(batch)
        size = batch.batch_size
        user, items = self.look_up(batch.user, torch.cat([batch.item, negatives.reshape(-1)]))
        return user, items[:size], items[size:].view(*negatives.shape, items.shape[1])

    def pair_scores(self, users: Tensor, items: Tensor) -> Tensor:
        """See `EmbeddingModel`; only these rows are looked up."""
        with torch.no_grad():
            user, item = self.look_up(users, items.reshape(-1))
            return (item.view(*items.shape, -1) @ user.unsqueeze(2)).squeeze(2)


class RankedPairModel(PairModel):
    """A `PairModel` of which the user chooses the loss of pairs.

    A subclass's ``loss`` calls `pair_loss`.

    Args:
        config: An instance of the class's own ``Config``.
        graph: The training pairs.
    """

    class Config(PairModel.Config):
        """Options that models with a choice of losses share."""

        ranking_loss: RankingLoss = Field(default_factory=BPRLoss)
        """What makes seen items rank above others."""

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self.ranking_loss = config.ranking_loss

    def pair_loss(self, vectors: Triple, regularized: Triple, batch: PairBatch) -> Tensor:
        """The chosen loss of the vectors, and the L2 of what is regularized.

        Args:
            vectors: Of the batch.
            regularized: Say, its rows.
            batch: With negatives, where the loss needs any.
        """
        loss = self.ranking_loss(vectors, batch, self.graph.num_items)
        if self.l2:
            loss = loss + self.l2 * l2_regularization(regularized, batch.batch_size)
        return loss

    def gather_side_by_side(self, layers: Sequence[Tensor], batch: PairBatch) -> Triple:
        """`gather` of what `side_by_side` makes of all nodes, made of the rows of the batch alone.

        Args:
            layers: Of all nodes.
            batch: See `gather`.
        """
        parts = [self.gather(layer, batch) for layer in layers]
        user, item, negatives = (side_by_side(kind) for kind in zip(*parts))
        return user, item, negatives

    def negatives_of(self, batch: PairBatch) -> Tensor:
        """See `EmbeddingModel`; none where the loss needs none."""
        if batch.negatives is None and not self.ranking_loss.needs_negatives:
            return batch.item[:0]
        return super().negatives_of(batch)

    def loader(
        self,
        sampling: SamplingConfig | None = None,
        batch_size: int = 2048,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> EpochLoader[Any] | InTurn:
        """See `EmbeddingModel`; draws no negatives for a loss that needs none.

        Raises:
            ConfigError: Negatives are asked for and the loss has no use for them.
        """
        if not self.ranking_loss.needs_negatives:
            sampling = sampling or SamplingConfig()
            asked = sampling.negatives if "negatives" in sampling.model_fields_set else "none"
            if asked != "none":
                raise ConfigError(
                    f"sampling.negatives: expected none, as ranking_loss "
                    f"{self.ranking_loss.kind} has no use for negatives, got {asked}."
                )
            sampling = sampling.model_copy(update={"negatives": "none"})
        return super().loader(sampling, batch_size, seed, rank, world_size)


def side_by_side(layers: Sequence[Tensor]) -> Tensor:
    """The first layer as it is, then the others with length 1: vectors of NGCF and KGAT.

    Args:
        layers: Of any widths.

    Shape:
        - layers: (..., D_k) each
        - output: (..., sum of D_k)
    """
    first, *others = layers
    return torch.cat([first, *(functional.normalize(layer, dim=-1) for layer in others)], dim=-1)


class LinearModel(RankedPairModel):
    """Vectors are a sum of propagated rows, trained by BPR or another loss of pairs, with L2.

        E_k = A E_{k-1},  z = (E_f + ... + E_K) / (K + 1 - f),  A = D^-1/2 (adjacency) D^-1/2

    New users and items get vectors by one sum over their neighbours, and scores are sums over
    neighbours, because all of it is linear.

    Args:
        config: An instance of the class's own ``Config``.
        graph: The training pairs.
    """

    class Config(RankedPairModel.Config):
        """Options that models with linear propagation share."""

        num_layers: int = Field(default=3, ge=0)
        """K, steps of propagation."""

    first_layer: ClassVar[int] = 0
    """f, the lowest layer that counts: 0 or 1."""
    combine: ClassVar[Literal["mean", "sum"]] = "mean"
    """Whether the sum is divided by the number of layers in it."""

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self.adjacency = Adjacency.bipartite(graph)
        self.num_layers = config.num_layers
        if config.num_layers < self.first_layer:
            raise ConfigError(
                f"num_layers: expected at least {self.first_layer} for {type(self).__name__}, "
                f"got {config.num_layers}."
            )

    @property
    def layer_weight(self) -> float:
        """Of every layer in the sum."""
        layers = self.num_layers + 1 - self.first_layer
        return 1 / layers if self.combine == "mean" else 1.0

    def on_device(self, rows: Tensor) -> Adjacency:
        """The operator where the rows are.

        Args:
            rows: Of the tables.
        """
        self.adjacency = self.adjacency.to(rows.device)
        return self.adjacency

    def passed_on(self, rows: Tensor) -> Tensor:
        """``(E_0 + ... + E_{K-1})`` times the weight of a layer: what neighbours get.

        Args:
            rows: Of layer 0, users first, (U + I, D). Vectors are ``A`` times this, and where
                layer 0 counts, its weight times the rows.
        """
        if self.num_layers == 0:
            return torch.zeros_like(rows)
        adj, powers = self.on_device(rows), self.num_layers - 1
        if self.first_layer:
            return adj.propagate(rows, powers, self.combine)
        return adj.propagate(rows, powers, "sum") * self.layer_weight

    def propagated(self, rows: Tensor) -> Tensor:
        """Vectors from the rows of layer 0.

        Args:
            rows: Users first, (U + I, D).
        """
        if self.first_layer == 0:
            return self.on_device(rows).propagate(rows, self.num_layers, self.combine)
        return self.on_device(rows) @ self.passed_on(rows)

    def encode(self) -> Tensor:
        """See `EmbeddingModel`."""
        return self.propagated(self.rows())

    def messages(self) -> Tensor:
        """See `EmbeddingModel`."""
        rows = self.rows().detach()
        layers = self.num_layers + 1 - self.first_layer
        found = mean_messages(self.on_device(rows), rows, self.num_layers, self.first_layer)
        return found * (layers * self.layer_weight)

    def loss(self, batch: PairBatch) -> Tensor:
        """See `EmbeddingModel`."""
        rows = self.rows()
        vectors = self.gather(self.propagated(rows), batch)
        return self.pair_loss(vectors, self.gather(rows, batch), batch)


def _batch_of(keys: Sequence[str], numbers: Mapping[str, Tensor]) -> Batch:
    """One row that has these numbers under their keys, and nothing under the others."""
    device = next(iter(numbers.values())).device
    none = torch.zeros(0, dtype=torch.int64, device=device)
    found = [numbers.get(key, none) for key in keys]
    counts = tuple(len(part) for part in found)
    return Batch(
        dense=torch.zeros(1, 0, device=device),
        values=(torch.cat(found) + FIRST_INDEX).int(),
        lengths=torch.tensor(counts, dtype=torch.int32, device=device),
        labels=torch.zeros(1, 1, device=device),
        keys=tuple(keys),
        value_counts=counts,
    )
