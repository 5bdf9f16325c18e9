"""LATTE for recommendation: attention over paths between users, items and what is known of them.

Train it: ``recsys train --config configs/graph/latte.yaml``.

Stability: experimental
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor

from recsys.cf_knowledge import KnowledgeModel
from recsys.errors import ConfigError
from recsys.graph.collaborative_relations import typed_relations
from recsys.graph.explanation import Explanation
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.knowledge_paths import paths_to
from recsys.graph.latte_layers import LATTELayers
from recsys.types import PairBatch


class LATTE(KnowledgeModel):
    """Users and items take from others in every meta-relation, and weigh the relations.

    The vector of a node is its row and, side by side, the layers of
    `recsys.graph.meta_relation_attention`: the first over interactions and every relation of the
    knowledge graph, in both directions; layer t over paths of t steps, say user - item - user and
    user - item - entity, each with the nearest of every node. Loss: BPR with L2 of the rows of a
    batch, and the proximity of all layers: attention should tell pairs of a relation from others.

    Args:
        config: Layers, heads, objectives.
        graph: The training pairs, with a knowledge graph.

    Raises:
        ConfigError: There is no knowledge graph, or the heads do not share the width.
        DataError: It is about other items.

    Source:
        Tran et al., "LATTE: Layer-Stacked Attention for Heterogeneous Network Embedding", arXiv
        2009.08072, is about classes of nodes. This adaptation is ours, the paper has no results
        for it: BPR instead of cross entropy, the row of a node in its vector, no ReLU by default
        (it would leave dot products without a sign), the start of the layers (theirs is drawn),
        paths joined once from the graph.

    Example:
        >>> import numpy as np
        >>> from recsys.graph.interactions import Names
        >>> from recsys.graph.knowledge import KnowledgeGraph
        >>> one = np.zeros(1, np.int64)
        >>> known = KnowledgeGraph(Names(["song", "band"]), Names(["by"]), 1, one, one, one + 1)
        >>> pairs = InteractionGraph(1, 1, torch.tensor([0]), torch.tensor([0]), knowledge=known)
        >>> model = LATTE(LATTE.Config(embedding_dim=4), pairs)
        >>> list(model.relation_shares("user")[1])
        ['interact > by (entity)', 'self']
    """

    class Config(KnowledgeModel.Config):
        """Options of LATTE."""

        num_layers: int = Field(default=2, ge=1)
        """T, steps of the longest paths."""
        heads: int = Field(default=1, ge=1)
        """Heads of attention, which share the width."""
        dropout: float = Field(default=0.0, ge=0, lt=1)
        """Share of the attention set to zero in training."""
        activation: Literal["none", "relu"] = "none"
        """Of every layer."""
        top: int = Field(default=20, ge=1)
        """Neighbours of a node that are kept in every relation of two steps or more."""
        proximity: float = Field(default=0.1, ge=0)
        """Weight of the proximity loss."""
        proximity_pairs: int | None = Field(default=1024, ge=1)
        """Pairs of every relation that it draws in a step; None takes all."""

    config: Config

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        if config.embedding_dim % config.heads:
            raise ConfigError(
                f"heads: expected a divisor of embedding_dim={config.embedding_dim}, got "
                f"{config.heads}."
            )
        self.counts, relations, positions = typed_relations(self.knowledge)
        self._positions = {r.key: places for r, places in zip(relations, positions)}
        dim = config.embedding_dim
        self.layers = LATTELayers(
            relations, self.counts, ("user", "item"), dim, dim, config.num_layers, config.heads,
            config.dropout, config.activation == "relu", config.top,
        )  # fmt: skip

    def reset_parameters(self, seed: int) -> None:
        """Draws all start values anew; layers start by passing vectors on unchanged.

        Args:
            seed: Any integer from 0.
        """
        super().reset_parameters(seed)
        self.layers.start_as_identity()

    def _typed(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows of all nodes by their type."""
        return dict(zip(self.counts, rows.split(list(self.counts.values()))))

    def propagated(self, rows: Tensor, negatives: int = 0) -> tuple[Tensor, Tensor]:
        """Vectors of users and items, and the proximity loss.

        Args:
            rows: Of all nodes, (N, D).
            negatives: For each pair of the proximity loss; 0 leaves it out.
        """
        typed = self._typed(rows)
        found, near = self.layers.with_proximity(typed, self.config.proximity_pairs, negatives)
        both = [torch.cat([typed[name], found[name]], 1) for name in ("user", "item")]
        return torch.cat(both), near

    def encode(self) -> Tensor:
        """See `EmbeddingModel`."""
        return self.propagated(self.node_rows())[0]

    def loss(self, batch: PairBatch) -> Tensor:
        """See `EmbeddingModel`."""
        rows, weight = self.node_rows(), self.config.proximity
        vectors, near = self.propagated(rows, 2 if weight else 0)
        loss = self.pair_loss(self.gather(vectors, batch), self.gather(rows, batch), batch)
        return loss + weight * near

    def relation_shares(self, kind: Literal["user", "item"]) -> list[dict[str, Tensor]]:
        """For every layer how much each node takes of each relation, itself the last.

        Args:
            kind: Of the nodes.

        Returns:
            (U,) or (I,) by relation, for one node adding up to 1; no gradient.
        """
        with torch.no_grad():
            return self.layers.relation_shares(self._typed(self.node_rows()), kind)

    def edge_weights(self) -> Tensor:
        """What the first layer gives every edge: share of the relation times attention, (E,).

        Edges are those of ``knowledge``; 0 where the layer has no use for what the edge gives.
        """
        with torch.no_grad():
            weights = self.layers.first.edge_weights(self._typed(self.node_rows()))
            found = torch.zeros(len(self.knowledge))
            for relation, values in zip(self.layers.first.relations, weights):
                found[self._positions[relation.key]] = values.cpu()
        return found

    def explain(self, item: int, history: csr_array, user: int | None = None) -> Explanation:
        """Paths from the user over a seen item, by what is known, to the item. See `CFModel`.

        Their weights are products of `edge_weights`, which add up to nothing. Items of the history
        that were not trained on are on no path.

        Raises:
            ConfigError: The user is not one that was trained on, or there is one layer: then
                nothing is given to entities.
        """
        if self.config.num_layers == 1:
            raise ConfigError(
                "LATTE with one layer gives entities no attention, so no path leads over them. "
                "Train it with num_layers of 2 or more."
            )
        if user is None:
            raise ConfigError(
                "LATTE explains by attention on the edges of a user that it was trained on; of "
                "somebody with nothing but a history there is none. Train it again with them."
            )
        weights = self.edge_weights().double()
        found = paths_to(self.knowledge.to("cpu"), weights, user, item, history.indices)
        return Explanation(item, found, None)
