"""MLP: block order, values on paper, one-row batches."""

import pytest
import torch
from torch import nn

from recsys.layers.mlp import MLP, MLPConfig


def names(layer):
    return [type(part).__name__ for part in layer.layers]


def test_block_order():
    layer = MLP(4, MLPConfig(hidden_units=(3, 2), dropout=0.5, batch_norm=True), out_features=1)
    block = ["Linear", "BatchNorm", "ReLU", "Dropout"]
    assert names(layer) == [*block, *block, "Linear"]
    assert names(MLP(4, MLPConfig(hidden_units=(3,)))) == ["Linear", "ReLU"]
    assert names(MLP(4, MLPConfig(hidden_units=()), out_features=2)) == ["Linear"]


def test_by_hand():
    layer = MLP(2, MLPConfig(hidden_units=(2,)), out_features=1)
    layer.load_state_dict(
        {
            "layers.0.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
            "layers.0.bias": torch.tensor([0.0, -5.0]),
            "layers.2.weight": torch.tensor([[2.0, 3.0]]),
            "layers.2.bias": torch.tensor([0.25]),
        }
    )
    # relu(1, 4 - 5) = (1, 0), relu(-1, 7 - 5) = (0, 2)
    assert layer(torch.tensor([[1.0, 4.0], [-1.0, 7.0]])).tolist() == [[2.25], [6.25]]


@pytest.mark.parametrize(
    ("name", "at_minus_one"),
    [("relu", 0.0), ("leaky_relu", -0.01), ("gelu", -0.158655), ("silu", -0.268941),
     ("sigmoid", 0.268941), ("tanh", -0.761594)],
)  # fmt: skip
def test_activations(name, at_minus_one):
    layer = MLP(1, MLPConfig(hidden_units=(1,), activation=name))
    nn.init.ones_(layer.layers[0].weight)
    assert layer(torch.tensor([[-1.0]])).item() == pytest.approx(at_minus_one, abs=1e-5)


def test_batch_norm_makes_every_unit_standard():
    torch.manual_seed(0)
    layer = MLP(3, MLPConfig(hidden_units=(5,), batch_norm=True, activation="leaky_relu"))
    normed = layer.layers[1](layer.layers[0](torch.randn(64, 3)))
    torch.testing.assert_close(normed.mean(0), torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(normed.var(0, unbiased=False), torch.ones(5), atol=1e-3, rtol=0)
    assert layer.layers[0].bias is None


def test_one_training_row_uses_running_statistics():
    layer = MLP(2, MLPConfig(hidden_units=(2,), batch_norm=True))
    norm, row = layer.layers[1], torch.tensor([[1.0, 3.0]])
    norm.running_mean.copy_(torch.tensor([1.0, 1.0]))
    norm.running_var.copy_(torch.tensor([1.0, 4.0]))
    trained = norm.train()(row)
    torch.testing.assert_close(trained, torch.tensor([[0.0, 1.0]]), atol=1e-4, rtol=0)
    assert norm.running_mean.tolist() == [1.0, 1.0] and norm.num_batches_tracked == 0
    torch.testing.assert_close(norm.eval()(row), trained)


def test_in_place_activation_gives_the_right_gradient():
    """Against finite differences, with batch norm in between."""
    torch.manual_seed(0)
    layer = MLP(3, MLPConfig(hidden_units=(4,), batch_norm=True), out_features=1).double()
    inputs = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (inputs,))


def test_dropout_only_in_training():
    layer = MLP(8, MLPConfig(hidden_units=(100,), dropout=0.5, activation="sigmoid"))
    x = torch.ones(1, 8)
    assert (layer.train()(x) == 0).float().mean().item() == pytest.approx(0.5, abs=0.2)
    assert (layer.eval()(x) != 0).all()


def test_start_values():
    """Xavier-normal: variance 2 / (fan in + fan out); bias 0."""
    layer = MLP(300, MLPConfig(hidden_units=(500,)))
    weight = layer.layers[0].weight
    assert weight.std().item() == pytest.approx((2 / 800) ** 0.5, rel=0.02)
    assert not layer.layers[0].bias.any()


@pytest.mark.parametrize(
    ("width", "hidden", "out"), [(0, (3,), 1), (3, (0,), 1), (3, (2,), 0), (3, (2, -1), None)]
)
def test_widths_must_be_positive(width, hidden, out):
    with pytest.raises(ValueError, match="every width must be at least 1, got in_features="):
        MLP(width, MLPConfig(hidden_units=hidden), out_features=out)
