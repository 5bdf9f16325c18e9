"""TwoTower.

Train it: ``python examples/train_ctr.py --config configs/ctr/two_tower.yaml``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

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
from recsys.losses.in_batch import Guide
from recsys.schema import FIRST_INDEX, Categorical, Numeric, Schema, Vector
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

    - ``prefixes`` (Matryoshka): the softmax is that of every prefix, so the first values of a
      vector are a vector too (`recsys.retrieval.prefix_codes.PrefixCodes`).
    - ``guide_item`` (GIST): items that pretrained vectors find near the clicked one, or near its
      user by ``guide_user``, are no negatives of it.
    - ``content_weight`` (SAIL): an item that training never saw has no id, only other features. The
      softmax is added with vectors of items by those features alone, so that a user's vector finds
      the clicked item by them; and an unknown id counts as none.

    Args:
        config: Which features are the item's, towers, losses.
        schema: A fitted schema with one label.

    Shape:
        - input: Batch of B rows
        - output: (B, 1) logits

    Raises:
        ConfigError: A name is not that of a feature, or of another kind than needed; a tower has no
            feature; there are several labels; no loss has a weight, or one that has lacks what it
            needs; ``prefixes`` do not rise to ``output_dim``.
        SchemaError: See `recsys.base.CTRModel`.

    Source:
        Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations",
        RecSys 2019, Section 3. Differs: duplicates in a batch are hidden and the own item is not
        corrected (`recsys.losses.clicked_softmax`), the share of an item is estimated as
        `recsys.layers.streaming_share.StreamingShare` says, and cross entropy is added so that
        logits are calibrated. Teacher: Barkan et al., "Scalable Attentive Sentence Pair
        Modeling via Distilled Sentence Embedding", AAAI 2020, with a CTR ranker in place of BERT.
        Prefixes, guide: see `recsys.losses.in_batch.in_batch`. Content: the sequence-to-item term
        of the SAIL-Embedding report, arXiv 2510.12709, read second hand; there an encoder reads the
        history of the user, here the user tower stands for it.

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
        prefixes: tuple[int, ...] | None = None
        """Rising widths up to ``output_dim`` whose first values are vectors of their own."""
        guide_item: str | None = None
        """Pretrained vector of the item: what is as near to the clicked item is no negative."""
        guide_user: str | None = None
        """Pretrained vector of the user to compare items with, instead of the clicked item's."""
        guide_margin: float = Field(default=0.1, ge=0)
        """How much less near than the clicked item (in cosine) an item must be to count."""
        content_weight: float = Field(default=0.0, ge=0)
        """Of the softmax without the item's id, beside that with it: for items that are new."""
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
        self._kept: tuple[Batch, _Towers] | None = None

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
        return self._lengths(self._users(self.inputs(batch)))

    def item_vectors(self, batch: Batch) -> Tensor:
        """Vectors of items; the features of user and context are not read.

        Args:
            batch: B rows.

        Shape:
            - output: (B, D)
        """
        return self._lengths(self._items(self.inputs(batch), self._known(batch)))

    def _users(self, inputs: CTRInputs) -> Tensor:
        return self.user_tower(self._user.of(inputs).deep()).float()

    def _items(self, inputs: CTRInputs, known: Tensor | None) -> Tensor:
        """With an id of zeros where it is not ``known``, (B,); None reads all ids as they are."""
        if known is not None:
            place = self.schema.keys.index(self.item_id or "")
            sizes = [place, 1, len(self.schema.keys) - place - 1]
            before, own, after = inputs.keyed.split(sizes, 1)
            keyed = torch.cat([before, own * known[:, None, None].to(own.dtype), after], 1)
            inputs = dataclasses.replace(inputs, keyed=keyed)
        return self.item_tower(self._item.of(inputs).deep()).float()

    def _known(self, batch: Batch) -> Tensor | None:
        """Whether training saw the item, (B,); also in a trace, unlike `Batch.key_values`."""
        if not self.config.content_weight:
            return None
        starts = (batch.lengths.cumsum(0) - batch.lengths).view(len(self.schema.keys), -1)
        return batch.values[starts[self.schema.keys.index(self.item_id or "")]] >= FIRST_INDEX

    def _lengths(self, vectors: Tensor) -> Tensor:
        return (
            functional.normalize(vectors, dim=1, eps=_SHORT) if self.config.normalize else vectors
        )

    # ------------------------------------------------------------------------------- training

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, 1)."""
        towers = self._towers(batch, self.training)
        if self.training:  # for the loss, which is given logits only
            self._kept = (batch, towers)
        users_BD, items_BD = self._lengths(towers.users), self._lengths(towers.items)
        scores = (users_BD * items_BD).sum(1, keepdim=True) / self.config.temperature
        return self.log_scale.exp() * scores + self.bias

    def _towers(self, batch: Batch, for_loss: bool) -> _Towers:
        inputs, known = self.inputs(batch), self._known(batch)
        contents = None
        if for_loss and known is not None:
            contents = self._items(inputs, torch.zeros_like(known))
        return _Towers(self._users(inputs), self._items(inputs, known), contents)

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
            teacher = batch.dense[:, _columns(self.schema, config.teacher or "")][:, 0]
            apart = logit_distillation(logits[:, 0].float(), teacher, batch.weights)
            rows = rows + config.teacher_weight * apart
        return rows

    def _softmax(self, batch: Batch) -> Tensor:
        config = self.config
        kept, self._kept = self._kept, None
        towers = kept[1] if kept is not None and kept[0] is batch else self._towers(batch, True)
        ids, labels = batch.key_values(self.item_id or ""), batch.labels[:, 0]
        log_q = None
        if self.shares is not None:
            if self.training:
                clicked, weights = labels > 0.5, batch.weights
                self.shares.update(ids[clicked], None if weights is None else weights[clicked])
            log_q = self.shares(ids)
        contrast = functools.partial(
            clicked_softmax, labels=labels, ids=ids, weights=batch.weights, log_q=log_q,
            guide=self._guide(batch), prefixes=config.prefixes, normalize=config.normalize,
            temperature=config.temperature,
        )  # fmt: skip
        loss = contrast(towers.users, towers.items)
        if towers.contents is not None:
            loss = loss + config.content_weight * contrast(towers.users, towers.contents)
        return loss

    def _guide(self, batch: Batch) -> Guide | None:
        config = self.config
        if config.guide_item is None:
            return None
        sides = (config.guide_user or config.guide_item, config.guide_item)
        users, items = (batch.dense[:, _columns(self.schema, name)] for name in sides)
        return Guide(users, items, config.guide_margin)


class _Towers(NamedTuple):
    """What the towers gave for a batch, before lengths are changed."""

    users: Tensor
    items: Tensor
    contents: Tensor | None
    """Of items without their ids."""


def _columns(schema: Schema, name: str) -> slice:
    """Where a number or a pretrained vector is in ``Batch.dense``."""
    widths = {number.name: 1 for number in schema.numeric}
    widths |= {vector.name: vector.dim for vector in schema.vectors}
    start = sum(list(widths.values())[: list(widths).index(name)])
    return slice(start, start + widths[name])


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
    _check_prefixes(config)
    _check_guide(config, schema)
    for name in ("prefixes", "guide_item", "content_weight"):
        if getattr(config, name) and not config.softmax_weight:
            raise ConfigError(
                f"model.{name}: it changes the softmax, and model.softmax_weight is 0. Raise that, "
                f"or leave {name} out."
            )
    if config.content_weight and len(config.item_features) < 2:
        raise ConfigError(
            "model.content_weight: expected features of the item beside its id, got "
            f"model.item_features {list(config.item_features)}. Add what is known of new items, or "
            "set the weight to 0."
        )


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


def _check_prefixes(config: TwoTower.Config) -> None:
    widths = config.prefixes
    if widths is None:
        return
    if not widths or list(widths) != sorted({*widths, config.output_dim}) or widths[0] < 1:
        raise ConfigError(
            f"model.prefixes: expected widths that rise to model.output_dim, {config.output_dim}, "
            f"got {list(widths)}."
        )


def _check_guide(config: TwoTower.Config, schema: Schema) -> None:
    user, item = config.guide_user, config.guide_item
    if user is not None and item is None:
        raise ConfigError("model.guide_user: model.guide_item is missing. Name it, too.")
    names = [feature.name for feature in schema.features]
    for place, name in (("guide_user", user), ("guide_item", item)):
        if name is None:
            continue
        of_item = place == "guide_item"
        found = schema.feature(name) if name in names else None
        if not isinstance(found, Vector) or (name in config.item_features) != of_item:
            side = "an item's" if of_item else "not an item's"
            vectors = [vector.name for vector in schema.vectors]
            raise ConfigError(
                f"model.{place}: expected a pretrained vector that is {side}, got `{name}`. The "
                f"schema's vectors: {vectors}; model.item_features: {list(config.item_features)}."
            )
    widths = {vector.dim for vector in schema.vectors if vector.name in (user, item)}
    if len(widths) > 1:
        raise ConfigError(
            f"model.guide_user, model.guide_item: expected vectors of one space, got widths "
            f"{sorted(widths)}. Export both from one model."
        )
