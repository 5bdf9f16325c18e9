"""Noise: its length, its direction, what it depends on."""

import pytest
import torch

from recsys.errors import ConfigError
from recsys.graph import spmm
from recsys.graph.perturbation import drop_messages, perturb


def noise(x, eps, seed):
    return perturb(x, eps, torch.Generator().manual_seed(seed)) - x


def test_noise_has_one_length_and_the_signs_of_x():
    x = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    found = noise(x, 0.2, 1)
    torch.testing.assert_close(found.norm(dim=1), torch.full((500,), 0.2), atol=1e-5, rtol=1e-5)
    assert (found * x >= -1e-6).all()
    assert noise(torch.zeros(3, 4), 0.2, 1).eq(0).all()


def test_sizes_are_uniform_before_they_are_scaled():
    found = noise(torch.ones(200, 1000), 1.0, 5)
    u = found / found.max(1, keepdim=True).values  # the largest of 1000 is about 1
    assert (torch.histc(u, 4, 0, 1) / u.numel() - 0.25).abs().max() < 0.005
    found = noise(torch.ones(2000, 64), 1.0, 5)
    columns = (found - found.mean(0)) / found.std(0)
    assert (columns.T @ columns / 2000 - torch.eye(64)).abs().max() < 0.12
    assert (columns @ columns.T / 64 - torch.eye(2000)).abs().mean() < 0.11


def test_noise_depends_on_the_generator_alone():
    x = torch.ones(50, 8)
    assert torch.equal(noise(x, 0.1, 3), noise(x, 0.1, 3))
    assert not torch.equal(noise(x, 0.1, 3), noise(x, 0.1, 4))
    generator = torch.Generator().manual_seed(0)
    assert not torch.equal(perturb(x, 0.1, generator), perturb(x, 0.1, generator))


@pytest.mark.parametrize("dim", [1, 5, 16, 64, 100])
def test_torch_gives_the_same_without_the_kernel(dim, monkeypatch):
    x = torch.randn(40, dim)
    wanted = noise(x, 0.3, 2)
    monkeypatch.setattr(spmm, "library", lambda: None)
    torch.testing.assert_close(noise(x, 0.3, 2), wanted, atol=1e-6, rtol=1e-5)


def test_threads_do_not_change_a_bit():
    x, before, found = torch.randn(9000, 40), torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(noise(x, 0.1, 7))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_the_gradient_passes_unchanged():
    x = torch.randn(4, 3, requires_grad=True)
    weights = torch.randn(4, 3)
    (perturb(x, 0.5) * weights).sum().backward()
    assert torch.equal(x.grad, weights)


def test_dropped_messages():
    x = torch.ones(300, 100, requires_grad=True)
    found = drop_messages(x, 0.25, torch.Generator().manual_seed(0))
    assert found.unique().tolist() == [0, pytest.approx(4 / 3)]
    assert abs(found.mean().item() - 1) < 0.01
    found.sum().backward()
    assert torch.equal(x.grad, found)
    assert drop_messages(x, 0.0) is x
    weights = torch.rand(300, 100)
    (gradient,) = torch.autograd.grad((drop_messages(x, 0.25, seeded(0)) * weights).sum(), x)
    assert torch.equal(gradient, weights * found)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("p", [0.1, 0.9])
def test_what_is_dropped_is_independent(p):
    kept = (drop_messages(torch.ones(2000, 64), p, seeded(3)) > 0).float()
    assert abs(kept.mean().item() - (1 - p)) < 0.005
    columns = (kept - kept.mean(0)) / kept.std(0)
    assert (columns.T @ columns / 2000 - torch.eye(64)).abs().max() < 0.12
    other = (drop_messages(torch.ones(2000, 64), p, seeded(4)) > 0).float()
    both = (kept * other).mean().item()
    assert abs(both - (1 - p) ** 2) < 0.005


@pytest.mark.parametrize("dim", [1, 16, 100])
@pytest.mark.parametrize("p", [0.1, 0.5, 1 - 1e-9])
def test_torch_drops_the_same_without_the_kernel(p, dim, monkeypatch):
    x = torch.randn(40, dim, requires_grad=True)
    wanted = drop_messages(x, p, seeded(2))
    (gradient,) = torch.autograd.grad(wanted.square().sum(), x)
    monkeypatch.setattr(spmm, "library", lambda: None)
    found = drop_messages(x, p, seeded(2))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), x)[0], gradient)


def test_bad_sizes_are_named():
    with pytest.raises(ConfigError, match=r"0 or more, got -0.1"):
        perturb(torch.ones(2, 2), -0.1)
    with pytest.raises(ConfigError, match=r"below 1, got 1"):
        drop_messages(torch.ones(2, 2), 1)
