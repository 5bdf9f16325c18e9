"""The linear-time form equals the double sum."""

import hypothesis
import numpy as np
import torch
from hypothesis import strategies as st

from recsys.layers.interaction.factorization_machine import FactorizationMachine


@hypothesis.given(st.integers(0, 2**31), st.integers(0, 6), st.integers(1, 5))
@hypothesis.settings(max_examples=30, deadline=None)
def test_equals_the_sum_over_pairs(seed, num_fields, dim):
    fields = np.random.default_rng(seed).standard_normal((3, num_fields, dim))
    pairs = np.zeros((3, 1))
    for i in range(num_fields):
        for j in range(i + 1, num_fields):
            pairs[:, 0] += (fields[:, i] * fields[:, j]).sum(axis=1)
    got = FactorizationMachine()(torch.from_numpy(fields))
    np.testing.assert_allclose(got.numpy(), pairs, atol=1e-10)


def test_gradient_of_a_field_is_the_sum_of_the_others():
    fields = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]], requires_grad=True)
    FactorizationMachine()(fields).sum().backward()
    assert fields.grad is not None
    assert fields.grad.tolist() == [[[8.0, 10.0], [6.0, 8.0], [4.0, 6.0]]]


def test_gradients_against_finite_differences():
    fields = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(FactorizationMachine(), (fields,))
