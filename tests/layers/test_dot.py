"""Pairwise dot products, on paper and against numpy."""

import numpy as np
import torch

from recsys.layers.interaction.dot import DotInteraction


def test_order_of_pairs():
    """Unit vectors times 2, 3, 5, 7 along one axis: products name their pair."""
    fields = torch.tensor([2.0, 3.0, 5.0, 7.0]).view(1, 4, 1)
    assert DotInteraction(4)(fields).tolist() == [[6.0, 10.0, 14.0, 15.0, 21.0, 35.0]]


def test_against_numpy():
    fields = np.random.default_rng(0).standard_normal((6, 5, 3))
    expected = [[v[i] @ v[j] for i in range(5) for j in range(i + 1, 5)] for v in fields]
    layer = DotInteraction(5)
    np.testing.assert_allclose(layer(torch.from_numpy(fields)).numpy(), expected, atol=1e-12)
    assert layer.out_features == 10


def test_one_field_has_no_pair():
    assert DotInteraction(1)(torch.ones(2, 1, 3)).shape == (2, 0)
