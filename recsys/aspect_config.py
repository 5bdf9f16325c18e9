"""An experiment of a model of aspects as a YAML file.

    dataset: {class: recsys.datasets.planted_aspects.PlantedAspects}
    model: {class: recsys.models.aspect.aspect_embedding.AspectEmbedding, heads: linear}
    train: {learning_rate: 1.0e-2, num_epochs: 30, monitor: map@10}
    seeds: [1, 2, 3]

Loading imports the two classes, so a configuration file is trusted input, like a script.

Stability: caller
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from recsys.aspect_model import AspectModel
from recsys.config import AnyExperiment, AnyModelBlock
from recsys.errors import ConfigError
from recsys.fit_config import DenseEmbeddingConfig, FitConfig
from recsys.graph.aspects import AspectTable
from recsys.schema import Frozen
from recsys.set_config import AspectDatasetBlock


class AspectModelBlock(AnyModelBlock[AspectModel, AspectTable]):
    """Which model, with its options; built from the items to learn from."""


class AspectTrainConfig(FitConfig):
    """How a model of aspects is trained."""

    num_epochs: int = Field(default=30, ge=1)
    """Passes over the pairs at most: in each, every item meets another one for each of its
    labels."""
    batch_size: int = Field(default=256, ge=1)
    """Pairs a step, of one aspect."""
    learning_rate: float = Field(default=1e-2, gt=0, allow_inf_nan=False)
    """Highest step size of the schedule."""
    evaluations_per_epoch: int = Field(default=1, ge=1)
    """Evaluations on the validation split, evenly spread, the last at the end of the epoch."""
    monitor: str = Field(default="map@10", pattern=r"^(precision|recall|mrr|map|ndcg|hr)@\d+$")
    """Validation metric that picks the best checkpoint: a mean over aspects."""


class AspectEvaluationConfig(Frozen):
    """How the trained model is judged."""

    ks: tuple[int, ...] = Field(default=(10,), min_length=1)
    """Cut-offs of the lists."""
    candidates: Literal["split", "all"] = "split"
    """Who is looked through for an item: the other items of its split, or all other items."""
    bootstrap_samples: int = Field(default=200, ge=0)
    """For the intervals of the metrics, drawn over items; 0 leaves them out."""


class AspectExperiment(AnyExperiment):
    """Everything that defines a run of a model of aspects."""

    dataset: AspectDatasetBlock
    """What to train on."""
    item_vectors: dict[str, str] = Field(default_factory=dict)
    """Files with more vectors of the items by name, as `recsys.serving.vectors.Vectors` writes
    them: of sentences, of a collaborative filter. Items that a file does not have get zeros."""
    model: AspectModelBlock
    """What to train."""
    embedding: DenseEmbeddingConfig = DenseEmbeddingConfig(learning_rate=1e-2)
    """How tables of grams and ids are trained."""
    train: AspectTrainConfig = AspectTrainConfig()
    """How the rest is trained."""
    evaluation: AspectEvaluationConfig = AspectEvaluationConfig()
    """How it is judged."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if int(self.train.monitor.partition("@")[2]) not in self.evaluation.ks:
            raise ConfigError(
                f"train.monitor={self.train.monitor}: expected one of evaluation.ks="
                f"{list(self.evaluation.ks)} behind the @."
            )
        return self
