"""TwoTower.

Train it: ``python examples/train_ctr.py --config configs/ctr/two_tower.yaml``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from recsys.base import CTRInputs, CTRModel
from recsys.errors import ConfigError, did_you_mean
from recsys.layers.mlp import MLP, MLPConfig
from recsys.layers.streaming_share import StreamingShare
from recsys.losses.clicked_softmax import clicked_softmax
from recsys.losses.distillation import logit_distillation
from recsys.schema import Categorical, Numeric, Schema
from recsys.types import Batch

_SHORT = 1e-4  # shorter vectors are not brought to length 1: their gradient would explode


class TwoTower(CTRModel):
    """A vector of the user and a vector of the item, whose inner product is the score.

    ``u = MLP_user([features of user and context])``, ``v = MLP_item([features of the item])``, both
    brought to length 1 with ``normalize``; ``s = <u, v> / temperature``; ``logit = exp(a) s + b``
    with a and b learned. The loss of a batch is

    ``bce_weight * cross entropy(logit) + softmax_weight * clicked_softmax(s)
    + teacher_weight * (logit - teacher)^2``

    Items are ranked by ``<u, v>`` whatever a and b are, so vectors of items go into an index and
    the best of millions are found without scoring them all (`recsys.serving.towers`). What ranks
    few candidates may be any other model: it sees user and item together, this one does not.

    The softmax tells each click from the other clicked items of the batch, which come as often as
    they are clicked. ``log_q`` takes that out again; without it popular items score too low. Shares
    of clicks are estimated in the stream, since the vocabulary counts rows and not clicks.

    Args:
        config: Which features are the item's, towers, losses.
        schema: A fitted schema with one label.

    Shape:
        - input: Batch of B rows
        - output: (B, 1) logits

    Raises:
        ConfigError: A name is not that of a feature, or of another kind than needed; a tower has no
            feature; there are several labels; no loss has a weight, or one that has lacks what it
            needs.
        SchemaError: See `recsys.base.CTRModel`.

    Source:
        Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations",
        RecSys 2019, Section 3. Differs: duplicates in a batch are hidden and the own item is not
        corrected (`recsys.losses.clicked_softmax`), the share of an item is estimated as
        `recsys.layers.streaming_share.StreamingShare` says, and cross entropy is added so that
        logits are calibrated. Teacher: Barkan et al., "Scalable Attentive Sentence Pair
        Modeling via Distilled Sentence Embedding", AAAI 2020, with a CTR ranker in place of BERT.

    Example:
        >>> from recsys.testing.data import random_batch, tiny_schema
        >>> schema = tiny_schema()
        >>> config = TwoTower.Config(item_features=("items", "price"), item_id="items")
        >>> model = TwoTower(config, schema)
        >>> batch = random_batch(schema, batch_size=3)
        >>> model(batch).shape, model.item_vectors(batch).shape
        (torch.Size([3, 1]), torch.Size([3, 64]))

    Stability: experimental
    """

    class Config(CTRModel.Config):
        """Options of `TwoTower`."""

        item_features: tuple[str, ...]
        """Names of the item's features; all others are of the user or the context."""
        item_id: str | None = None
        """Which of them is the item's id. Needed for the softmax and to name vectors."""
        user_mlp: MLPConfig = MLPConfig(hidden_units=(256,))
        """Of the user tower; a last layer of width ``output_dim`` is added."""
        item_mlp: MLPConfig = MLPConfig(hidden_units=(256,))
        """Of the item tower; likewise."""
        output_dim: int = Field(default=64, ge=1)
        """Width of the vectors."""
        normalize: bool = True
        """Whether vectors have length 1. Without it set ``temperature`` to 1."""
        temperature: float = Field(default=0.2, gt=0)
        """Inner products are divided by it."""
        bce_weight: float = Field(default=1.0, ge=0)
        """Of the cross entropy of all rows. With 0 probabilities mean nothing, order does."""
        softmax_weight: float = Field(default=1.0, ge=0)
        """Of the contrast among the clicked items of a batch."""
        log_q: bool = True
        """Whether the softmax corrects for how often items are clicked."""
        share_rate: float = Field(default=0.01, ge=0, lt=1)
        """How fast shares of clicks forget: 0.01 looks back over some 100 batches with the item."""
        share_buckets: int | None = Field(default=None, ge=1)
        """Estimates shares in so many buckets, twice; None takes 16 bytes for every item."""
        teacher: str | None = None
        """Numeric feature that holds the logit of a ranker for the row; no tower reads it."""
        teacher_weight: float = Field(default=0.0, ge=0)
        """Of the squared difference to it."""
        init_std: float = Field(default=0.05, ge=0)
        """Of tables and numbers. Near 0 both towers would wait for each other to move."""

    def __init__(self, config: Config, schema: Schema) -> None:
        _check(config, schema)
        super().__init__(config, schema)
        names = [feature.name for feature in schema.features if feature.name != config.teacher]
        self.item_features = tuple(name for name in names if name in config.item_features)
        self.user_features = tuple(name for name in names if name not in config.item_features)
        self.item_id = config.item_id
        self._user = _Places(schema, self.user_features)
        self._item = _Places(schema, self.item_features)
        sizes = self.embedding_dim, self.embeds_numeric
        self.user_tower = MLP(self._user.width(*sizes), config.user_mlp, config.output_dim)
        self.item_tower = MLP(self._item.width(*sizes), config.item_mlp, config.output_dim)
        self.shares = None
        if config.softmax_weight and config.log_q and config.item_id is not None:
            rows = schema.num_embeddings()[_id_feature(schema, config.item_id).table_name]
            self.shares = StreamingShare(rows, config.share_rate, config.share_buckets)
        self.log_scale, self.bias = nn.Parameter(torch.empty(1)), nn.Parameter(torch.empty(1))
        self.initialize()
        self._kept: tuple[Batch, Tensor, Tensor] | None = None

    config: Config

    def __getstate__(self) -> dict[str, Any]:
        """Without the vectors of a batch whose loss was not asked for."""
        return {**self.__dict__, "_kept": None}

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Scale 1, bias 0."""
        for parameter in (self.log_scale, self.bias):
            if not parameter.is_meta:
                nn.init.zeros_(parameter)

    # ------------------------------------------------------------------------------- vectors

    def user_vectors(self, batch: Batch) -> Tensor:
        """Vectors of users; the item's features are not read.

        Args:
            batch: B rows.

        Shape:
            - output: (B, D)
        """
        return self._user_vectors(self.inputs(batch))

    def item_vectors(self, batch: Batch) -> Tensor:
        """Vectors of items; the features of user and context are not read.

        Args:
            batch: B rows.

        Shape:
            - output: (B, D)
        """
        return self._item_vectors(self.inputs(batch))

    def _user_vectors(self, inputs: CTRInputs) -> Tensor:
        return self._lengths(self.user_tower(self._user.of(inputs).deep()))

    def _item_vectors(self, inputs: CTRInputs) -> Tensor:
        return self._lengths(self.item_tower(self._item.of(inputs).deep()))

    def _lengths(self, vectors: Tensor) -> Tensor:
        vectors = vectors.float()
        return (
            functional.normalize(vectors, dim=1, eps=_SHORT) if self.config.normalize else vectors
        )

    # ------------------------------------------------------------------------------- training

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, 1)."""
        inputs = self.inputs(batch)
        users_BD, items_BD = self._user_vectors(inputs), self._item_vectors(inputs)
        if self.training:  # for the loss, which is given logits only
            self._kept = (batch, users_BD, items_BD)
        scores = (users_BD * items_BD).sum(1, keepdim=True) / self.config.temperature
        return self.log_scale.exp() * scores + self.bias

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss of every row; what belongs to the batch as a whole is added to each alike.

        In training mode it also learns the items' shares of clicks.

        Args:
            logits: Of this batch, (B, 1).
            batch: With labels (B, 1).

        Returns:
            (B,) float32.
        """
        config = self.config
        rows = config.bce_weight * super().loss(logits, batch)
        if config.softmax_weight:
            rows = rows + config.softmax_weight * self._softmax(batch)
        if config.teacher_weight and (batch.weights is None or bool(batch.weights.any())):
            numbers = [feature.name for feature in self.schema.numeric]
            teacher = batch.dense[:, numbers.index(config.teacher or "")]
            apart = logit_distillation(logits[:, 0].float(), teacher, batch.weights)
            rows = rows + config.teacher_weight * apart
        return rows

    def _softmax(self, batch: Batch) -> Tensor:
        kept, self._kept = self._kept, None
        if kept is not None and kept[0] is batch:
            users, items = kept[1:]
        else:
            inputs = self.inputs(batch)
            users, items = self._user_vectors(inputs), self._item_vectors(inputs)
        ids, labels = batch.key_values(self.item_id or ""), batch.labels[:, 0]
        log_q = None
        if self.shares is not None:
            if self.training:
                clicked, weights = labels > 0.5, batch.weights
                self.shares.update(ids[clicked], None if weights is None else weights[clicked])
            log_q = self.shares(ids)
        return clicked_softmax(
            users, items, labels, ids, weights=batch.weights, log_q=log_q,
            temperature=self.config.temperature,
        )  # fmt: skip


class _Places:
    """Where the features of one tower are among the inputs of all, as runs ``(start, length)``.

    Args:
        schema: All features.
        names: Those of the tower.
    """

    def __init__(self, schema: Schema, names: Sequence[str]) -> None:
        self.keyed = _runs([feature.name in names for feature in schema.keyed])
        self.numbers = _runs([feature.name in names for feature in schema.numeric])
        self._vectors = [feature.name in names for feature in schema.vectors]
        self._numbers = [feature.name in names for feature in schema.numeric]

    def width(self, dim: int, embeds_numeric: bool) -> int:
        """Width of the tower's input."""
        fields = sum(length for _, length in self.keyed) + sum(self._vectors)
        return fields * dim + sum(self._numbers) * (dim if embeds_numeric else 1)

    def of(self, inputs: CTRInputs) -> CTRInputs:
        """The tower's part of the inputs."""
        numbers = vectors = more = dense = None
        if inputs.numbers is not None and inputs.number_vectors is not None and self.numbers:
            numbers = _taken(inputs.numbers, self.numbers, 1)
            vectors = _taken(inputs.number_vectors, self.numbers, 0)
        if inputs.more is not None:
            # Embedded numbers with a bias stand there too, before the pretrained vectors.
            biased = inputs.numbers is None and inputs.dense is None
            runs = _runs((self._numbers if biased else []) + self._vectors)
            more = _taken(inputs.more, runs, 1) if runs else None
        if inputs.dense is not None and self.numbers:
            dense = _taken(inputs.dense, self.numbers, 1)
        keyed = _taken(inputs.keyed, self.keyed, 1)
        return CTRInputs(keyed, numbers, vectors, more, inputs.linear, dense)


