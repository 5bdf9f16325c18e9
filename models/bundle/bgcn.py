"""BGCN: convolution with weights over items and over bundles, then harder negatives.

Train it: ``recsys train --config configs/bundle/bgcn.yaml``.

Stability: caller
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recsys.cf_bundle import Amount, BundleModel, View
from recsys.errors import ConfigError
from recsys.graph.bundle_negatives import HardBundles, HardPairLoader
from recsys.graph.epoch_loader import EpochLoader, InTurn
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.negatives import SamplingConfig
from recsys.graph.propagation import Adjacency
from recsys.losses.ranking import Triple
from recsys.types import PairBatch


class BGCN(BundleModel):
    """Layers with weights that keep what they were made from; scores of two views add up.

        h_k = dropout [LeakyReLU(W_k A h_{k-1} + b_k), h_{k-1}]
        z = [h_0, h_1 / |h_1|, ..., h_K / |h_K|]

    Every node is its own neighbour. In the view of bundles, bundles are neighbours too where they
    share items, with the cosine of their contents as weight. In the view of items a bundle is the
    mean of its items, of length 1. Loss: BPR, with L2 of the vectors of a batch. From an epoch on
    most negatives are hard, see `recsys.graph.bundle_negatives`.

    Args:
        config: Layers, dropout, negatives.
        graph: The training pairs, with the contents of the bundles.

    Source:
        Chang et al., "Bundle Recommendation with Graph Convolutional Networks", SIGIR 2020, and the
        official code with its options. Differs: the second stage is a later part of the same
        training, not another one from the best model of the first; L2 counts a user of a pair
        once; dropout of edges is that of ``augment: edges`` (it is 0 in the paper).

    Example:
        >>> from recsys.graph.bundle_assembly import assemble
        >>> data = assemble({"train": ([0, 1], [0, 1])}, ([0, 1], [0, 1]), ([0, 1], [1, 0]))
        >>> graph = InteractionGraph.of(data.user_bundle.train, contents=data.contents)
        >>> BGCN(BGCN.Config(embedding_dim=4), graph).eval().vectors()[1].shape  # 2 x (4 + 8 + 12)
        torch.Size([2, 48])
    """

    class Config(BundleModel.Config):
        """Options of BGCN."""

        views: tuple[View, ...] = Field(default=("ui", "ub"), min_length=1)
        """What is propagated over."""
        num_layers: int = Field(default=2, ge=1)
        """K, steps of propagation of every view."""
        augment: Literal["edges", "messages", "noise", "none"] = "messages"
        """What training changes, see `BundleModel`."""
        rates: dict[View, Amount] = Field(default={"ub": 0.3, "ui": 0.3})
        """How much of it, by pairs."""
        slope: float = Field(default=0.01, ge=0, le=1)
        """Of LeakyReLU below 0."""
        l2: float = Field(default=1e-7, ge=0)
        """Weight of the L2 of the vectors of a batch."""
        hard_from: int | None = Field(default=None, ge=0)
        """The epoch, from 0, from which on negatives are hard; None for never."""
        hard: HardBundles = HardBundles()
        """Which ones they are."""

    config: Config

    def __init__(self, config: Config, graph: InteractionGraph) -> None:
        super().__init__(config, graph)
        width = config.embedding_dim
        self.layers = nn.ModuleDict(
            {
                view: nn.ModuleList(
                    nn.Linear(width * (layer + 1), width) for layer in range(config.num_layers)
                )
                for view in config.views
            }
        )

    def square(self, view: View) -> Adjacency:
        """See `BundleModel`."""
        graphs = self.graphs
        if view != "ub":
            first = "user" if view == "ui" else "bundle"
            return graphs.square(first, "item", self_loops=True)
        users, nodes = graphs.num_users, graphs.num_users + graphs.num_bundles
        user, bundle = graphs.user_bundle[0], graphs.user_bundle[1] + users
        (one, other), near = graphs.overlaps()
        loops = torch.arange(users)
        return Adjacency.from_edges(
            torch.cat([loops, user, bundle, one + users]),
            torch.cat([loops, bundle, user, other + users]), nodes, nodes,
            torch.cat([torch.ones(users + 2 * len(user)), near]), "sym",
        )  # fmt: skip

    def propagated(self, view: View, adjacency: Adjacency, rows: Tensor) -> Tensor:
        """See `BundleModel`; products with weights come first, as they are narrower."""
        layer, parts = rows, [rows]
        for linear in self.layers[view]:  # type: ignore[union-attr]
            around = adjacency @ functional.linear(layer, linear.weight) + linear.bias
            made = functional.leaky_relu(around, self.config.slope)
            layer = self.augmented(torch.cat([made, layer], dim=1), view)
            parts.append(functional.normalize(layer, dim=1))
        return torch.cat(parts, dim=1)

    def averaged(self, pairs: View, adjacency: Adjacency, vectors: Tensor) -> Tensor:
        """See `BundleModel`; of length 1."""
        del pairs
        return functional.normalize(adjacency @ vectors, dim=1)

    def regularized(self, vectors: Triple, batch: PairBatch) -> Triple:
        """See `BundleModel`: the vectors."""
        del batch
        return vectors

    def loader(
        self,
        sampling: SamplingConfig | None = None,
        batch_size: int = 2048,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> EpochLoader[Any] | InTurn:
        """See `EmbeddingModel`.

        Raises:
            ConfigError: Negatives are to be hard, and there are none or they are shared.
        """
        if self.config.hard_from is None:
            return super().loader(sampling, batch_size, seed, rank, world_size)
        sampling = sampling or SamplingConfig()
        if not self.ranking_loss.needs_negatives:
            raise ConfigError(
                f"hard_from: ranking_loss {self.ranking_loss.kind} has no use for negatives. Set "
                "hard_from to null."
            )
        return HardPairLoader(
            self.graph, sampling, batch_size, seed, rank, world_size, self.pair_scores,
            hard=self.config.hard, first_epoch=self.config.hard_from,
        )  # fmt: skip
