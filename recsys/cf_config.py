"""An experiment of a collaborative filter as a YAML file: what to train, on what, how.

    dataset: {class: recsys.datasets.planted_communities.PlantedCommunities}
    model: {class: recsys.models.graph.light_gcn.LightGCN, num_layers: 2}
    embedding: {kind: adam, mode: dense, learning_rate: 1.0e-3}
    train: {batch_size: 2048, num_epochs: 20, monitor: recall@20}
    seeds: [1, 2, 3]

Loading imports the two classes, so a configuration file is trusted input, like a script.

Stability: caller
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from recsys.aspect_config import AspectExperiment
from recsys.aspect_model import AspectModel
from recsys.base import RecModel
from recsys.cf import CFModel
from recsys.cf_fitted import FittedModel
from recsys.config import (
    AnyDatasetBlock,
    AnyExperiment,
    AnyModelBlock,
    Experiment,
    resolve_class,
    validate,
)
from recsys.config_text import override, read_mapping
from recsys.errors import ConfigError, did_you_mean
from recsys.fit_config import DenseEmbeddingConfig, FitConfig
from recsys.graph.dataset import InteractionDataset
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.negatives import SamplingConfig
from recsys.metrics.ranking import RANKING_METRICS
from recsys.node_config import NodeExperiment
from recsys.node_model import NodeClassifier
from recsys.schema import Frozen


class InteractionDatasetBlock(AnyDatasetBlock[InteractionDataset]):
    """Which data set, with its options."""


class CFModelBlock(AnyModelBlock[CFModel, InteractionGraph]):
    """Which model, with its options; built from the graph to learn from."""


class CFTrainConfig(FitConfig):
    """How a model with vectors is trained; fitted models need only ``num_threads``."""

    batch_size: int = Field(default=2048, ge=1)
    """Pairs a step, on each rank."""
    evaluations_per_epoch: int = Field(default=1, ge=1)
    """Evaluations on the validation split, evenly spread, the last at the end of the epoch."""
    monitor: str = Field(default="ndcg@20", pattern=r"^\w+@\d+$")
    """Validation metric that picks the best checkpoint, of those of `recsys.metrics.ranking`."""
    valid_users: int | None = Field(default=None, ge=1)
    """Judge in training on so many users of the validation split, chosen once; None takes all."""


class RankingConfig(Frozen):
    """How the trained model is judged."""

    ks: tuple[int, ...] = (10, 20)
    """Cut-offs of the lists."""
    bootstrap_samples: int = Field(default=200, ge=0)
    """For the intervals of the metrics, drawn over users; 0 leaves them out."""
    slice_groups: int = Field(default=4, ge=0)
    """Groups of users by activity and of items by popularity; 0 leaves slices out."""
    cold_below: int = Field(default=5, ge=0)
    """Users and items with fewer training interactions are cold."""
    hide: Literal["known", "train"] = "known"
    """What lists on the test split leave out: pairs of training and validation, or those of
    training alone, as published figures of bundle recommenders do: then pairs of validation stay
    candidates."""


class CFEmbeddingConfig(DenseEmbeddingConfig):
    """How the tables of users and items are trained: by default all rows in every step."""


class CFExperiment(AnyExperiment):
    """Everything that defines a run of a collaborative filter."""

    dataset: InteractionDatasetBlock
    """What to train on."""
    model: CFModelBlock
    """What to train."""
    weighted: bool = False
    """Whether edges of the graph have the weights of the interactions."""
    sampling: SamplingConfig = SamplingConfig()
    """Training pairs and their negatives."""
    embedding: CFEmbeddingConfig = CFEmbeddingConfig()
    """How the tables are trained."""
    train: CFTrainConfig = CFTrainConfig()
    """How the rest is trained."""
    evaluation: RankingConfig = RankingConfig()
    """How it is judged."""

    @property
    def fitted(self) -> bool:
        """Whether the model has no training by gradient descent."""
        return issubclass(self.model.model_class, FittedModel)

    @model_validator(mode="after")
    def _check(self) -> Self:
        name, _, k = self.train.monitor.partition("@")
        if name not in RANKING_METRICS:
            raise ConfigError(
                f"train.monitor: there is no ranking metric `{name}`. "
                f"{did_you_mean(name, RANKING_METRICS)}"
            )
        if int(k) not in self.evaluation.ks:
            raise ConfigError(
                f"train.monitor={self.train.monitor}: expected one of evaluation.ks="
                f"{list(self.evaluation.ks)} behind the @."
            )
        return self


AnyKind = Experiment | CFExperiment | NodeExperiment | AspectExperiment
"""Whatever `recsys train` trains."""


def load_any(path: Path | str, overrides: Sequence[str] = ()) -> AnyKind:
    """Reads an experiment of any kind; the class of its model says which.

    Args:
        path: A YAML file, or the resolved JSON of a run.
        overrides: Dotted places to set, ``train.batch_size=1024``; values are YAML.

    Raises:
        ConfigError: Something is wrong; all problems of the file are named with their places.
    """
    data = read_mapping(Path(path))
    return validate(kind_of(override(data, overrides)), data, overrides, str(path))


def kind_of(data: Mapping[str, Any]) -> type[AnyKind]:
    """The kind of an experiment given as plain values; one that is wrong is taken for clicks.

    Args:
        data: As in the file.
    """
    block = data.get("model")
    path = block.get("class") if isinstance(block, Mapping) else None
    if not isinstance(path, str):
        return Experiment
    try:
        found = resolve_class(path, RecModel)
    except ConfigError:
        folders = {
            "recsys.models.graph.": CFExperiment,
            "recsys.models.bundle.": CFExperiment,
            "recsys.models.node.": NodeExperiment,
            "recsys.models.aspect.": AspectExperiment,
        }
        return next((k for start, k in folders.items() if path.startswith(start)), Experiment)
    if issubclass(found, NodeClassifier):
        return NodeExperiment
    if issubclass(found, AspectModel):
        return AspectExperiment
    return CFExperiment if issubclass(found, CFModel) else Experiment
