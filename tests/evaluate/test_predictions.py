import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from recsys.errors import DataError, SchemaError
from recsys.evaluate.evaluation import default_slices
from recsys.evaluate.predictions import collect
from recsys.models.ctr.deep_fm import DeepFM
from recsys.models.ctr.lr import LR
from recsys.schema import Bucketized, Categorical, Label, MultiValued, Numeric, Schema
from recsys.testing.data import fill_weights, random_batch, tiny_schema

SCHEMA = tiny_schema("two_tasks")


@pytest.fixture
def model():
    return fill_weights(LR(LR.Config(), SCHEMA))


def batches(count=3, size=5):
    return [random_batch(SCHEMA, size, seed=seed) for seed in range(count)]


def test_rows_in_order_with_every_column(model):
    given = batches()
    found = collect(model, given, SCHEMA, slice_by=("user",))
    with torch.no_grad():
        logits = torch.cat([model(batch) for batch in given])
    np.testing.assert_array_equal(found.logits, logits.numpy())
    np.testing.assert_allclose(found.probabilities, 1 / (1 + np.exp(-logits.double().numpy())))
    assert found.tasks == ("click", "buy")
    expected = torch.cat([batch.key_values("user") for batch in given])
    np.testing.assert_array_equal(found.slices["user"], expected.numpy())
    assert found.weights is not None and len(found.weights) == 15


def test_batch_size_does_not_matter(model):
    given = batches(2, 6)
    whole = collect(model, given, SCHEMA).reports()
    other = LR(LR.Config(), SCHEMA)
    other.load_state_dict(model.state_dict())
    assert collect(other, given[::-1], SCHEMA).reports()["buy"]["auc"] == whole["buy"]["auc"]


def test_padding_is_left_out(model):
    (batch,) = batches(1)
    padded = dataclasses.replace(batch, weights=torch.tensor([1.0, 0, 2, 0, 1]))
    found = collect(model, [padded], SCHEMA)
    assert found.weights.tolist() == [1, 2, 1] and found.labels.shape == (3, 2)


def test_dropout_is_off_and_the_mode_comes_back():
    model = fill_weights(DeepFM(DeepFM.Config(), SCHEMA))
    model.mlp.layers.append(nn.Dropout(0.5))
    model.train()
    first, second = (collect(model, batches(), SCHEMA).logits for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert model.training
    model.eval()
    collect(model, batches(), SCHEMA)
    assert not model.training


def test_no_rows(model):
    with pytest.raises(DataError, match="no rows of positive weight"):
        collect(model, [], SCHEMA).reports()


@pytest.mark.parametrize("name", ["tags", "nothing"])
def test_only_single_valued_features_make_slices(model, name):
    with pytest.raises(SchemaError, match=f"slices: `{name}` must be a feature with one index"):
        collect(model, batches(), SCHEMA, slice_by=(name,))


def test_default_slices_are_the_smallest_that_are_worth_it():
    schema = Schema(
        features=(
            Categorical(name="big", num_embeddings=900),
            Categorical(name="device", num_embeddings=5),
            MultiValued(name="tags", pooling="sum", num_embeddings=4),
            Categorical(name="constant", num_embeddings=3),
            Bucketized(name="hour", method="quantile", num_buckets=4, num_embeddings=6),
            Numeric(name="age"),
        ),
        labels=(Label(name="click"),),
    )
    assert default_slices(schema) == ("device", "hour")
