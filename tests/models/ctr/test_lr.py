"""LR: the suite, the equation against numpy, and one value on paper."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.errors import SchemaError
from recsys.models.ctr.lr import LR
from recsys.testing import reference
from recsys.testing.ctr import CTRConformance
from recsys.testing.data import SCHEMA_KINDS, fill_weights, random_batch, tiny_schema


class TestLR(CTRConformance):
    model = LR
    config = LR.Config()
    golden = Path(__file__).parents[2] / "golden" / "ctr_lr.json"


@pytest.mark.parametrize("kind", SCHEMA_KINDS)
def test_equation(kind):
    model = LR(LR.Config(), tiny_schema(kind)).eval()
    fill_weights(model)
    batch = random_batch(model.schema, batch_size=5, seed=3)
    expected = reference.weights_of(model)["bias"] + reference.linear(model, batch)
    np.testing.assert_allclose(model(batch).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_by_hand():
    """Bias 1, weights 2 and 3 of two numbers."""
    model = LR(LR.Config(), tiny_schema("dense"))
    model.load_state_dict(
        {"bias": torch.tensor([1.0]), "linear.weight": torch.tensor([[2.0], [3]])}
    )
    batch = random_batch(model.schema, batch_size=2)
    batch.dense.copy_(torch.tensor([[10.0, 100.0], [0.0, -1.0]]))
    assert model(batch).tolist() == [[321.0], [-2.0]]


def test_start_value_is_the_prior_of_a_coin():
    model = LR(LR.Config(init_std=0.0), tiny_schema())
    assert model(random_batch(model.schema)).abs().max() == 0


def test_width_of_a_table_has_no_effect_and_is_refused():
    config = LR.Config.model_validate({"tables": {"user": {"embedding_dim": 8}}})
    with pytest.raises(SchemaError, match=r"`tables.user.embedding_dim` has no effect"):
        LR(config, tiny_schema())
