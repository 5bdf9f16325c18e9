"""WideDeep: the suite, the equation against numpy, and one value on paper."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.layers.mlp import MLPConfig
from recsys.models.ctr.wide_deep import WideDeep
from recsys.testing import reference
from recsys.testing.ctr import CTRConformance
from recsys.testing.data import SCHEMA_KINDS, fill_weights, random_batch, tiny_schema

SMALL = WideDeep.Config(embedding_dim=4, mlp=MLPConfig(hidden_units=(8, 6)))


class TestWideDeep(CTRConformance):
    model = WideDeep
    config = SMALL
    golden = Path(__file__).parents[2] / "golden" / "ctr_wide_deep.json"


class TestWideDeepWithBatchNorm(CTRConformance):
    """The options of the MLP go through the suite once, here."""

    model = WideDeep
    backends = False
    config = WideDeep.Config(
        embedding_dim=4, mlp=MLPConfig(hidden_units=(8, 6), batch_norm=True, activation="silu")
    )


@pytest.mark.parametrize("numeric", ["embed", "dense"])
@pytest.mark.parametrize("kind", SCHEMA_KINDS)
def test_equation(kind, numeric):
    model = WideDeep(SMALL.model_copy(update={"numeric": numeric}), tiny_schema(kind)).eval()
    fill_weights(model)
    batch = random_batch(model.schema, batch_size=5, seed=3)
    deep = reference.mlp(reference.weights_of(model), "mlp", reference.flat(model, batch))
    expected = reference.linear(model, batch) + deep
    np.testing.assert_allclose(model(batch).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_by_hand():
    """Wide 2 * 1 + 3 * 10 = 32; deep relu(2 - 3) = 0 and relu(3 - 2) = 1, times 5."""
    config = WideDeep.Config(numeric="dense", mlp=MLPConfig(hidden_units=(2,)))
    model = WideDeep(config, tiny_schema("dense"))
    model.load_state_dict(
        {
            "linear.weight": torch.tensor([[1.0], [10.0]]),
            "mlp.layers.0.weight": torch.tensor([[1.0, -1.0], [-1.0, 1.0]]),
            "mlp.layers.0.bias": torch.zeros(2),
            "mlp.layers.2.weight": torch.tensor([[7.0, 5.0]]),
            "mlp.layers.2.bias": torch.zeros(1),
        }
    )
    batch = random_batch(model.schema, batch_size=1)
    batch.dense.copy_(torch.tensor([[2.0, 3.0]]))
    assert model(batch).item() == 37.0
