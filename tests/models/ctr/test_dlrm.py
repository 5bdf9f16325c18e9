"""DLRM: the suite with and without embedded numbers, the equation, one value on paper."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.errors import SchemaError
from recsys.layers.mlp import MLPConfig
from recsys.models.ctr.dlrm import DLRM
from recsys.schema import Categorical, Label, Schema
from recsys.testing import reference
from recsys.testing.ctr import CTRConformance
from recsys.testing.data import SCHEMA_KINDS, fill_weights, random_batch, tiny_schema

SMALL = DLRM.Config(
    embedding_dim=4,
    bottom_mlp=MLPConfig(hidden_units=(6,)),
    top_mlp=MLPConfig(hidden_units=(8,)),
)


class TestDLRM(CTRConformance):
    model = DLRM
    config = SMALL
    golden = Path(__file__).parents[2] / "golden" / "ctr_dlrm.json"


class TestDLRMWithEmbeddedNumbers(CTRConformance):
    model = DLRM
    backends = False
    config = SMALL.model_copy(update={"numeric": "embed"})


@pytest.mark.parametrize("numeric", ["embed", "dense"])
@pytest.mark.parametrize("kind", SCHEMA_KINDS)
def test_equation(kind, numeric):
    """With a bottom MLP where there are numbers, without one where there are none."""
    model = DLRM(SMALL.model_copy(update={"numeric": numeric}), tiny_schema(kind)).eval()
    fill_weights(model)
    batch = random_batch(model.schema, batch_size=5, seed=3)
    state = reference.weights_of(model)
    vectors = list(reference.fields(model, batch).transpose(1, 0, 2))
    top = []
    if numeric == "dense" and model.schema.numeric:
        numbers = batch.dense.double().numpy()[:, : len(model.schema.numeric)]
        z = reference.mlp(state, "bottom", numbers, last_plain=False)
        vectors.append(z)
        top.append(z)
    else:
        assert not any(name.startswith("bottom") for name in state)
    for i in range(len(vectors)):
        for j in range(i + 1, len(vectors)):
            top.append((vectors[i] * vectors[j]).sum(axis=1, keepdims=True))
    expected = reference.mlp(state, "top", np.concatenate(top, axis=1))
    np.testing.assert_allclose(model(batch).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_by_hand():
    """Vectors (1, 2) and (3, 4), z = relu((5, -1)) = (5, 0); pairs 11, 5, 15; top adds all."""
    schema = Schema(
        features=(
            *tiny_schema("dense").features,
            Categorical(name="a", num_embeddings=3),
            Categorical(name="b", num_embeddings=3),
        ),
        labels=(Label(name="y"),),
    )
    empty = MLPConfig(hidden_units=())
    model = DLRM(DLRM.Config(embedding_dim=2, bottom_mlp=empty, top_mlp=empty), schema)
    state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    state["embeddings.embedding.a.weight"][2] = torch.tensor([1.0, 2.0])
    state["embeddings.embedding.b.weight"][2] = torch.tensor([3.0, 4.0])
    state["bottom.layers.0.weight"] += torch.eye(2)
    state["top.layers.0.weight"] += torch.tensor([[1.0, 1.0, 100.0, 10.0, 1.0]])
    model.load_state_dict(state)
    batch = random_batch(schema, batch_size=1)
    batch.dense.copy_(torch.tensor([[5.0, -1.0]]))
    batch.values.fill_(2)
    # z: 5 + 0; <a, b> = 11 times 100; <a, z> = 5 times 10; <b, z> = 15
    assert model(batch).item() == 5 + 1100 + 50 + 15


def test_nothing_to_interact_is_refused():
    schema = Schema(features=(Categorical(name="a", num_embeddings=3),), labels=(Label(name="y"),))
    with pytest.raises(SchemaError, match=r"at least two fields to interact, got .*\['a'\]"):
        DLRM(SMALL, schema)
