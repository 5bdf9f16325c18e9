"""DeepFM: the suite, the equation against numpy, and one value on paper."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.layers.mlp import MLPConfig
from recsys.models.ctr.deep_fm import DeepFM
from recsys.schema import Categorical, Label, Schema
from recsys.testing import reference
from recsys.testing.ctr import CTRConformance
from recsys.testing.data import SCHEMA_KINDS, fill_weights, random_batch, tiny_schema
from recsys.types import Batch

SMALL = DeepFM.Config(embedding_dim=4, mlp=MLPConfig(hidden_units=(8, 6)))


class TestDeepFM(CTRConformance):
    model = DeepFM
    config = SMALL
    golden = Path(__file__).parents[2] / "golden" / "ctr_deep_fm.json"


@pytest.mark.parametrize("numeric", ["embed", "dense"])
@pytest.mark.parametrize("kind", SCHEMA_KINDS)
def test_equation(kind, numeric):
    model = DeepFM(SMALL.model_copy(update={"numeric": numeric}), tiny_schema(kind)).eval()
    fill_weights(model)
    batch = random_batch(model.schema, batch_size=5, seed=3)
    fields = reference.fields(model, batch)
    expected = reference.linear(model, batch)
    for i in range(fields.shape[1]):
        for j in range(i):
            expected = expected + (fields[:, i] * fields[:, j]).sum(1, keepdims=True)
    state = reference.weights_of(model)
    expected = expected + reference.mlp(state, "mlp", reference.flat(model, batch))
    np.testing.assert_allclose(model(batch).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_by_hand():
    """Two ids with vectors (1, 2) and (3, 4), weights 0.5 and 0.25, a deep part that adds 10."""
    features = (
        Categorical(name="a", num_embeddings=3),
        Categorical(name="b", num_embeddings=3),
    )
    config = DeepFM.Config(embedding_dim=2, mlp=MLPConfig(hidden_units=()))
    model = DeepFM(config, Schema(features=features, labels=(Label(name="y"),)))
    state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    state["embeddings.embedding.a.weight"][2] = torch.tensor([1.0, 2.0])
    state["embeddings.embedding.b.weight"][2] = torch.tensor([3.0, 4.0])
    state["embeddings.linear.a.weight"][2] = 0.5
    state["embeddings.linear.b.weight"][2] = 0.25
    state["mlp.layers.0.weight"][0] = torch.tensor([1.0, 0.0, 2.0, 0.0])  # 1 * 1 + 2 * 3 = 7
    state["mlp.layers.0.bias"][0] = 3.0
    model.load_state_dict(state)
    batch = Batch(
        dense=torch.zeros(1, 0),
        values=torch.tensor([2, 2], dtype=torch.int32),
        lengths=torch.ones(2, dtype=torch.int32),
        labels=torch.ones(1, 1),
        keys=("a", "b"),
        value_counts=(1, 1),
    )
    # 0.5 + 0.25 first order, 1 * 3 + 2 * 4 = 11 pairwise, 7 + 3 deep
    assert model(batch).item() == 21.75
