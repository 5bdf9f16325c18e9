"""KGAT: attention over the edges of users, items and what is known about items.

Train it: ``recsys train --config configs/graph/kgat.yaml``.

Stability: caller
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional

from recsys.cf_graph import side_by_side
from recsys.cf_knowledge import KnowledgeModel
from recsys.errors import ConfigError
from recsys.graph.epoch_loader import InTurn
from recsys.graph.explanation import Explanation
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.knowledge_paths import paths_to
from recsys.graph.negatives import SamplingConfig
from recsys.graph.perturbation import drop_messages
from recsys.graph.propagation import Adjacency
from recsys.graph.sampling import PairLoader
from recsys.graph.triple_sampling import TripleLoader
from recsys.layers.trans_r import TransR
from recsys.losses.regularization import l2_regularization
from recsys.types import PairBatch, TripleBatch


class KGAT(KnowledgeModel):
    """Layers that sum up a node's neighbours by attention, trained in turn with TransR.

    Nodes are users and entities (items are entities), edges are interactions and triples in both
    directions. With e rows and pi the attention, over all edges of a head together:

        pi(h, r, t) = softmax((W_r e_t)^T tanh(W_r e_h + e_r))
        n_h = sum of pi(h, r, t) x_t
        bi_interaction: x_h' = LeakyReLU(W1 (x_h + n_h) + b1) + LeakyReLU(W2 (x_h * n_h) + b2)
        gcn:            x_h' = LeakyReLU(W (x_h + n_h) + b)
        graphsage:      x_h' = LeakyReLU(W [x_h, n_h] + b)

    then message dropout; a copy of length 1 goes into the vector, x' itself to the next layer. The
    vector of a node is ``[e, x^(1), ..., x^(K)]``.

    Every epoch has two phases. First pairs: BPR, with L2 of the vectors of a batch; no gradient
    flows through the attention. Then triples: ``softplus(g(h, r, t) - g(h, r, t'))`` with TransR's
    distance g and an unknown tail t', and L2 of what it compares. Attention is computed when an
    epoch begins and kept in the state, so that a resumed run goes on with the same; before the
    first epoch all edges of a head count alike.

    Args:
        config: Layers, attention, whether there is the second phase.
        graph: The training pairs, with a knowledge graph (which may have no triple).

    Raises:
        ConfigError: There is no knowledge graph.
        DataError: It is about other items.

    Source:
        Wang et al., "KGAT: Knowledge Graph Attention Network for Recommendation", KDD 2019, and
        the official code. Differs: in the official code attention never reaches the propagation,
        which keeps its first weights (``attention: static``); here it does. The code has an Adam of
        its own for each phase; here one Adam has the moments of both. A weight that a phase does
        not use is not moved in it, so only the rows of the nodes share their moments.

    Example:
        >>> import numpy as np
        >>> from recsys.graph.interactions import Names
        >>> from recsys.graph.knowledge import KnowledgeGraph
        >>> one = np.zeros(1, np.int64)
        >>> known = KnowledgeGraph(Names(["song", "band"]), Names(["by"]), 1, one, one, one + 1)
        >>> pairs = InteractionGraph(1, 1, torch.tensor([0]), torch.tensor([0]), knowledge=known)
        >>> model = KGAT(KGAT.Config(embedding_dim=4, layers=(3,)), pairs).eval()
        >>> model.vectors()[1].shape  # 4 + 3
        torch.Size([1, 7])
        >>> model.edge_weights().tolist()  # user-song; song-band, song-user; band-song
        [1.0, 0.5, 0.5, 1.0]
    """

    class Config(KnowledgeModel.Config):
        """Options of KGAT."""

        layers: tuple[int, ...] = Field(default=(64, 32, 16), min_length=1)
        """Widths."""
        aggregator: Literal["bi_interaction", "gcn", "graphsage"] = "bi_interaction"
        """How a node and its neighbours become the next layer."""
        attention: Literal["epoch", "step", "static"] = "epoch"
        """When it is computed: as an epoch begins, or in every step. ``static``: never; each
        relation of a node weighs the same, as the official code really does."""
        relation_dim: int | None = Field(default=None, ge=1)
        """Width of the space of relations; None is as ``embedding_dim``."""
        knowledge_phase: bool = True
        """Whether pairs and triples take turns; else there are pairs alone."""
        slope: float = Field(default=0.2, ge=0, le=1)
        """Of LeakyReLU below 0; the default is that of TensorFlow."""
        message_dropout: float = Field(default=0.1, ge=0, lt=1)
        """With which probability an entry of a layer is 0 in a step."""
        l2: float = Field(default=1e-5, ge=0)
        """Weight of the L2 of the vectors of a batch of pairs."""
        knowledge_l2: float = Field(default=1e-5, ge=0)
        """Weight of the L2 of projected rows and relations of a batch of triples."""

    config: Config
    attention: Tensor
    attention_epoch: Tensor

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        if graph.weight is not None:
            raise ConfigError(
                "KGAT weighs edges by attention, and does not use weights of pairs. Set "
                "`weighted: false`."
            )
        edges = self.knowledge
        nodes = edges.num_nodes
        self._pattern = Adjacency.from_edges(edges.head, edges.tail, nodes, nodes, norm="row")
        self._operator: tuple[tuple[Any, ...], Adjacency] | None = None
        self.trans_r = TransR(
            len(edges.relations), config.embedding_dim, config.relation_dim or config.embedding_dim
        )
        widths = (config.embedding_dim, *config.layers)
        sides = 2 if config.aggregator == "graphsage" else 1
        self.sums = nn.ModuleList(nn.Linear(sides * a, b) for a, b in pairwise(widths))
        pairs = pairwise(widths) if config.aggregator == "bi_interaction" else ()
        self.products = nn.ModuleList(nn.Linear(*pair) for pair in pairs)
        self.register_buffer("attention", self._first_weights())
        self.register_buffer("attention_epoch", torch.tensor(-1))

    def reset_parameters(self, seed: int) -> None:
        """See `RecModel`; attention is as before the first epoch."""
        super().reset_parameters(seed)
        self.attention.copy_(self._first_weights())
        self.attention_epoch.fill_(-1)

    # ------------------------------------------------------------------------- attention

    def _first_weights(self) -> Tensor:
        """Of every edge: 1 over the edges of its head; or, ``static``, of head and relation."""
        edges = self.knowledge
        group = edges.head
        if self.config.attention == "static":
            group = edges.head * len(edges.relations) + edges.relation
        _, group, counts = group.unique(return_inverse=True, return_counts=True)
        return counts[group].float().reciprocal()

    def begin_epoch(self, epoch: int, seed: int = 0) -> None:
        """See `EmbeddingModel`: attention by the rows as they are, once an epoch."""
        del seed
        if int(self.attention_epoch) == epoch:
            return  # resumed
        self.attention_epoch.fill_(epoch)
        if self.config.attention == "epoch":
            self.attention.copy_(self.attend(self.node_rows().detach()))

    def attend(self, rows: Tensor) -> Tensor:
        """Attention of every edge of ``knowledge`` by some rows, without gradient.

        Args:
            rows: Of all nodes, (N, D).

        Returns:
            (E,); those of one head add up to 1.
        """
        edges = self.knowledge.to(rows.device)
        scores = self.trans_r.attention(rows, edges.head, edges.relation, edges.tail)
        self._pattern = self._pattern.to(rows.device)
        order = self._pattern.edge_order
        assert order is not None
        found = torch.empty_like(scores)
        found[order] = self._pattern.softmax(scores[order])
        return found

    def edge_weights(self) -> Tensor:
        """What every edge of ``knowledge`` weighs in the propagation, (E,)."""
        if self.config.attention == "step":
            with torch.no_grad():
                return self.attend(self.node_rows())
        return self.attention

    def _adjacency(self, rows: Tensor) -> Adjacency:
        """The operator with the attention as it is; made anew only where that has changed."""
        if self.config.attention == "step":
            return self._weighted(self.attend(rows.detach()))
        kept = self.attention
        state = (kept.data_ptr(), kept._version, kept.device)
        if self._operator is None or self._operator[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self._operator = state, self._weighted(kept.clone())
        return self._operator[1]

    def _weighted(self, attention: Tensor) -> Adjacency:
        self._pattern = self._pattern.to(attention.device)
        order = self._pattern.edge_order
        assert order is not None
        return self._pattern.reweight(attention.index_select(0, order))

    # ------------------------------------------------------------------------- vectors

    def encode(self) -> Tensor:
        """See `EmbeddingModel`."""
        count = self.graph.num_users + self.graph.num_items
        return side_by_side([layer[:count] for layer in self.layers()])

    def layers(self) -> list[Tensor]:
        """The rows of all nodes, then what every layer makes of them; other entities come last."""
        found = [self.node_rows()]
        adj = self._adjacency(found[0])
        for number in range(len(self.sums)):
            layer = self._layer(number, found[-1], adj @ found[-1])
            if self.training:
                layer = drop_messages(layer, self.config.message_dropout)
            found.append(layer)
        return found

    def _layer(self, number: int, own: Tensor, around: Tensor) -> Tensor:
        """The next layer from a node itself and its neighbours."""
        slope, sums = self.config.slope, self.sums[number]
        if self.config.aggregator == "graphsage":
            return functional.leaky_relu(sums(torch.cat([own, around], 1)), slope)
        found = functional.leaky_relu(sums(own + around), slope)
        if self.config.aggregator == "gcn":
            return found
        return found + functional.leaky_relu(self.products[number](own * around), slope)

    # ------------------------------------------------------------------------- training

    def loader(
        self,
        sampling: SamplingConfig | None = None,
        batch_size: int = 2048,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> PairLoader | InTurn:
        """See `EmbeddingModel`: pairs, then as many batches of triples."""
        pairs = PairLoader(
            self.graph, sampling, batch_size, seed, rank, world_size, self.pair_scores
        )
        if not self.config.knowledge_phase:
            return pairs
        steps = -(-self.graph.num_edges // batch_size)  # of one rank, so that the size is for all
        size = -(-len(self.knowledge) // steps)
        triples = TripleLoader(self.knowledge.to("cpu"), size, seed, rank, world_size)
        return InTurn([pairs, triples])

    def loss(self, batch: PairBatch | TripleBatch) -> Tensor:
        """See `EmbeddingModel`: of the phase that the batch is for."""
        if isinstance(batch, TripleBatch):
            return self.knowledge_loss(batch)
        vectors = self.gather_side_by_side(self.layers(), batch)
        return self.pair_loss(vectors, vectors, batch)

    def knowledge_loss(self, batch: TripleBatch) -> Tensor:
        """Known triples should be nearer to true than those with another tail.

        Args:
            batch: Triples.
        """
        nodes = torch.stack([batch.head, batch.tail, batch.negative], 1)
        rows = functional.embedding(nodes, self.node_rows())
        head, tail, negative = self.trans_r(rows, batch.relation).unbind(1)
        near, far = (self.trans_r.distance(head, t, batch.relation) for t in (tail, negative))
        loss = functional.softplus(near - far).mean()
        if self.config.knowledge_l2:
            compared = (head, self.trans_r.translation[batch.relation], tail, negative)
            l2 = l2_regularization(compared, batch.batch_size)
            loss = loss + self.config.knowledge_l2 * l2
        return loss

    # ------------------------------------------------------------------------- reasons

    def explain(self, item: int, history: csr_array, user: int | None = None) -> Explanation:
        """Paths from the user over a seen item, by what is known, to the item. See `CFModel`.

        Their weights are products of attention, which add up to nothing. Items of the history that
        were not trained on have no attention and are on no path.

        Raises:
            ConfigError: The user is not one that was trained on, or no epoch has begun: the model
                is not trained, or was loaded without its weights.
        """
        if user is None:
            raise ConfigError(
                "KGAT explains by attention on the edges of a user that it was trained on; of "
                "somebody with nothing but a history there is none. Train it again with them."
            )
        if int(self.attention_epoch) < 0:
            raise ConfigError(
                "KGAT has no attention before its first epoch. Train it, or load it with weights."
            )
        edges = self.knowledge.to("cpu")
        weights = self.edge_weights().detach().cpu().double()
        return Explanation(item, paths_to(edges, weights, user, item, history.indices), None)
