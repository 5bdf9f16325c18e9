"""NGCF: propagation with weights, activations, and products of a node with its neighbours.

Train it: ``recsys train --config configs/graph/ngcf.yaml``.

Stability: caller
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recsys.cf_graph import RankedPairModel, side_by_side
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.perturbation import drop_messages
from recsys.graph.propagation import Adjacency
from recsys.types import PairBatch


class NGCF(RankedPairModel):
    """All layers side by side, each a graph convolution with a bi-interaction.

    As in the paper, with ``L = D^-1/2 A D^-1/2``:

        E_{k+1} = LeakyReLU((L E_k + E_k) W1_k + (L E_k * E_k) W2_k)

    As in the official code, with ``S = D'^-1 (A + I)`` (``norm``) or ``D^-1 A + I`` (``ngcf``):

        E_{k+1} = LeakyReLU(S E_k W1_k + b1_k) + LeakyReLU((S E_k * E_k) W2_k + b2_k)

    then message dropout; a copy of length 1 goes into the vector, E_{k+1} itself to the next layer.
    The vector of a node is ``[E_0, E_1, ..., E_K]``. Loss: BPR, with L2 of the vectors of a batch.

    Args:
        config: Which variant, widths of the layers, dropout.
        graph: The training pairs.

    Source:
        Wang et al., "Neural Graph Collaborative Filtering", SIGIR 2019; the official
        code, whose equations differ. Differs: node dropout, which in the code drops entries of the
        matrix, drops both directions of an edge and never self-loops.

    Example:
        >>> import torch
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> graph = InteractionGraph(2, 2, torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> model = NGCF(NGCF.Config(embedding_dim=4, layers=(3, 2)), graph).eval()
        >>> model.vectors()[0].shape  # 4 + 3 + 2
        torch.Size([2, 9])
    """

    class Config(RankedPairModel.Config):
        """Options of NGCF."""

        variant: Literal["norm", "ngcf", "paper"] = "norm"
        """Whose equations: of the official code with this ``adj_type``, or of the paper."""
        layers: tuple[int, ...] = Field(default=(64, 64, 64), min_length=1)
        """Widths."""
        slope: float = Field(default=0.2, ge=0, le=1)
        """Of LeakyReLU below 0; the default is that of TensorFlow."""
        node_dropout: float = Field(default=0.0, ge=0, lt=1)
        """With which probability an edge is left out of a step, the others growing to match."""
        message_dropout: float = Field(default=0.1, ge=0, lt=1)
        """With which probability an entry of a layer is 0 in a step."""
        l2: float = Field(default=1e-5, ge=0)
        """Weight of the L2 of the vectors of a batch."""

    config: Config

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        paper = config.variant == "paper"
        self.adjacency = Adjacency.bipartite(
            graph, norm="sym" if paper else "row", self_loops=config.variant == "norm"
        )
        widths = (config.embedding_dim, *config.layers)
        pairs = list(zip(widths, config.layers))
        self.sums = nn.ModuleList(nn.Linear(*pair, bias=not paper) for pair in pairs)
        self.products = nn.ModuleList(nn.Linear(*pair, bias=not paper) for pair in pairs)

    def encode(self) -> Tensor:
        """See `EmbeddingModel`."""
        return side_by_side(self.layers())

    def layers(self) -> list[Tensor]:
        """The rows of all nodes, then what every layer makes of them."""
        config, found = self.config, [self.rows()]
        adj = self.adjacency = self.adjacency.to(found[0].device)
        if self.training and config.node_dropout:
            adj = adj.drop_edges(config.node_dropout, renormalize=False)
        for sums, products in zip(self.sums, self.products):
            layer = self._layer(adj @ found[-1], found[-1], sums, products)
            if self.training:
                layer = drop_messages(layer, config.message_dropout)
            found.append(layer)
        return found

    def _layer(self, around: Tensor, own: Tensor, sums: nn.Module, products: nn.Module) -> Tensor:
        """The next layer from what comes from neighbours and from the node itself."""
        slope = self.config.slope
        if self.config.variant == "paper":
            return functional.leaky_relu(sums(around + own) + products(around * own), slope)
        if self.config.variant == "ngcf":
            around = around + own
        first = functional.leaky_relu(sums(around), slope)
        return first + functional.leaky_relu(products(around * own), slope)

    def loss(self, batch: PairBatch) -> Tensor:
        """See `EmbeddingModel`."""
        vectors = self.gather_side_by_side(self.layers(), batch)
        return self.pair_loss(vectors, vectors, batch)
