import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from recsys.graph.feature_projection import FeatureProjection

ROWS = np.random.default_rng(1).random((7, 5)).astype(np.float32)
ROWS[ROWS < 0.5] = 0


@pytest.mark.parametrize("kind", [csr_array, np.array])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_a_linear_layer_with_its_gradient(kind, bias):
    layer = FeatureProjection(kind(ROWS), 3, bias=bias)
    wanted = layer.linear(torch.from_numpy(ROWS))
    torch.testing.assert_close(layer(), wanted)
    some = torch.tensor([6, 0, 6])
    torch.testing.assert_close(layer(some), wanted[some])
    weight = layer.linear.weight
    found = torch.autograd.grad(layer().square().sum(), weight)[0]
    torch.testing.assert_close(found, torch.autograd.grad(wanted.square().sum(), weight)[0])
    assert set(layer.state_dict()) == {"linear.weight", *(["linear.bias"] if bias else [])}


@pytest.mark.parametrize("kind", [csr_array, np.array])
def test_dropout_of_features_keeps_their_mean(kind):
    layer = FeatureProjection(kind(ROWS), 3, dropout=0.5)
    torch.manual_seed(0)
    mean = torch.stack([layer().detach() for _ in range(2000)]).mean(0)
    torch.testing.assert_close(mean, layer.eval()().detach(), rtol=0, atol=0.06)
    assert torch.equal(layer(), layer())
