"""GCN: two layers of propagation, the baseline of all classifiers of nodes.

Train it: ``recsys train --config configs/node/gcn.yaml``.

Stability: caller
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recsys.graph.feature_projection import FeatureProjection
from recsys.graph.labelled_nodes import LabelledNodes
from recsys.graph.neighbors import SampledLayers
from recsys.node_model import PropagatingClassifier, half_squares


class GCN(PropagatingClassifier):
    """A graph convolutional network of two layers.

        logits = A relu(A X W_0 + b_0) W_1 + b_1,  A = D^-1/2 (adjacency + I) D^-1/2

    with dropout of X and of the hidden layer in training.

    Args:
        config: Width, dropout, regularization.
        nodes: With features; one type of nodes.

    Source:
        Kipf and Welling, "Semi-Supervised Classification with Graph Convolutional Networks", ICLR
        2017, and github.com/tkipf/gcn: L2 of the first layer only. Differs: Xavier-normal start
        values (theirs are uniform), biases in both layers (their code has none).

    Example:
        >>> import numpy as np
        >>> nodes = LabelledNodes("paper", {"paper": 2}, np.array([0, 1]), ("AI", "DB"),
        ...     {"train": np.array([0])}, {("paper", "cites", "paper"): np.array([[0], [1]])},
        ...     {"paper": np.eye(2, dtype=np.float32)})
        >>> GCN(GCN.Config(), nodes).logits().shape
        torch.Size([2, 2])
    """

    class Config(PropagatingClassifier.Config):
        """Options of GCN."""

        hidden_units: int = Field(default=16, ge=1)
        """Width of the hidden layer."""
        dropout: float = Field(default=0.5, ge=0, lt=1)
        """Share of features and of hidden units set to zero in training."""
        l2: float = Field(default=5e-4, ge=0)
        """Weight of half of the squares of the first layer, bias included."""

    num_steps = 2

    def __init__(self, config: Config, nodes: LabelledNodes) -> None:
        super().__init__(config, nodes)
        features = nodes.features[nodes.target]
        self.hidden = FeatureProjection(features, config.hidden_units, config.dropout, bias=False)
        self.hidden_bias = nn.Parameter(self.hidden.linear.weight.new_zeros(config.hidden_units))
        self.output = nn.Linear(config.hidden_units, self.num_classes)
        self.dropout, self.l2 = config.dropout, config.l2

    def logits(self, sampled: SampledLayers | None = None) -> Tensor:
        """See `NodeClassifier`."""
        x = self.hidden(None if sampled is None else sampled.nodes)
        first = second = self.on_device(x)
        if sampled is not None:
            second, first = sampled.layers
        h = functional.relu(first @ x + self.hidden_bias)
        h = functional.dropout(h, self.dropout, self.training) @ self.output.weight.T
        found = second @ h + self.output.bias
        return found if sampled is None else found[sampled.position]

    def initialize(self, generator: object = None) -> None:
        """The bias of the hidden layer starts at zero."""
        del generator
        nn.init.zeros_(self.hidden_bias)

    def auxiliary_loss(self) -> Tensor:
        """L2 of the first layer."""
        first = (self.hidden.linear.weight, self.hidden_bias)
        return super().auxiliary_loss() + self.l2 * half_squares(first)
