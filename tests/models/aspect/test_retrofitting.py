"""Retrofitting against its equations."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recsys.errors import ConfigError
from recsys.graph.aspect_batches import AspectBatch
from recsys.graph.text_features import TextOptions
from recsys.models.aspect.retrofitting import Retrofitting
from recsys.testing.aspects import AspectModelConformance, tiny_aspects

TEXT = TextOptions(num_buckets=300, axes=4, trained=False)


class TestSuite(AspectModelConformance):
    model = Retrofitting
    config = Retrofitting.Config(text=TEXT, hidden_units=(8,))


def made():
    model = Retrofitting(Retrofitting.Config(text=TEXT, hidden_units=(), stay=0.3), tiny_aspects())
    model.reset_parameters(2)
    return model


def test_untrained_it_is_the_generic_vector():
    model = made()
    items = torch.arange(48)
    fixed = model.fixed(model.features(items))
    assert torch.equal(model.encode(model.features(items), 1), fixed)
    assert fixed.shape == (48, 4 + 7)
    torch.testing.assert_close(fixed[0].square().sum(), torch.tensor(2.0))


def test_vectors_and_loss_are_those_of_the_equations():
    model = made()
    with torch.no_grad():
        model.scales.copy_(torch.tensor([0.0, 0.7]))
    items = torch.tensor([1, 6, 4, 8])
    x = model.fixed(model.features(items))
    weight = next(iter(model.maps[1].parameters()))
    f = x + 0.7 * functional.linear(x, weight)
    torch.testing.assert_close(model.encode(model.features(items), 1), f)

    def g(a, b):
        return 1 - functional.cosine_similarity(a, b, dim=0)

    alike = torch.tensor([[True, False], [True, True]])
    # the one pair that is not alike: the first anchor and the second positive
    wanted = (g(f[0], f[2]) ** 2 + g(f[1], f[3]) ** 2) / 2
    wanted = wanted + (g(f[0], f[3]) - g(x[0], x[3])) ** 2
    wanted = wanted + 0.3 * torch.stack([g(a, b) for a, b in zip(x, f)]).mean()
    batch = AspectBatch(1, items[:2], items[2:], alike)
    torch.testing.assert_close(model.loss(batch), wanted)


def test_it_needs_fixed_vectors_alone():
    with pytest.raises(ConfigError, match="moves vectors that are given"):
        Retrofitting(Retrofitting.Config(text=TextOptions()), tiny_aspects())
