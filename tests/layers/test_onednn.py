"""Stacks trained in oneDNN: values and gradients are those of plain torch."""

import pytest
import torch
from torch.fx import symbolic_trace

from recsys.layers import onednn
from recsys.layers.factored import Factored
from recsys.layers.mlp import MLP, MLPConfig

available = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="oneDNN is used on AVX-512 only",
)


@pytest.fixture
def any_size(monkeypatch):
    monkeypatch.setattr(onednn, "MIN_PRODUCTS", 0)


def both(layer, make_input):
    """Outputs and all gradients, in plain torch and in oneDNN."""
    results = []
    for enabled in (False, True):
        layer.zero_grad()
        inputs, leaves = make_input()
        with pytest.MonkeyPatch.context() as patch:
            if not enabled:
                patch.setattr(onednn, "MIN_PRODUCTS", 1 << 60)
            out = layer(inputs)
            weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
            (out * weights).sum().backward()
        assert out.layout == torch.strided
        used = "ToDense" in str(_nodes(out.grad_fn))
        grads = [leaf.grad for leaf in [*leaves, *layer.parameters()]]
        results.append((used, [out.detach(), *[g if g is None else g.clone() for g in grads]]))
    return results


def _nodes(node):
    found, todo = [], [node]
    while todo:
        node = todo.pop()
        found.append(type(node).__name__)
        todo += [parent for parent, _ in node.next_functions if parent is not None]
    return found


def assert_same(plain, blocked, expect_used=True, tolerance=1e-6):
    assert plain[0] is False and blocked[0] is expect_used
    for expected, got in zip(plain[1], blocked[1], strict=True):
        if expected is None:
            assert got is None
            continue
        assert got.layout == torch.strided
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(got / scale, expected / scale, rtol=tolerance, atol=tolerance)


def dense_input(rows, width, needs=True):
    def make():
        x = torch.randn(rows, width, generator=torch.Generator().manual_seed(1))
        x.requires_grad_(needs)
        return x, [x]

    return make


@available
@pytest.mark.parametrize("rows", [1, 2, 37])
@pytest.mark.parametrize("hidden", [(5,), (7, 16, 3)])
@pytest.mark.parametrize("out", [None, 1, 4])
@pytest.mark.parametrize("needs", [True, False])
def test_values_and_gradients(any_size, rows, hidden, out, needs):
    torch.manual_seed(0)
    layer = MLP(6, MLPConfig(hidden_units=hidden), out_features=out)
    assert_same(*both(layer, dense_input(rows, 6, needs)))


@available
def test_without_bias_and_with_a_frozen_layer(any_size):
    torch.manual_seed(0)
    layer = MLP(6, MLPConfig(hidden_units=(5, 4, 3)), out_features=2)
    layer.layers[0].register_parameter("bias", None)
    layer.layers[2].register_parameter("bias", None)
    layer.layers[2].weight.requires_grad_(False)
    layer.layers[4].bias.requires_grad_(False)
    assert_same(*both(layer, dense_input(9, 6)))


@available
@pytest.mark.parametrize("hidden", [(5,), (7, 4)])
def test_factored_input(any_size, hidden):
    torch.manual_seed(0)
    layer = MLP(4 + 3 * 2 + 1, MLPConfig(hidden_units=hidden), out_features=1)
    values = torch.randn(8, 4), torch.randn(8, 3), torch.randn(3, 2), torch.randn(8, 1)

    def make():
        head, numbers, vectors, tail = leaves = [v.clone().requires_grad_() for v in values]
        return Factored(head, numbers, vectors, tail), leaves

    assert_same(*both(layer, make))


@available
@pytest.mark.parametrize(
    "config",
    [
        MLPConfig(hidden_units=()),
        MLPConfig(hidden_units=(5,), activation="tanh"),
        MLPConfig(hidden_units=(5,), batch_norm=True),
        MLPConfig(hidden_units=(5,), dropout=1e-9),
    ],
    ids=lambda config: repr(config)[:60],
)
def test_other_stacks_stay_plain(any_size, config):
    layer = MLP(6, config, out_features=1)
    assert_same(*both(layer, dense_input(4, 6)), expect_used=False)


@available
def test_only_large_work():
    layer = MLP(256, MLPConfig(hidden_units=(512,)))
    assert onednn.fits(torch.zeros(1024, 256), layer.layers)
    assert not onednn.fits(torch.zeros(1023, 256), layer.layers)
    # Bias gradients sum 1,024 rows of both signs, each library in its own order.
    assert_same(*both(layer, dense_input(1024, 256)), tolerance=1e-5)


def test_not_where_nothing_is_recorded_or_types_differ(any_size):
    layer, x = MLP(6, MLPConfig(hidden_units=(5,))), torch.zeros(2, 6)
    with torch.no_grad():
        assert not onednn.fits(x, layer.layers)
    with torch.autocast("cpu", torch.bfloat16):
        assert not onednn.fits(x, layer.layers)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not onednn.fits(x, layer.layers)
    assert not onednn.fits(x[:0], layer.layers)
    assert not onednn.fits(x.to("meta"), layer.layers)
    assert not onednn.fits(x.double(), layer.double().layers)


def test_tracing_and_export_see_plain_layers(any_size):
    layer, x = MLP(6, MLPConfig(hidden_units=(5,)), out_features=1), torch.randn(3, 6)
    with torch.no_grad():
        expected = layer(x)
    traced = symbolic_trace(layer)
    assert "mkldnn" not in traced.code
    torch.testing.assert_close(traced(x), expected)
    program = torch.export.export(layer, (x,))
    assert "mkldnn" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), expected)
