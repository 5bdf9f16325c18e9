"""DAGNN as in its paper: an MLP, many steps of propagation, a gate that chooses among them.

Train it: ``recsys train --config configs/node/dagnn_classifier.yaml``.

Stability: caller
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recsys.graph.feature_projection import FeatureProjection
from recsys.graph.labelled_nodes import LabelledNodes
from recsys.graph.neighbors import SampledLayers
from recsys.graph.node_batches import sampled_powers
from recsys.layers.depth_gate import DepthGate
from recsys.node_model import PropagatingClassifier, half_squares


class DAGNNClassifier(PropagatingClassifier):
    """Transformation first, then propagation; every node chooses how far it looks.

        Z = MLP(X),  H_k = A^k Z,  logits_n = sum_k sigmoid(w . h_kn + b) h_kn,  k = 0 .. K

    with ``A = D^-1/2 (adjacency + I) D^-1/2`` and a ReLU layer in the MLP; dropout of X and of the
    hidden layer in training.

    Args:
        config: Steps, width, dropout, regularization.
        nodes: With features; one type of nodes.

    Source:
        Liu et al., "Towards Deeper Graph Neural Networks", KDD 2020, eqs. 7 and 8, and
        github.com/divelab/DeeperGNN: L2 of all weights. Differs: Xavier-normal start values of the
        MLP, biases at zero (theirs are torch's).

    Example:
        >>> import numpy as np
        >>> nodes = LabelledNodes("paper", {"paper": 2}, np.array([0, 1]), ("AI", "DB"),
        ...     {"train": np.array([0])}, {("paper", "cites", "paper"): np.array([[0], [1]])},
        ...     {"paper": np.eye(2, dtype=np.float32)})
        >>> DAGNNClassifier(DAGNNClassifier.Config(num_steps=3), nodes).shares().shape
        torch.Size([2, 4])
    """

    class Config(PropagatingClassifier.Config):
        """Options of DAGNN."""

        num_steps: int = Field(default=10, ge=1)
        """K, steps of propagation."""
        hidden_units: int = Field(default=64, ge=1)
        """Width of the hidden layer."""
        dropout: float = Field(default=0.8, ge=0, lt=1)
        """Share of features and of hidden units set to zero in training."""
        l2: float = Field(default=5e-3, ge=0)
        """Weight of half of the squares of all weights."""
        gate_start: Literal["mean", "uniform"] = "uniform"
        """Start of the gate: as in the paper's code, or as the mean of all steps."""

    def __init__(self, config: Config, nodes: LabelledNodes) -> None:
        super().__init__(config, nodes)
        features = nodes.features[nodes.target]
        self.hidden = FeatureProjection(features, config.hidden_units, config.dropout)
        self.output = nn.Linear(config.hidden_units, self.num_classes)
        self.gate = DepthGate(self.num_classes, config.num_steps + 1, config.gate_start)
        self.num_steps, self.dropout, self.l2 = config.num_steps, config.dropout, config.l2

    def powers(self, sampled: SampledLayers | None = None) -> list[Tensor]:
        """``H_0 .. H_K``, (N, C) each, or (B, C) of a batch.

        Args:
            sampled: Of the batch.
        """
        h = functional.relu(self.hidden(None if sampled is None else sampled.nodes))
        z = self.output(functional.dropout(h, self.dropout, self.training))
        if sampled is not None:
            return sampled_powers(sampled, z)
        adjacency, found = self.on_device(z), [z]
        for _ in range(self.num_steps):
            found.append(adjacency @ found[-1])
        return found

    def logits(self, sampled: SampledLayers | None = None) -> Tensor:
        """See `NodeClassifier`."""
        return torch.stack([self.gate(power) for power in self.powers(sampled)]).sum(0)

    def shares(self) -> Tensor:
        """How much of every step the nodes take, (N, K + 1) without gradient."""
        with torch.inference_mode():
            return torch.stack([self.gate.shares(power) for power in self.powers()], 1)

    def auxiliary_loss(self) -> Tensor:
        """L2 of all weights."""
        return super().auxiliary_loss() + self.l2 * half_squares(self.parameters())
