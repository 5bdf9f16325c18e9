"""Small known data for tests: schemas of every kind of feature, batches, deterministic weights.

Stability: testing
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from recsys.schema import (
    PAD_INDEX,
    Bucketized,
    Categorical,
    Feature,
    Label,
    MultiValued,
    Numeric,
    Schema,
    Vector,
)
from recsys.schema import Sequence as History
from recsys.types import Batch

SchemaKind = Literal[
    "mixed", "categorical", "dense", "bags", "weighted", "vectors", "shared", "two_tasks"
]
SCHEMA_KINDS: tuple[SchemaKind, ...] = get_args(SchemaKind)
"""Every variant of `tiny_schema`: what a CTR model must work with."""


def tiny_schema(kind: SchemaKind = "mixed") -> Schema:
    """A small fitted schema. Feature names include words that trap naive containers.

    Args:
        kind: ``mixed``: ids, a bag, a history, buckets, numbers and a vector. ``categorical``,
            ``dense``: only ids, only numbers. ``bags``: only multi-valued features and histories.
            ``weighted``: ids, and a bag with weights. ``vectors``: an id and two pretrained
            vectors. ``shared``: three features of one table. ``two_tasks``: ``mixed`` with two
            labels.

    Example:
        >>> tiny_schema("categorical").keys
        ('user', 'items', 'type')
    """
    user = Categorical(name="user", num_embeddings=12)
    # `items` and `type` are names of methods of dicts and modules.
    items = Categorical(name="items", num_embeddings=9)
    kind_of = Categorical(name="type", num_embeddings=5)
    tags = MultiValued(name="tags", pooling="mean", num_embeddings=8)
    history = History(name="history", pooling="sum", max_length=4, num_embeddings=10)
    weighted = MultiValued(name="topics", pooling="sum", weights="topic_w", num_embeddings=7)
    hour = Bucketized(name="hour", method="quantile", num_buckets=4, num_embeddings=6)
    age, price = Numeric(name="age"), Numeric(name="price")
    image, text = Vector(name="image", dim=3), Vector(name="text", dim=2)
    shared = (
        Categorical(name="target", table="ad", num_embeddings=9),
        History(name="clicked", table="ad", pooling="mean", max_length=4, num_embeddings=9),
        History(name="skipped", table="ad", pooling="mean", max_length=3, num_embeddings=9),
    )
    features: dict[SchemaKind, tuple[Feature, ...]] = {
        "mixed": (age, user, items, tags, image, history, hour, price),
        "categorical": (user, items, kind_of),
        "dense": (age, price),
        "bags": (tags, history),
        "weighted": (user, weighted, age),
        "vectors": (user, image, text),
        "shared": (user, *shared, price),
    }
    features["two_tasks"] = features["mixed"]
    labels = (Label(name="click"),)
    if kind == "two_tasks":
        labels = (*labels, Label(name="buy"))
    return Schema(features=features[kind], labels=labels)


def random_batch(schema: Schema, batch_size: int = 8, seed: int = 0) -> Batch:
    """A batch that fits a schema, the same for the same arguments.

    Indices run over the whole table, OOV included and PAD not. About a third of the bags are
    empty. Weights of bags are drawn from 0.5 to 1.5.

    Args:
        schema: A fitted schema.
        batch_size: Rows.
        seed: Of the draw.

    Example:
        >>> batch = random_batch(tiny_schema("bags"), batch_size=2, seed=3)
        >>> batch.keys, batch.labels.shape
        (('tags', 'history'), torch.Size([2, 1]))
    """
    rng = np.random.default_rng(seed)
    rows = schema.num_embeddings()
    values, lengths = [], []
    for feature in schema.keyed:
        longest = getattr(feature, "max_length", None) or 3
        counts = np.ones(batch_size, dtype=np.int32)
        if hasattr(feature, "pooling"):
            counts = rng.integers(1, longest + 1, batch_size, dtype=np.int32)
            counts[rng.random(batch_size) < 1 / 3] = 0
        limit = rows[feature.table_name]
        values.append(rng.integers(1, limit, int(counts.sum()), dtype=np.int32))
        lengths.append(counts)
    weighted = any(getattr(feature, "weights", None) for feature in schema.keyed)
    total = sum(len(v) for v in values)
    return Batch(
        dense=torch.from_numpy(rng.standard_normal((batch_size, schema.dense_width), np.float32)),
        values=torch.from_numpy(np.concatenate([*values, np.zeros(0, np.int32)])),
        lengths=torch.from_numpy(np.concatenate([*lengths, np.zeros(0, np.int32)])),
        labels=torch.from_numpy(
            rng.integers(0, 2, (batch_size, schema.num_tasks)).astype(np.float32)
        ),
        keys=schema.keys,
        value_counts=tuple(len(v) for v in values),
        weights=torch.from_numpy(rng.integers(1, 4, batch_size).astype(np.float32)),
        value_weights=torch.from_numpy(rng.uniform(0.5, 1.5, total).astype(np.float32))
        if weighted
        else None,
    )


def bags(batch: Batch, key: str, of: Tensor | None = None) -> list[Tensor]:
    """The indices of one key, row by row.

    Args:
        batch: Any batch.
        key: A feature name.
        of: What to cut instead of the indices, say ``batch.value_weights``.

    Example:
        >>> batch = random_batch(tiny_schema("bags"), batch_size=2, seed=3)
        >>> [len(bag) for bag in bags(batch, "tags")] == batch.key_lengths("tags").tolist()
        True
    """
    start, end = batch.key_range(key)
    values = batch.values if of is None else of
    return list(values[start:end].split(batch.key_lengths(key).tolist()))


def select_rows(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some rows of a batch, in the given order.

    Args:
        batch: Any batch.
        rows: Positions; may repeat.

    Example:
        >>> batch = random_batch(tiny_schema(), batch_size=4)
        >>> select_rows(batch, [2, 0]).dense[1].equal(batch.dense[0])
        True
    """
    order = torch.tensor(rows, dtype=torch.int64)
    per_key = {key: bags(batch, key) for key in batch.keys}
    values = [per_key[key][row] for key in batch.keys for row in rows]
    value_weights = None
    if batch.value_weights is not None:
        cut = {key: bags(batch, key, batch.value_weights) for key in batch.keys}
        value_weights = torch.cat([cut[key][row] for key in batch.keys for row in rows])
    by_row = {
        name: tensor if tensor is None else tensor[order]
        for name in ("dense", "labels", "weights", "groups", "timestamps")
        for tensor in [getattr(batch, name)]
    }
    return dataclasses.replace(
        batch,
        **by_row,
        values=torch.cat([*values, batch.values[:0]]),
        lengths=batch.lengths.view(len(batch.keys), batch.batch_size)[:, order].flatten(),
        value_counts=tuple(sum(len(per_key[key][row]) for row in rows) for key in batch.keys),
        value_weights=value_weights,
    )


