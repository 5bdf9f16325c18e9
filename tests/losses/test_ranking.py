"""Losses of pairs that a model chooses from, against their definitions on a batch by hand."""

import math

import pytest
import torch
from pydantic import TypeAdapter
from torch.nn import functional

from recsys.errors import ConfigError
from recsys.losses.bpr import bpr
from recsys.losses.direct_au import direct_au
from recsys.losses.ranking import (
    BPRLoss,
    CosineContrastiveLoss,
    DirectAULoss,
    RankingLoss,
    SoftmaxLoss,
    batch_scores,
)
from recsys.types import PairBatch

NUM_ITEMS = 6
USER, ITEM = torch.tensor([0, 1, 0, 2]), torch.tensor([3, 4, 5, 3])
KNOWN = torch.tensor([[0, 0, 0, 1, 2, 2, 2, 3, 3], [0, 2, 3, 1, 0, 2, 3, 0, 3]])
"""Pair and column of in-batch negatives: user 0 knows items 3 and 5, user 1 knows 4, user 2 3."""


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


USERS, ITEMS = normal(3, 2), normal(NUM_ITEMS, 2, seed=1)


def in_batch(known=KNOWN, log_q=None):
    batch = PairBatch(USER, ITEM, ITEM, log_q, known)
    return (USERS[USER], ITEMS[ITEM], ITEMS[ITEM]), batch


def one_softmax(chosen, others, temperature):
    """-ln of the share of the chosen: scores with the logarithm of their weight, as pairs."""
    terms = [math.exp(score / temperature + bias) for score, bias in [chosen, *others]]
    return -math.log(terms[0] / sum(terms))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("known", [KNOWN, None])
def test_softmax_in_the_batch(known, weight, symmetric):
    log_q = torch.tensor([0.1, 0.1, 0.1, 0.4, 0.1, 0.2], dtype=torch.float64).log()
    seen = {0: {3, 5}, 1: {4}, 2: {3}}
    one, two = functional.normalize(USERS, dim=1), functional.normalize(ITEMS, dim=1)
    there, back = 0.0, 0.0
    for user, item in zip(USER.tolist(), ITEM.tolist()):
        hidden = seen[user] if known is not None else {item}
        others = [
            (float(one[user] @ two[other]), -weight * float(log_q[other]))
            for other in ITEM.tolist()
            if other not in hidden
        ]
        copies = math.log(ITEM.tolist().count(item))
        own = (float(one[user] @ two[item]), weight * (copies - float(log_q[item])))
        there += one_softmax(own, others, 0.5) / 4
        others = [
            (float(one[other] @ two[item]), 0.0)
            for other in USER.tolist()
            if (item not in seen[other] if known is not None else other != user)
        ]
        back += one_softmax((own[0], 0.0), others, 0.5) / 4
    loss = SoftmaxLoss(temperature=0.5, log_q_weight=weight, symmetric=symmetric)
    found = loss(*in_batch(known, log_q), NUM_ITEMS)
    assert float(found) == pytest.approx((there + back) / 2 if symmetric else there)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("popular", [False, True])
def test_softmax_of_drawn_negatives_tends_to_that_of_all_items(shared, popular):
    """Every item is drawn once of the 6 (or 5) times: what is as likely as that needs no weight."""
    share = torch.tensor([2, 1, 1, 1, 0.5, 0.5] if popular else [1.0] * 6, dtype=torch.float64) / 6
    negatives = torch.arange(NUM_ITEMS)
    apart = torch.stack([negatives[negatives != item] for item in ITEM])
    batch = PairBatch(USER, ITEM, negatives if shared else apart, share.log() if popular else None)
    loss = SoftmaxLoss(temperature=0.7, normalize=False, log_q_weight=1.0)
    found = loss((USERS[USER], ITEMS[ITEM], ITEMS[batch.negatives]), batch, NUM_ITEMS)
    scores, count, wanted = USERS @ ITEMS.T, 6 if shared else 5, 0.0
    for user, item in zip(USER.tolist(), ITEM.tolist()):
        others = [
            (float(scores[user, other]), -math.log(count * float(share[other])))
            for other in range(NUM_ITEMS)
            if other != item
        ]
        wanted += one_softmax((float(scores[user, item]), 0.0), others, 0.7) / 4
    assert float(found) == pytest.approx(wanted)


def test_known_shared_negatives_do_not_count():
    batch = PairBatch(USER, ITEM, torch.tensor([0, 3]), None, torch.tensor([[0, 2, 3], [1, 1, 1]]))
    vectors = USERS[USER], ITEMS[ITEM], ITEMS[torch.tensor([0, 3])]
    loss = SoftmaxLoss(temperature=1.0, normalize=False)
    scores = USERS @ ITEMS.T
    wanted = 0.0
    for user, item in zip(USER.tolist(), ITEM.tolist()):
        others = [0] if user != 1 else [0, 3]
        wanted += one_softmax(
            (float(scores[user, item]), 0.0), [(float(scores[user, o]), 0.0) for o in others], 1.0
        )
    assert float(loss(vectors, batch, NUM_ITEMS)) == pytest.approx(wanted / 4)


def test_rounded_products_are_near():
    exact = SoftmaxLoss()(*in_batch(), NUM_ITEMS)
    rounded = SoftmaxLoss(dtype="bf16")(*in_batch(), NUM_ITEMS)
    assert float(rounded) != float(exact)
    assert float(rounded) == pytest.approx(float(exact), rel=0.02)


def test_symmetric_needs_negatives_of_the_batch():
    batch = PairBatch(USER, ITEM, torch.tensor([0, 1]))
    vectors = USERS[USER], ITEMS[ITEM], ITEMS[:2]
    with pytest.raises(ConfigError, match="symmetric: expected false, or negatives of the batch"):
        SoftmaxLoss(symmetric=True)(vectors, batch, NUM_ITEMS)


def test_the_other_losses_are_those_of_their_files():
    apart = torch.tensor([[0, 1], [2, 3], [0, 1], [4, 5]])
    batch = PairBatch(USER, ITEM, apart)
    vectors = USERS[USER], ITEMS[ITEM], ITEMS[apart]
    positive = (vectors[0] * vectors[1]).sum(1)
    negatives = torch.einsum("bd,bnd->bn", vectors[0], vectors[2])
    torch.testing.assert_close(batch_scores(vectors, batch), (positive, negatives))
    torch.testing.assert_close(BPRLoss()(vectors, batch, NUM_ITEMS), bpr(positive, negatives))
    found = DirectAULoss(gamma=0.3)(vectors, batch, NUM_ITEMS)
    torch.testing.assert_close(found, direct_au(vectors[0], vectors[1], 0.3))
    cosines = [functional.normalize(part, dim=-1) for part in vectors]
    near = (cosines[0] * cosines[1]).sum(1)
    far = torch.einsum("bd,bnd->bn", cosines[0], cosines[2])
    wanted = (1 - near + 2.0 * (far - 0.1).relu().mean(1)).mean()
    loss = CosineContrastiveLoss(margin=0.1, negative_weight=2.0)
    torch.testing.assert_close(loss(vectors, batch, NUM_ITEMS), wanted)


def test_yaml_chooses_by_kind():
    adapter = TypeAdapter(RankingLoss)
    found = adapter.validate_python({"kind": "softmax", "temperature": 0.2})
    assert found == SoftmaxLoss(temperature=0.2)
    assert adapter.validate_python({"kind": "direct_au"}) == DirectAULoss()
    with pytest.raises(ValueError, match="tau"):
        adapter.validate_python({"kind": "softmax", "tau": 0.2})
