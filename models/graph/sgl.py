"""SGL: vectors of a node from two thinned-out graphs should agree.

Train it: ``recsys train --config configs/graph/sgl.yaml``.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from recsys.cf_contrast import ContrastiveModel
from recsys.graph.epoch_loader import generator_of
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.propagation import Adjacency
from recsys.types import PairBatch

View = Sequence[Adjacency]
"""The operator of every layer."""


class SGL(ContrastiveModel):
    """LightGCN, and two views of its graph whose vectors of a node should agree.

    A view drops edges (``edge``), nodes with their edges (``node``), or edges anew in every layer
    (``walk``), and is normalized anew. Views are drawn at the start of every epoch, from the seed
    and the number of the epoch alone, so that a resumed training has the same. Loss: BPR of the
    whole graph's vectors, L2 of the rows, and InfoNCE between the views over the users and over
    the items, each against all of its kind.

    Args:
        config: Views, layers, weights.
        graph: The training pairs.

    Source:
        Wu et al., "Self-supervised Graph Learning for Recommendation", SIGIR 2021, and
        SGL-Torch. Differs: losses are means over the pairs of a batch where SGL-Torch
        has sums; a view drops each edge with the probability, not a fixed number of them.

    Example:
        >>> import torch
        >>> from recsys.graph.interaction_graph import InteractionGraph
        >>> graph = InteractionGraph(2, 2, torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> model = SGL(SGL.Config(), graph)
        >>> model.begin_epoch(3, seed=1)
        >>> [len(view) for view in model.views()]  # one operator for each of 3 layers
        [3, 3]
    """

    class Config(ContrastiveModel.Config):
        """Options of SGL."""

        view: Literal["edge", "node", "walk"] = "edge"
        """What views drop."""
        dropout: float = Field(default=0.1, ge=0, lt=1)
        """With which probability."""
        contrast_weight: float = Field(default=0.1, ge=0)
        """Of the contrastive loss."""
        contrast_among: Literal["batch", "all"] = "all"
        """What a node's second view is chosen from: the nodes of the batch, or all of its kind."""

    config: Config

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        self._epoch = 0, 0
        self._views: tuple[View, View] | None = None

    def begin_epoch(self, epoch: int, seed: int = 0) -> None:
        """See `EmbeddingModel`: the next views are those of this epoch."""
        self._epoch, self._views = (epoch, seed), None

    def views(self) -> tuple[View, View]:
        """The two views of the epoch, drawn when they are first asked for."""
        if self._views is None:
            epoch, seed = self._epoch
            generator = generator_of(seed, epoch)
            self._views = self._view(generator), self._view(generator)
        return self._views

    def _view(self, generator: torch.Generator) -> View:
        p, layers, whole = self.config.dropout, self.config.num_layers, self.adjacency
        if self.config.view == "walk":
            return whole.random_walk(p, layers, generator)
        drop = whole.drop_edges if self.config.view == "edge" else whole.drop_nodes
        return (drop(p, generator),) * layers

    def of_view(self, rows: Tensor, view: View) -> Tensor:
        """Vectors from a view, (U + I, D).

        Args:
            rows: Of layer 0, users first.
            view: From `views`.
        """
        if self.config.view != "walk" and view:
            return view[0].propagate(rows, len(view))
        total = layer = rows
        for adjacency in view:
            layer = adjacency @ layer
            total = total + layer
        return total / (len(view) + 1)

    def loss(self, batch: PairBatch) -> Tensor:
        """See `EmbeddingModel`."""
        rows = self.rows()
        vectors = self.gather(self.propagated(rows), batch)
        loss = self.pair_loss(vectors, self.gather(rows, batch), batch)
        first, second = (self.of_view(rows, view) for view in self.views())
        return loss + self.contrastive_loss(first, second, batch, rows, counted=True)
