"""An experiment of a classifier of nodes as a YAML file.

    dataset: {class: recsys.datasets.planted_nodes.PlantedNodes}
    model: {class: recsys.models.node.gcn.GCN, hidden_units: 16}
    train: {learning_rate: 1.0e-2, num_epochs: 200, monitor: logloss}
    seeds: [1, 2, 3]

Loading imports the two classes, so a configuration file is trusted input, like a script.

Stability: caller
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from recsys.config import AnyDatasetBlock, AnyExperiment, AnyModelBlock
from recsys.errors import ConfigError
from recsys.fit_config import DenseEmbeddingConfig, FitConfig
from recsys.graph.labelled_nodes import LabelledNodes
from recsys.graph.node_dataset import NodeDataset
from recsys.node_model import NodeClassifier
from recsys.schema import Frozen


class NodeDatasetBlock(AnyDatasetBlock[NodeDataset]):
    """Which data set, with its options."""


class NodeModelBlock(AnyModelBlock[NodeClassifier, LabelledNodes]):
    """Which model, with its options; built from the graph to learn from."""


class NodeTrainConfig(FitConfig):
    """How a classifier of nodes is trained."""

    num_epochs: int = Field(default=200, ge=1)
    """Passes over the training nodes at most; without ``batch_size`` each is one step."""
    learning_rate: float = Field(default=1e-2, gt=0, allow_inf_nan=False)
    """Highest step size of the schedule."""
    evaluations_per_epoch: int = Field(default=1, ge=1)
    """Evaluations on the validation split, evenly spread, the last at the end of the epoch."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Evaluations between two checkpoints; a new best and the end are always saved."""
    monitor: Literal["accuracy", "macro_f1", "micro_f1", "logloss"] = "accuracy"
    """Validation metric that picks the best checkpoint."""
    batch_size: int | None = Field(default=None, ge=1)
    """Nodes a step, with drawn neighbours; None takes all nodes and the whole graph."""
    fanouts: tuple[int, ...] | None = None
    """With ``batch_size``: how many neighbours of a node are drawn at every step of propagation."""


class NodeEvaluationConfig(Frozen):
    """How the trained model is judged."""

    bootstrap_samples: int = Field(default=200, ge=0)
    """For the intervals of the metrics, drawn over nodes; 0 leaves them out."""


class NodeExperiment(AnyExperiment):
    """Everything that defines a run of a classifier of nodes."""

    dataset: NodeDatasetBlock
    """What to train on."""
    model: NodeModelBlock
    """What to train."""
    embedding: DenseEmbeddingConfig = DenseEmbeddingConfig()
    """How vectors of nodes without features are trained."""
    train: NodeTrainConfig = NodeTrainConfig()
    """How the rest is trained."""
    evaluation: NodeEvaluationConfig = NodeEvaluationConfig()
    """How it is judged."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        train, name = self.train, self.model.class_path.rpartition(".")[2]
        if (train.batch_size is None) != (train.fanouts is None):
            raise ConfigError(
                f"train: expected batch_size and fanouts together, or neither of them, got "
                f"batch_size={train.batch_size} and fanouts={train.fanouts}."
            )
        if train.batch_size is not None and not self.model.model_class.samples:
            raise ConfigError(
                f"train.batch_size: {name} trains on the whole graph in every step. Remove it."
            )
        return self
