"""The contrast of clicks: by hand, against other losses, weights as repetition, gradients."""

import math

import pytest
import torch

from recsys.losses.clicked_softmax import clicked_softmax
from recsys.losses.in_batch import in_batch
from recsys.losses.sampled_softmax import sampled_softmax


def rows(size: int, seed: int = 0):
    random = torch.Generator().manual_seed(seed)
    users, items = (
        torch.randn(size, 4, generator=random, dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    )
    labels = (torch.rand(size, generator=random) < 0.6).double()
    ids = torch.randint(0, 5, (size,), generator=random)
    return users, items, labels, ids


def naive(users, items, labels, ids, weights, log_q, temperature) -> float:
    """The formula of the docstring, term by term."""
    mass = float((labels * weights).sum())
    total = 0.0
    for i in range(len(users)):
        if labels[i] != 1 or weights[i] == 0:
            continue
        own = float(users[i] @ items[i]) / temperature
        sums = math.exp(own)
        for j in range(len(users)):
            if labels[j] == 1 and ids[j] != ids[i]:
                score = float(users[i] @ items[j]) / temperature - float(log_q[j])
                sums += float(weights[j]) * math.exp(score) / mass
        total += float(weights[i]) * (math.log(sums) - own)
    return total / mass


def test_by_hand():
    """Two clicks, scores 1 and 0, shares 1/2 and 1/4: N q is 1 and 1/2."""
    users, items = torch.tensor([[1.0, 0.0]] * 3), torch.eye(3)[:, :2]
    labels, ids = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([4, 5, 6])
    log_q = torch.tensor([0.5, 0.25, 0.1]).log()
    found = clicked_softmax(users, items, labels, ids, log_q=log_q, temperature=1.0)
    first = -math.log(math.e / (math.e + 2.0))
    second = -math.log(1.0 / (1.0 + math.e))
    assert found.item() == pytest.approx((first + second) / 2)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_equals_in_batch_on_the_clicks(temperature):
    users, items, labels, ids = rows(30)
    found = clicked_softmax(users, items, labels, ids, temperature=temperature)
    kept = labels == 1
    expected = in_batch(
        users[kept], items[kept], ids=ids[kept], normalize=False, temperature=temperature
    )
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad(found, (users, items))
    theirs = torch.autograd.grad(expected, (users, items))
    torch.testing.assert_close(ours, theirs)
    assert not ours[0][labels == 0].any() and not ours[1][labels == 0].any()


def test_equals_sampled_softmax_with_the_correction():
    users, items, labels, ids = rows(30)
    log_q = torch.rand(30, dtype=torch.float64).log()
    found = clicked_softmax(users, items, labels, ids, log_q=log_q, temperature=0.3)
    kept = labels == 1
    scores = users[kept] @ items[kept].T
    expected = sampled_softmax(
        scores.diagonal(), scores, log_q=log_q[kept] + math.log(int(kept.sum())),
        hidden=ids[kept][:, None] == ids[kept], temperature=0.3,
    )  # fmt: skip
    torch.testing.assert_close(found, expected)


def test_with_the_correction_it_estimates_the_softmax_over_all_items():
    """One user, 6 items with shares from 1/2 to 1/32; many batches of 64 clicks on average."""
    share = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.03125, 0.03125], dtype=torch.float64)
    user, table = torch.tensor([[1.0, -1.0]]).double(), torch.randn(
        6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )  # fmt: skip
    random = torch.Generator().manual_seed(0)
    found = []
    for _ in range(400):
        ids = torch.multinomial(share, 64, replacement=True, generator=random)
        found.append(clicked_softmax(
            user.expand(64, 2), table[ids], torch.ones(64), ids, log_q=share.log()[ids],
            temperature=1.0,
        ))  # fmt: skip
    exact = -(share * (user @ table.T)[0].log_softmax(0)).sum()
    assert torch.stack(found).mean().item() == pytest.approx(exact.item(), abs=0.04)


def test_a_weight_counts_like_repetition():
    users, items, labels, ids = rows(12, seed=1)
    weights = torch.tensor([1.0, 3.0, 0.0, 2.0] * 3, dtype=torch.float64)
    log_q = torch.rand(12, dtype=torch.float64).log()
    found = clicked_softmax(users, items, labels, ids, weights=weights, log_q=log_q)
    order = torch.arange(12).repeat_interleave(weights.long())
    repeated = clicked_softmax(
        users[order], items[order], labels[order], ids[order], log_q=log_q[order]
    )
    torch.testing.assert_close(found, repeated)
    expected = naive(users, items, labels, ids, weights, log_q, 0.05)
    assert found.item() == pytest.approx(expected)
    grads = torch.autograd.grad(found, (users, items))
    assert all(grad.isfinite().all() for grad in grads) and not grads[0][weights == 0].any()


def test_gradient():
    users, items, labels, ids = rows(8, seed=2)
    weights = torch.rand(8, dtype=torch.float64)

    def loss(users, items):
        return clicked_softmax(users, items, labels, ids, weights=weights, temperature=0.7)

    assert torch.autograd.gradcheck(loss, (users, items))


def test_nothing_to_tell_apart():
    """No click, one click, or one item only: 0, with gradients of 0."""
    users, items, _, ids = rows(4)
    for labels, same in (([0.0] * 4, ids), ([0, 1.0, 0, 0], ids), ([1.0] * 4, ids * 0)):
        loss = clicked_softmax(users, items, torch.tensor(labels).double(), same)
        assert loss.item() == pytest.approx(0.0, abs=1e-12)
        grads = torch.autograd.grad(loss, (users, items))
        assert max(grad.abs().max().item() for grad in grads) < 1e-12


def test_bad_arguments_are_refused():
    users, items, labels, ids = rows(4)
    with pytest.raises(ValueError, match=r"users and items \(B, D\) of one shape, got \(4, 4\)"):
        clicked_softmax(users, items[:3], labels, ids)
    with pytest.raises(ValueError, match=r"`log_q`: expected \(4,\), got \(1,\)"):
        clicked_softmax(users, items, labels, ids, log_q=torch.zeros(1))
    with pytest.raises(ValueError, match=r"`temperature`: expected a number above 0, got 0"):
        clicked_softmax(users, items, labels, ids, temperature=0.0)