def fill_weights(model: nn.Module, scale: float = 0.5) -> nn.Module:
    """Gives every parameter a value that depends on its name and position only.

    ``w[i] = scale * cos(i + h)``, ``h`` from the CRC-32 of the name in the state dict. PAD rows of
    tables stay zero; buffers (running means and the like) stay as they are.

    Args:
        model: Changed in place.
        scale: Largest absolute value.

    Returns:
        The same model.

    Example:
        >>> layer = fill_weights(nn.Linear(2, 1))
        >>> bool(layer.weight.abs().max() <= 0.5)
        True
    """
    buffers = {name for name, _ in model.named_buffers()}
    state = model.state_dict()
    for name, tensor in state.items():
        if name in buffers or not tensor.is_floating_point():
            continue
        shift = zlib.crc32(name.encode()) % 1000
        position = torch.arange(tensor.numel(), dtype=torch.float64) + shift
        state[name] = (scale * torch.cos(position)).to(tensor.dtype).view(tensor.shape)
        if is_table(name):
            state[name][PAD_INDEX] = 0.0
    model.load_state_dict(state)
    return model


def is_table(name: str) -> bool:
    """Whether a name in a model's state dict is that of a table.

    Example:
        >>> is_table("embeddings.linear.user.weight"), is_table("mlp.layers.0.weight")
        (True, False)
    """
    return name.startswith("embeddings.") and name.endswith(".weight")