def _runs(wanted: Sequence[bool]) -> list[tuple[int, int]]:
    """Neighbouring places as one: they are sliced, not gathered."""
    runs: list[tuple[int, int]] = []
    for place in (place for place, mine in enumerate(wanted) if mine):
        if runs and sum(runs[-1]) == place:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((place, 1))
    return runs


def _taken(values: Tensor, runs: Sequence[tuple[int, int]], dim: int) -> Tensor:
    # A copy even of one part: whether a view can be flattened depends on B, which exports may not.
    return torch.cat([values.narrow(dim, *run) for run in runs or [(0, 0)]], dim)


# ---------------------------------------------------------------------------------------- checks


def _check(config: TwoTower.Config, schema: Schema) -> None:
    names = [feature.name for feature in schema.features]
    if schema.num_tasks != 1:
        labels = ", ".join(f"`{label.name}`" for label in schema.labels)
        raise ConfigError(
            f"model.class: TwoTower has one score and takes one label, got {schema.num_tasks}: "
            f"{labels}. Leave one in the schema, or train one model a label."
        )
    for place, given in (("item_features", config.item_features), ("teacher", (config.teacher,))):
        for name in given:
            if name is not None and name not in names:
                hint = did_you_mean(name, names)
                raise ConfigError(f"model.{place}: the schema has no feature `{name}`. {hint}")
    rest = [name for name in names if name not in (*config.item_features, config.teacher)]
    if not config.item_features or not rest:
        raise ConfigError(
            "model.item_features: expected some of the features and not all, got "
            f"{list(config.item_features)} of {names}. Each tower needs at least one."
        )
    if not any((config.bce_weight, config.softmax_weight, config.teacher_weight)):
        raise ConfigError(
            "model.bce_weight, model.softmax_weight, model.teacher_weight: expected one above 0, "
            "got 0 for all. There is nothing to learn from."
        )
    if config.softmax_weight and config.item_id is None:
        raise ConfigError(
            "model.item_id: the softmax must know which rows have the same item. Name the feature "
            f"with the item's id, one of {list(config.item_features)}, or set "
            "model.softmax_weight to 0."
        )
    _check_id(config, schema)
    _check_teacher(config, schema)


