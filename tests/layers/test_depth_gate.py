import pytest
import torch

from recsys.layers.depth_gate import DepthGate
from recsys.layers.initialization import initialize


@pytest.mark.parametrize("depths", [2, 5])
def test_it_starts_as_the_mean(depths):
    gate = DepthGate(3, depths)
    layer = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gate(layer), layer / depths)
    with torch.no_grad():
        gate.weight.fill_(2)
        gate.bias.fill_(1)
    initialize(gate)
    torch.testing.assert_close(gate(layer), layer / depths)


def test_shares_by_hand():
    gate = DepthGate(2, 2)
    with torch.no_grad():
        gate.weight.copy_(torch.tensor([1.0, -1.0]))
        gate.bias.fill_(0.5)
    layer = torch.tensor([[2.0, 1.0], [0.0, 0.5]])  # 1.5 and 0
    torch.testing.assert_close(gate.shares(layer), torch.tensor([0.8175744761936437, 0.5]))
    torch.testing.assert_close(gate(layer)[1], torch.tensor([0.0, 0.25]))


def test_one_depth_is_no_choice():
    with pytest.raises(ValueError, match="two depths or more, got 1"):
        DepthGate(2, 1)


def test_a_uniform_start_is_within_its_limits_and_depends_on_the_seed():
    gate = DepthGate(400, 3, start="uniform")
    found = []
    for seed in (1, 1, 2):
        initialize(gate, torch.Generator().manual_seed(seed))
        found.append(gate.weight.detach().clone())
        assert gate.weight.abs().max() <= 1 / 20 and gate.bias.abs() <= 1 / 20
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert found[0].std() == pytest.approx(1 / 20 / 3**0.5, rel=0.1)
