"""Sampled softmax against the full one, with corrections for the draw."""

import math

import pytest
import torch
from torch.nn import functional

from recsys.losses.sampled_softmax import sampled_softmax, shared_softmax


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_all_items_once_are_the_full_softmax():
    scores = normal(5, 7)
    target = torch.tensor([0, 3, 6, 2, 2])
    others = [[item for item in range(7) if item != int(t)] for t in target]
    negatives = scores.gather(1, torch.tensor(others))
    positive = scores[torch.arange(5), target]
    expected = functional.cross_entropy(scores / 0.5, target)
    found = sampled_softmax(positive, negatives, temperature=0.5)
    torch.testing.assert_close(found, expected)
    # The positive is among shared negatives, and hidden there.
    hidden = torch.arange(7) == target[:, None]
    found = sampled_softmax(positive, scores, hidden=hidden, temperature=0.5)
    torch.testing.assert_close(found, expected)


def test_by_hand_with_a_correction():
    """Two negatives that stand for four items each: 1 / (1 + 2 * 4)."""
    log_q = torch.full((2,), 0.25).log()
    found = sampled_softmax(torch.zeros(1), torch.zeros(1, 2), log_q=log_q)
    assert found.item() == pytest.approx(math.log(9))
    same = sampled_softmax(torch.zeros(1), torch.zeros(1, 2), log_q=log_q.expand(1, 2))
    assert same == found
    both = sampled_softmax(torch.zeros(1), torch.zeros(1, 2), log_q=log_q, positive_log_q=log_q[:1])
    assert both.item() == pytest.approx(math.log(3))


def test_the_correction_makes_the_sum_that_of_all_items():
    """By popularity with many draws it is nearly the full loss; without log q it is not."""
    scores = normal(1, 50)
    share = torch.softmax(normal(50, seed=1), 0)
    drawn = torch.multinomial(
        share, 40_000, replacement=True, generator=torch.Generator().manual_seed(2)
    )
    log_q = (40_000 * share[drawn]).log()
    positive = scores[:, 7]
    hidden = (drawn == 7)[None]
    full = functional.cross_entropy(scores, torch.tensor([7]))
    found = sampled_softmax(positive, scores[:, drawn], log_q=log_q, hidden=hidden)
    assert found.item() == pytest.approx(full.item(), abs=0.02)
    biased = sampled_softmax(positive, scores[:, drawn], hidden=hidden) - math.log(40_000 / 50)
    assert abs(biased.item() - full.item()) > 0.1


@pytest.mark.parametrize("with_bias", [False, True])
def test_shared_negatives_are_sampled_ones_that_nobody_holds(with_bias):
    queries, own, keys = normal(5, 3), normal(5, 3, seed=1), normal(4, 3, seed=2)
    bias = normal(4, seed=3) if with_bias else None
    own_bias = normal(5, seed=4) if with_bias else None
    hidden = torch.tensor([[4, 0, 4, 4], [1, 3, 0, 1]])
    mask = torch.zeros(5, 4, dtype=torch.bool)
    mask[hidden[0], hidden[1]] = True
    options = {"bias": bias, "own_bias": own_bias, "hidden": hidden, "temperature": 0.5}
    inputs = [part.clone().requires_grad_() for part in (queries, own, keys)]
    found = shared_softmax(*inputs, **options)
    wanted = sampled_softmax(
        (inputs[0] * inputs[1]).sum(1), inputs[0] @ inputs[2].T, hidden=mask, temperature=0.5,
        log_q=None if bias is None else -bias,
        positive_log_q=None if own_bias is None else -own_bias,
    )  # fmt: skip
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs), torch.autograd.grad(wanted, inputs)
    )


def test_a_row_without_negatives_costs_nothing():
    loss = sampled_softmax(torch.ones(1), torch.ones(1, 1), hidden=torch.tensor([[True]]))
    assert loss.item() == 0.0


def test_gradients():
    positive, negatives = normal(3).requires_grad_(), normal(3, 4).requires_grad_()
    hidden = torch.tensor([[True, False, False, False]] * 3)
    torch.autograd.gradcheck(
        lambda p, n: sampled_softmax(p, n, log_q=normal(4), hidden=hidden, temperature=0.3),
        (positive, negatives),
    )


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`log_q`: expected \(3,\) or \(2, 3\), got \(2,\)"):
        sampled_softmax(torch.zeros(2), torch.zeros(2, 3), log_q=torch.zeros(2))
    with pytest.raises(ValueError, match=r"`positive_log_q`: expected \(2,\), got \(3,\)"):
        sampled_softmax(torch.zeros(2), torch.zeros(2, 3), positive_log_q=torch.zeros(3))
    with pytest.raises(ValueError, match=r"negatives \(B, N\), got \(2,\) and \(3,\)"):
        sampled_softmax(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="`temperature`: expected a number above 0, got 0"):
        sampled_softmax(torch.zeros(2), torch.zeros(2, 1), temperature=0)
    rows = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"keys \(N, D\), got \(2, 3\), \(2, 3\) and \(2, 4\)"):
        shared_softmax(rows, rows, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"`bias`: expected \(4,\), got \(2,\)"):
        shared_softmax(rows, rows, torch.zeros(4, 3), bias=torch.zeros(2))
    with pytest.raises(ValueError, match=r"`own_bias`: expected \(2,\), got \(4,\)"):
        shared_softmax(rows, rows, torch.zeros(4, 3), own_bias=torch.zeros(4))
    with pytest.raises(ValueError, match="`temperature`: expected a number above 0, got -1"):
        shared_softmax(rows, rows, rows, temperature=-1)
