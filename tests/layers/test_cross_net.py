"""Cross networks: relations between the three kinds, values on paper."""

import pytest
import torch

from recsys.layers.interaction.cross_net import (
    CrossNetConfig,
    CrossNetV2,
    LowRankCrossNet,
    MixtureCrossNet,
    cross_net,
)


def test_two_layers_by_hand():
    net = CrossNetV2(1, num_layers=2)
    state = {name: torch.ones_like(tensor) for name, tensor in net.state_dict().items()}
    net.load_state_dict(state)
    # x0 = 2: 2 * (2 + 1) + 2 = 8, then 2 * (8 + 1) + 8 = 26
    assert net(torch.tensor([[2.0]])).item() == 26.0


def test_order_of_interactions():
    """Without bias, L layers of an input scaled by c give a polynomial of degree L + 1 in c."""
    torch.manual_seed(0)
    net = CrossNetV2(3, num_layers=2).double()
    x = torch.randn(1, 3, dtype=torch.float64)
    points = torch.arange(6, dtype=torch.float64)
    values = torch.stack([net(c * x)[0, 0] for c in points])
    difference = values
    for _ in range(4):  # fourth differences of a cubic vanish, third do not
        third, difference = difference, difference.diff()
    assert difference.abs().max() < 1e-8 < third.abs().max()


def test_full_rank_factors_equal_the_matrix():
    torch.manual_seed(0)
    low, full = LowRankCrossNet(4, num_layers=2, rank=4), CrossNetV2(4, num_layers=2)
    for layer, down, up in zip(full.layers, low.down, low.up):
        layer.weight.data = up.weight.data @ down.weight.data
        layer.bias.data = up.bias.data.fill_(0.3)
    x = torch.randn(5, 4)
    torch.testing.assert_close(low(x), full(x))


def test_one_expert_in_its_linear_range_equals_low_rank():
    """With one expert the gate is 1; for small inputs tanh(x) = x, with the core the identity."""
    torch.manual_seed(0)
    mixture = MixtureCrossNet(4, num_layers=1, rank=2, num_experts=1).double()
    low = LowRankCrossNet(4, num_layers=1, rank=2).double()
    mixture.core[0].data = torch.eye(2, dtype=torch.float64)[None]
    mixture.down[0].load_state_dict(low.down[0].state_dict())
    mixture.up[0].load_state_dict(low.up[0].state_dict())
    x = 1e-4 * torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(mixture(x), low(x), atol=1e-14, rtol=1e-9)


def test_equal_experts_are_one_expert():
    """Gates sum to 1, so copies of one expert give that expert, whatever the gate says."""
    torch.manual_seed(0)
    one = MixtureCrossNet(4, num_layers=2, rank=2, num_experts=1)
    three = MixtureCrossNet(4, num_layers=2, rank=2, num_experts=3)
    for layer in range(2):
        three.down[layer].weight.data = one.down[layer].weight.data.repeat(3, 1)
        three.core[layer].data = one.core[layer].data.repeat(3, 1, 1)
        three.up[layer].weight.data = one.up[layer].weight.data.repeat(1, 3)
        three.up[layer].bias.data = one.up[layer].bias.data.fill_(0.2)
    x = torch.randn(5, 4)
    torch.testing.assert_close(three(x), one(x))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("matrix", CrossNetV2), ("low_rank", LowRankCrossNet), ("mixture", MixtureCrossNet)],
)
def test_kind_and_size(kind, expected):
    net = cross_net(8, CrossNetConfig(kind=kind, num_layers=2, rank=2, num_experts=3))
    assert type(net) is expected
    parameters = sum(parameter.numel() for parameter in net.parameters())
    # matrix 8 * 8 + 8; factors 2 * 8 * 2 + 8; experts 3 * (2 * 8 * 2 + 4) + 8 and a gate of 24
    assert parameters == {"matrix": 144, "low_rank": 80, "mixture": 256}[kind]
