"""DAGNN for recommendation: every node chooses how far it looks.

Train it: ``recsys train --config configs/graph/dagnn.yaml``.

Stability: experimental
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from recsys.cf_graph import RankedPairModel
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.propagation import Adjacency
from recsys.layers.depth_gate import DepthGate
from recsys.types import PairBatch


class DAGNN(RankedPairModel):
    """LightGCN whose mean over layers has shares that depend on the node.

        E_k = A E_{k-1},  z_n = sum_k sigmoid(w . e_kn + b) e_kn

    with ``A = D^-1/2 (adjacency) D^-1/2``, with self-loops if asked for. It starts as LightGCN:
    w = 0 and all shares 1 / (K + 1). Trained by BPR, with L2 of the rows of layer 0 in the batch.

    Far layers converge to the degrees of nodes, so what a node takes of them is, in part, how much
    it goes by popularity.

    Args:
        config: Layers, self-loops, regularization.
        graph: The training pairs.

    Source:
        Liu et al., "Towards Deeper Graph Neural Networks", KDD 2020, is a classifier of
        nodes. This adaptation is ours, the paper has no results for it: rows of tables instead of
        an MLP of features, no classifier after the gate, another start; without self-loops, as in
        LightGCN, odd layers of users are about items.

    Example:
        >>> import torch
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> graph = InteractionGraph(2, 2, torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> model = DAGNN(DAGNN.Config(num_layers=2), graph)
        >>> model.shares().shape  # of every node, for layers 0, 1, 2
        torch.Size([4, 3])
    """

    class Config(RankedPairModel.Config):
        """Options of DAGNN."""

        num_layers: int = Field(default=3, ge=1)
        """K, steps of propagation."""
        self_loops: bool = False
        """Whether every node is its own neighbour too."""

    config: Config

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self.adjacency = Adjacency.bipartite(graph, self_loops=config.self_loops)
        self.gate = DepthGate(config.embedding_dim, config.num_layers + 1)

    def encode(self) -> Tensor:
        """See `EmbeddingModel`."""
        return self.propagated(self.rows())

    def propagated(self, rows: Tensor) -> Tensor:
        """Vectors from the rows of layer 0.

        Args:
            rows: Users first, (U + I, D).
        """
        self.adjacency = self.adjacency.to(rows.device)
        layer, total = rows, self.gate(rows)
        for _ in range(self.config.num_layers):
            layer = self.adjacency @ layer
            total = total + self.gate(layer)
        return total

    def shares(self) -> Tensor:
        """How much of every layer the nodes take, (U + I, K + 1) without gradient."""
        rows = self.rows().detach()
        layers = self.adjacency.to(rows.device).propagate(rows, self.config.num_layers, "stack")
        return self.gate.shares(layers.flatten(0, 1)).detach().view(layers.shape[:2])

    def loss(self, batch: PairBatch) -> Tensor:
        """See `EmbeddingModel`."""
        rows = self.rows()
        vectors = self.gather(self.propagated(rows), batch)
        return self.pair_loss(vectors, self.gather(rows, batch), batch)
