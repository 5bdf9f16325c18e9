"""KGIN: users take from items by intents, entities from neighbours through relations.

Train it: ``recsys train --config configs/graph/kgin.yaml``.

Stability: caller
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recsys.cf_knowledge import KnowledgeModel
from recsys.errors import ConfigError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.perturbation import drop_messages
from recsys.graph.propagation import Adjacency
from recsys.graph.relational_mean import RelationalMean
from recsys.layers.intents import Intents
from recsys.losses.distance_correlation import mutual_dependence
from recsys.types import PairBatch


class KGIN(KnowledgeModel):
    """Relation-aware layers whose sum is the vector; users by intents, entities by relations.

        entities: x_h' = mean of e_r * x_t over the triples (h, r, t), inverse ones too
        users:    x_u' = (mean of x_i over the items of u) * (1 + sum of softmax(x_u . c_p)_p e_p)
        intents:  e_p = sum of softmax(w_p)_r e_r

    then message dropout and length 1. The vector of a node is its row and the sum of all layers.
    Items take nothing from users. Loss: BPR with L2 of the vectors of a batch, and the distance
    correlations of all pairs of intents' mixtures w_p.

    Args:
        config: Layers, intents, dropout.
        graph: The training pairs, with a knowledge graph.

    Raises:
        ConfigError: There is no knowledge graph, or it has no triple.
        DataError: It is about other items.

    Source:
        Wang et al., "Learning Intents behind Interactions with Knowledge Graph for Recommendation",
        WWW 2021, and the official code, whose equations these are. Differs: node
        dropout takes every edge with its probability, not a fixed number of them, and what is left
        of a user's items is divided by ``1 - p`` (the code's factor is right for 0.5 alone).

    Example:
        >>> import numpy as np
        >>> from recsys.graph.interactions import Names
        >>> from recsys.graph.knowledge import KnowledgeGraph
        >>> one = np.zeros(1, np.int64)
        >>> known = KnowledgeGraph(Names(["song", "band"]), Names(["by"]), 1, one, one, one + 1)
        >>> pairs = InteractionGraph(1, 1, torch.tensor([0]), torch.tensor([0]), knowledge=known)
        >>> KGIN(KGIN.Config(embedding_dim=4), pairs).eval().vectors()[0].shape
        torch.Size([1, 4])
    """

    class Config(KnowledgeModel.Config):
        """Options of KGIN."""

        num_layers: int = Field(default=3, ge=1)
        """Steps from node to node."""
        num_intents: int = Field(default=4, ge=1)
        """P."""
        independence: float = Field(default=1e-4, ge=0)
        """Weight of the distance correlations of the intents."""
        node_dropout: float = Field(default=0.5, ge=0, lt=1)
        """With which probability an edge is left out of a step."""
        message_dropout: float = Field(default=0.1, ge=0, lt=1)
        """With which probability an entry of a layer is 0 in a step."""
        l2: float = Field(default=1e-5, ge=0)
        """Weight of the L2 of the vectors of a batch."""

    config: Config

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        head, relation, tail = self.knowledge.facts()
        if not len(head):
            raise ConfigError(
                "KGIN: the knowledge graph has no triple, so intents are mixtures of nothing. Use "
                "a model of pairs alone, say LightGCN."
            )
        self.items_of_users = Adjacency.from_edges(
            graph.user, graph.item, graph.num_users, graph.num_items, graph.weight, norm="row"
        )
        count = self.knowledge.num_nodes - graph.num_users
        self.facts = RelationalMean.of(head, relation, tail, count)
        relations = len(self.knowledge.relations) - 2
        self.intents = Intents(config.num_intents, relations, config.embedding_dim)

    def encode(self) -> Tensor:
        """See `EmbeddingModel`."""
        rows, config = self.node_rows(), self.config
        users, entities = rows.split([self.graph.num_users, len(rows) - self.graph.num_users])
        items, facts = self.items_of_users.to(rows.device), self.facts.to(rows.device)
        self.items_of_users, self.facts = items, facts
        if self.training and config.node_dropout:
            items = items.drop_edges(config.node_dropout, renormalize=False)
            facts = facts.drop_edges(config.node_dropout)
        count = self.graph.num_items
        all_users, all_items = users, entities[:count]
        for _ in range(config.num_layers):
            users, entities = (
                self._finished(part)
                for part in (
                    self.intents(users, items @ entities[:count]),
                    facts(entities, self.intents.relations),
                )
            )
            all_users, all_items = all_users + users, all_items + entities[:count]
        return torch.cat([all_users, all_items])

    def _finished(self, layer: Tensor) -> Tensor:
        """Dropout, then length 1."""
        if self.training:
            layer = drop_messages(layer, self.config.message_dropout)
        return functional.normalize(layer, dim=1)

    def loss(self, batch: PairBatch) -> Tensor:
        """See `EmbeddingModel`."""
        vectors = self.gather(self.encode(), batch)
        loss = self.pair_loss(vectors, vectors, batch)
        if self.config.independence and self.config.num_intents > 1:
            loss = loss + self.config.independence * mutual_dependence(self.intents.mixture)
        return loss
