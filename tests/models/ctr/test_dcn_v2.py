"""DCNv2: the suite for its main forms, every form's equation, one value on paper."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.layers.interaction.cross_net import CrossNetConfig
from recsys.layers.mlp import MLPConfig
from recsys.models.ctr.dcn_v2 import DCNv2
from recsys.testing import reference
from recsys.testing.ctr import CTRConformance
from recsys.testing.data import fill_weights, random_batch, tiny_schema

MLP = MLPConfig(hidden_units=(8, 6))
SMALL = DCNv2.Config(embedding_dim=4, cross=CrossNetConfig(num_layers=2), mlp=MLP)
KINDS = {
    "matrix": CrossNetConfig(num_layers=2),
    "low_rank": CrossNetConfig(kind="low_rank", num_layers=2, rank=3),
    "mixture": CrossNetConfig(kind="mixture", num_layers=2, rank=3, num_experts=2),
}


class TestDCNv2(CTRConformance):
    model = DCNv2
    config = SMALL
    golden = Path(__file__).parents[2] / "golden" / "ctr_dcn_v2.json"


class TestDCNv2StackedMixture(CTRConformance):
    model = DCNv2
    backends = False
    config = SMALL.model_copy(update={"cross": KINDS["mixture"], "structure": "stacked"})


def cross_layer(kind, state, layer, x0, x):
    """One cross layer of one row, each expert alone as the paper writes it."""
    if kind == "matrix":
        weight, bias = state[f"cross.layers.{layer}.weight"], state[f"cross.layers.{layer}.bias"]
        return x0 * (weight @ x + bias) + x
    up, bias = state[f"cross.up.{layer}.weight"], state[f"cross.up.{layer}.bias"]
    down = state[f"cross.down.{layer}.weight"]
    if kind == "low_rank":
        return x0 * (up @ (down @ x) + bias) + x
    scores = np.exp(state["cross.gate.weight"] @ x)
    result = x
    for k in range(2):
        own = slice(3 * k, 3 * (k + 1))
        inner = np.tanh(state[f"cross.core.{layer}"][k] @ np.tanh(down[own] @ x))
        expert = x0 * (up[:, own] @ inner + bias)
        result = result + scores[k] / scores.sum() * expert
    return result


@pytest.mark.parametrize("numeric", ["embed", "dense"])
@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("kind", KINDS)
def test_equation(kind, structure, numeric):
    config = DCNv2.Config(
        embedding_dim=4, numeric=numeric, structure=structure, cross=KINDS[kind], mlp=MLP
    )
    model = DCNv2(config, tiny_schema()).eval()
    fill_weights(model, scale=0.2)
    batch = random_batch(model.schema, batch_size=5, seed=3)
    state = reference.weights_of(model)
    x0 = reference.flat(model, batch)
    crossed = []
    for row in x0:
        x = row
        for layer in range(2):
            x = cross_layer(kind, state, layer, row, x)
        crossed.append(x)
    crossed = np.stack(crossed)
    if structure == "parallel":
        deep = reference.mlp(state, "mlp", x0, last_plain=False)
        last = np.concatenate([crossed, deep], axis=1)
    else:
        last = reference.mlp(state, "mlp", crossed, last_plain=False)
    expected = last @ state["head.weight"].T + state["head.bias"]
    np.testing.assert_allclose(model(batch).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_by_hand():
    """x0 = (2, 3), W all ones, b = (1, 0): x1 = x0 * (5 + b) + x0 = (2 * 6 + 2, 3 * 5 + 3)."""
    config = DCNv2.Config(
        numeric="dense", cross=CrossNetConfig(num_layers=1), mlp=MLPConfig(hidden_units=(1,))
    )
    model = DCNv2(config, tiny_schema("dense"))
    model.load_state_dict(
        {
            "cross.layers.0.weight": torch.ones(2, 2),
            "cross.layers.0.bias": torch.tensor([1.0, 0.0]),
            "mlp.layers.0.weight": torch.tensor([[1.0, 1.0]]),
            "mlp.layers.0.bias": torch.zeros(1),
            "head.weight": torch.tensor([[1.0, 10.0, 1000.0]]),
            "head.bias": torch.zeros(1),
        }
    )
    batch = random_batch(model.schema, batch_size=1)
    batch.dense.copy_(torch.tensor([[2.0, 3.0]]))
    # cross: 14 and 18 times 10; deep: 2 + 3 = 5 times 1000
    assert model(batch).item() == 5194.0
