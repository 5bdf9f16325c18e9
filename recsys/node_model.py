"""The base of classifiers of nodes: built from a graph whose nodes have classes.

Stability: caller
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from recsys.base import RecModel
from recsys.embeddings.collection import EmbeddingCollection
from recsys.errors import ConfigError
from recsys.graph.labelled_nodes import LabelledNodes
from recsys.graph.neighbors import NeighborSampler, SampledLayers
from recsys.graph.node_batches import NodeBatch
from recsys.graph.propagation import Adjacency
from recsys.schema import FIRST_INDEX, Categorical, Label, Schema


class NodeClassifier(RecModel, abc.ABC):
    """Tells the classes of nodes by their features and their neighbours.

    A subclass overrides `logits`. It is transductive: built from one graph, about its nodes.

    Args:
        config: An instance of the class's own ``Config``.
        nodes: The graph, with labels of those that are learned from.

    Raises:
        ConfigError: The graph has several types of nodes and the model takes one.

    Stability: caller
    """

    class Config(RecModel.Config):
        """Options that all classifiers of nodes share."""

    heterogeneous: ClassVar[bool] = False
    """Whether there may be several types of nodes."""
    samples: ClassVar[bool] = False
    """Whether `logits` takes drawn neighbourhoods."""

    def __init__(self, config: Config, nodes: LabelledNodes) -> None:
        super().__init__(config, node_schema(nodes))
        if not self.heterogeneous and not nodes.homogeneous:
            raise ConfigError(
                f"{type(self).__name__} is for graphs with one type of nodes, got "
                f"{list(nodes.counts)}. Use a model for several types, say LATTEClassifier."
            )
        self.nodes, self.num_classes = nodes, len(nodes.classes)
        self.embeddings = EmbeddingCollection({}, ())
        self._labels = torch.from_numpy(nodes.labels)

    @abc.abstractmethod
    def logits(self, sampled: SampledLayers | None = None) -> Tensor:
        """Scores of all classes, before softmax; dropout in training only.

        Args:
            sampled: Neighbourhoods of a batch; None for the whole graph.

        Returns:
            (N, C) of all nodes of the target type, or (B, C) of the batch.
        """

    def sampler(self, fanouts: Sequence[int]) -> NeighborSampler:
        """Draws neighbourhoods for batches.

        Args:
            fanouts: Neighbours a node at each step.

        Raises:
            ConfigError: The model needs the whole graph, or another number of steps.
        """
        del fanouts
        raise ConfigError(
            f"{type(self).__name__} trains on the whole graph in every step. Remove "
            "train.batch_size."
        )

    def forward(self, batch: NodeBatch) -> Tensor:
        """Scores of a batch, (B, C)."""
        if batch.sampled is not None:
            return self.logits(batch.sampled)
        return self.logits()[batch.nodes]

    def loss(self, batch: NodeBatch) -> Tensor:
        """Mean cross entropy of a batch.

        Args:
            batch: With its labels.
        """
        return functional.cross_entropy(self(batch), batch.labels)

    def probabilities(self) -> Tensor:
        """Of all classes for all nodes of the target type, (N, C) without gradient, on the CPU."""
        was_training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                return self.logits().softmax(1).cpu()
        finally:
            self.train(was_training)


class PropagatingClassifier(NodeClassifier):
    """A classifier that propagates over one symmetric graph with self-loops.

    ``A = D^-1/2 (adjacency + I) D^-1/2``, edges taken in both directions.

    Args:
        config: An instance of the class's own ``Config``.
        nodes: With features.

    Raises:
        ConfigError: There are several types of nodes, or no features.
    """

    class Config(NodeClassifier.Config):
        """Options that these classifiers share."""

    samples = True
    num_steps: int
    """How often the model propagates; a subclass sets it."""

    def __init__(self, config: Config, nodes: LabelledNodes) -> None:
        super().__init__(config, nodes)
        if nodes.target not in nodes.features:
            raise ConfigError(
                f"{type(self).__name__} needs features of the `{nodes.target}` nodes, and the data "
                "has none."
            )
        row, col = (torch.from_numpy(ends) for ends in nodes.undirected())
        count = nodes.counts[nodes.target]
        self.adjacency = Adjacency.from_edges(row, col, count, count, norm="sym", self_loops=True)

    def on_device(self, rows: Tensor) -> Adjacency:
        """The operator where some rows are.

        Args:
            rows: Any.
        """
        self.adjacency = self.adjacency.to(rows.device)
        return self.adjacency

    def sampler(self, fanouts: Sequence[int]) -> NeighborSampler:
        """See `NodeClassifier`."""
        if len(fanouts) != self.num_steps:
            raise ConfigError(
                f"train.fanouts: {type(self).__name__} propagates {self.num_steps} times, so "
                f"expected as many numbers of neighbours, got {list(fanouts)}."
            )
        return NeighborSampler(self.adjacency.to("cpu"), fanouts)


def node_schema(nodes: LabelledNodes) -> Schema:
    """A feature for every type of nodes, with the rows that its table would have.

    Args:
        nodes: The graph.
    """
    return Schema(
        features=tuple(
            Categorical(name=name, num_embeddings=count + FIRST_INDEX)
            for name, count in nodes.counts.items()
        ),
        labels=(Label(name="class"),),
    )


def half_squares(parameters: Iterable[Tensor]) -> Tensor:
    """Half of the sum of all squares: its gradient is what Adam's ``weight_decay`` adds.

    Args:
        parameters: One or more.
    """
    return 0.5 * torch.stack([parameter.square().sum() for parameter in parameters]).sum()