def _check_id(config: TwoTower.Config, schema: Schema) -> None:
    if config.item_id is None:
        return
    if config.item_id not in config.item_features:
        raise ConfigError(
            f"model.item_id: expected one of model.item_features, {list(config.item_features)}, "
            f"got `{config.item_id}`. {did_you_mean(config.item_id, config.item_features)}"
        )
    _id_feature(schema, config.item_id)


def _id_feature(schema: Schema, name: str) -> Categorical:
    feature = schema.feature(name)
    if not isinstance(feature, Categorical):
        raise ConfigError(
            f"model.item_id: expected a categorical feature, with one id a row, got `{name}`, "
            f"which is {feature.kind}. Name the column with the item's id."
        )
    return feature


def _check_teacher(config: TwoTower.Config, schema: Schema) -> None:
    if config.teacher is None:
        if config.teacher_weight:
            raise ConfigError(
                f"model.teacher: model.teacher_weight is {config.teacher_weight}, but no feature "
                "holds the ranker's logits. Name it, or set the weight to 0."
            )
        return
    feature = schema.feature(config.teacher)
    plain = isinstance(feature, Numeric) and feature.scale == "none" and not feature.log
    if not plain or config.teacher in config.item_features:
        raise ConfigError(
            f"model.teacher: expected a numeric feature with scale none and log false that is not "
            f"an item's, got `{config.teacher}` ({feature.kind}). It holds the ranker's logits as "
            "they are."
        )
