"""The test data itself: it would be a poor judge if it were wrong."""

import math
import zlib

import pytest
import torch
from torch import nn

from recsys.models.ctr.fm import FM
from recsys.testing.data import (
    SCHEMA_KINDS,
    bags,
    fill_weights,
    random_batch,
    select_rows,
    tiny_schema,
)


@pytest.mark.parametrize("kind", SCHEMA_KINDS)
def test_batches_fit_their_schema(kind):
    schema = tiny_schema(kind)
    batch = random_batch(schema, batch_size=50, seed=1)
    assert batch.keys == schema.keys and batch.dense.shape == (50, schema.dense_width)
    assert batch.labels.shape == (50, schema.num_tasks)
    assert set(batch.labels.unique().tolist()) == {0, 1}
    assert batch.values.dtype == batch.lengths.dtype == torch.int32
    assert int(batch.lengths.sum()) == len(batch.values) == sum(batch.value_counts)
    rows = schema.num_embeddings()
    for feature in schema.keyed:
        values, lengths = batch.key_values(feature.name), batch.key_lengths(feature.name)
        assert values.min() >= 1 and values.max() == rows[feature.table_name] - 1
        longest = getattr(feature, "max_length", None) or 3
        expected = (0, longest) if hasattr(feature, "pooling") else (1, 1)
        assert (lengths.min(), lengths.max()) == expected
    assert (batch.value_weights is not None) == (kind == "weighted")


def test_same_arguments_same_batch():
    schema = tiny_schema()
    first, second = random_batch(schema, seed=1), random_batch(schema, seed=1)
    assert torch.equal(first.values, second.values) and torch.equal(first.dense, second.dense)
    assert not torch.equal(first.dense, random_batch(schema, seed=2).dense)


def test_select_rows_keeps_every_bag():
    batch = random_batch(tiny_schema("weighted"), batch_size=5, seed=2)
    assert batch.value_weights is not None
    some = select_rows(batch, [4, 0, 4])
    assert some.value_weights is not None and some.batch_size == 3
    for key in batch.keys:
        for new, old in enumerate([4, 0, 4]):
            assert bags(some, key)[new].tolist() == bags(batch, key)[old].tolist()
            got = bags(some, key, some.value_weights)[new]
            assert got.tolist() == bags(batch, key, batch.value_weights)[old].tolist()
    assert some.labels[1].equal(batch.labels[0]) and some.weights is not None


def test_filled_weights_depend_on_names_only():
    torch.manual_seed(1)
    first = fill_weights(FM(FM.Config(embedding_dim=3), tiny_schema()))
    torch.manual_seed(2)
    second = fill_weights(FM(FM.Config(embedding_dim=3), tiny_schema()))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
        if name.startswith("embeddings."):
            assert not tensor[0].any() and tensor[1:].any(dim=1).all()


def test_filled_weights_by_hand():
    layer = fill_weights(nn.Linear(2, 1, bias=False))
    shift = zlib.crc32(b"weight") % 1000
    expected = [0.5 * math.cos(shift), 0.5 * math.cos(shift + 1)]
    assert layer.weight.flatten().tolist() == pytest.approx(expected)
