"""Start values: laws, independence from global state, `meta`."""

import pytest
import torch
from torch import nn

from recsys.layers.initialization import initialize, normal_, xavier_normal_


def test_xavier_normal():
    tensor = torch.empty(400, 200)
    xavier_normal_(tensor, 100, 300)
    assert tensor.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    assert abs(tensor.mean().item()) < 1e-3


def test_generator_decides():
    first, second, third = (torch.empty(5) for _ in range(3))
    torch.manual_seed(1)
    normal_(first, 1.0, torch.Generator().manual_seed(7))
    torch.manual_seed(2)
    normal_(second, 1.0, torch.Generator().manual_seed(7))
    normal_(third, 1.0, torch.Generator().manual_seed(8))
    assert torch.equal(first, second) and not torch.equal(second, third)


def test_meta_is_left_alone():
    with torch.device("meta"):
        layer = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    initialize(layer)
    assert all(parameter.is_meta for parameter in layer.parameters())


def test_norm_layers_become_neutral():
    norm = nn.BatchNorm1d(2)
    norm.weight.data.fill_(3.0)
    norm.running_mean.fill_(2.0)
    initialize(nn.Sequential(norm))
    assert norm.weight.tolist() == [1.0, 1.0] and norm.running_mean.tolist() == [0.0, 0.0]
