"""FM: the suite, the equation against numpy, and one value on paper."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.models.ctr.fm import FM
from recsys.testing import reference
from recsys.testing.ctr import CTRConformance
from recsys.testing.data import SCHEMA_KINDS, fill_weights, random_batch, tiny_schema


class TestFM(CTRConformance):
    model = FM
    config = FM.Config(embedding_dim=4)
    golden = Path(__file__).parents[2] / "golden" / "ctr_fm.json"


@pytest.mark.parametrize("numeric", ["embed", "dense"])
@pytest.mark.parametrize("kind", SCHEMA_KINDS)
def test_equation(kind, numeric):
    """Rendle's Equation 1: a double sum over pairs, not the linear-time form."""
    model = FM(FM.Config(embedding_dim=4, numeric=numeric), tiny_schema(kind)).eval()
    fill_weights(model)
    batch = random_batch(model.schema, batch_size=5, seed=3)
    expected = reference.weights_of(model)["bias"] + reference.linear(model, batch)
    fields = reference.fields(model, batch)
    for i in range(fields.shape[1]):
        for j in range(i + 1, fields.shape[1]):
            expected = expected + np.einsum("bd,bd->b", fields[:, i], fields[:, j])[:, None]
    np.testing.assert_allclose(model(batch).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_by_hand():
    """Numbers 2 and 5 with vectors (1, 0) and (3, 4): 2 * 5 * 3 = 30; first order 2 * 1 + 5 * 1."""
    model = FM(FM.Config(embedding_dim=2), tiny_schema("dense"))
    model.load_state_dict(
        {
            "bias": torch.tensor([0.5]),
            "linear.weight": torch.ones(2, 1),
            "numeric.weight": torch.tensor([[1.0, 0.0], [3.0, 4.0]]),
        }
    )
    batch = random_batch(model.schema, batch_size=1)
    batch.dense.copy_(torch.tensor([[2.0, 5.0]]))
    assert model(batch).item() == 37.5


def test_dense_numbers_have_first_order_weights_only():
    model = FM(FM.Config(numeric="dense"), tiny_schema("dense"))
    assert set(model.state_dict()) == {"bias", "linear.weight"}
