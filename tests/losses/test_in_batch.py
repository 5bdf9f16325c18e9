"""The in-batch contrast against its definition, row by row."""

import math

import pytest
import torch
from torch.nn import functional

from recsys.losses.in_batch import Guide, in_batch

B, D = 6, 5


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wanted(queries, keys, *, hide=lambda kind, i, j: False, log_q=None, everything=False, t=0.5):
    """``hide(kind, i, j)`` with kind of the pair: qk, qq or kk."""
    queries, keys = functional.normalize(queries, dim=1), functional.normalize(keys, dim=1)
    total = 0.0
    for i in range(len(keys)):
        own = float(queries[i] @ keys[i]) / t - (0 if log_q is None else float(log_q[i]))
        terms = [own]
        for j in range(len(keys)):
            if j == i:
                continue
            if not hide("qk", i, j):
                score = float(queries[i] @ keys[j]) / t
                terms.append(score - (0 if log_q is None else float(log_q[j])))
            if everything and not hide("qq", i, j):
                terms.append(float(queries[i] @ queries[j]) / t)
            if everything and not hide("kk", i, j):
                terms.append(float(keys[i] @ keys[j]) / t)
        total += math.log(sum(map(math.exp, terms))) - own
    return total / len(keys)


QUERIES, KEYS = normal(B, D), normal(B, D, seed=1)
IDS, QUERY_IDS = torch.tensor([3, 4, 3, 5, 6, 4]), torch.tensor([1, 1, 2, 3, 4, 5])


def test_plain():
    assert float(in_batch(QUERIES, KEYS, temperature=0.5)) == pytest.approx(wanted(QUERIES, KEYS))


@pytest.mark.parametrize("everything", [False, True])
def test_the_same_thing_is_no_negative(everything):
    def hide(kind, i, j):
        ids = QUERY_IDS if kind == "qq" else IDS
        return bool(ids[i] == ids[j])

    found = in_batch(QUERIES, KEYS, ids=IDS, query_ids=QUERY_IDS, temperature=0.5,
                     negatives="all" if everything else "keys")  # fmt: skip
    assert float(found) == pytest.approx(wanted(QUERIES, KEYS, hide=hide, everything=everything))


def test_known_pairs_and_the_correction():
    known = normal(B, B, seed=2) > 0.5
    log_q = normal(B, seed=3).abs().neg()
    found = in_batch(QUERIES, KEYS, known=known, log_q=log_q, temperature=0.5)

    def hide(kind, i, j):
        return bool(known[i, j])

    assert float(found) == pytest.approx(wanted(QUERIES, KEYS, hide=hide, log_q=log_q))


def test_by_hand_with_a_correction():
    """Row 0 chooses among its own key of weight 2 and another of weight 4; row 1 likewise."""
    log_q = torch.tensor([0.5, 0.25], dtype=torch.float64).log()
    nothing = torch.zeros(2, 3, dtype=torch.float64)
    found = in_batch(nothing, nothing, ids=torch.tensor([3, 4]), log_q=log_q, normalize=False)
    assert float(found) == pytest.approx((math.log(6 / 2) + math.log(6 / 4)) / 2)


@pytest.mark.parametrize("log_q", [None, normal(B, seed=3).abs().neg()])
@pytest.mark.parametrize("correct_own", [True, False])
@pytest.mark.parametrize("everything", [False, True])
def test_a_weight_counts_like_repetition(everything, correct_own, log_q):
    """Also behind a guide, and for queries that look for queries."""
    weights = torch.tensor([1.0, 3.0, 1.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    order = torch.arange(B).repeat_interleave(weights.long())
    ids, query_ids = torch.tensor([3, 4, 3, 5, 6, 4]), torch.arange(B)

    def loss(rows, weights):
        return in_batch(
            QUERIES[rows], KEYS[rows], ids=ids[rows], query_ids=query_ids[rows],
            log_q=None if log_q is None else log_q[rows], correct_own=correct_own,
            weights=weights, negatives="all" if everything else "keys", symmetric=True,
            guide=Guide(QUERIES[rows], KEYS[rows], 0.1) if everything else None,
            temperature=0.5,
        )  # fmt: skip

    whole = torch.arange(B)
    torch.testing.assert_close(loss(whole, weights), loss(order, None))
    assert abs(float(loss(whole, weights) - loss(whole, None))) > 0.01


def test_an_own_key_that_is_not_corrected():
    """Shares 1/2 and 1/4 of 2 rows: the other key counts 1 / (N q), the own one 1."""
    log_q = torch.tensor([0.5, 0.25], dtype=torch.float64).log()
    nothing = torch.zeros(2, 3, dtype=torch.float64)
    found = in_batch(nothing, nothing, log_q=log_q, correct_own=False, normalize=False)
    assert float(found) == pytest.approx((math.log(1 + 2) + math.log(1 + 1)) / 2)


def test_vectors_near_zero_have_no_exploding_gradient():
    queries = torch.tensor([[0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    in_batch(queries, torch.eye(2), temperature=1.0).backward()
    assert queries.grad is not None and queries.grad.abs().max() < 1e4


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("items", [(2, 3), (2, 3, 4)])
def test_the_best_corrected_scores_are_those_of_the_full_softmax(items, everything):
    """All batches of 3, weighted by how likely they are: no gradient where s = log p."""
    ids = torch.cartesian_prod(*[torch.tensor(items)] * 3)
    share = torch.tensor([0.0, 0.0, 0.7, 0.2, 0.1], dtype=torch.float64)
    share = share / share[list(items)].sum()
    guide = Guide(torch.eye(3), torch.eye(3)) if everything else None  # it hides nothing
    for shift, right in ((0.0, True), (1.0, False)):
        table = share.clamp(min=1e-3).log() + torch.tensor([0, 0, shift, 0, 0])
        table.requires_grad_()
        loss = torch.stack([
            share[batch].prod() * in_batch(
                torch.ones(3, 1, dtype=torch.float64), table[batch, None], ids=batch, guide=guide,
                log_q=share.log()[batch], normalize=False, temperature=1.0,
            )
            for batch in ids
        ]).sum()  # fmt: skip
        (gradient,) = torch.autograd.grad(loss, table)
        assert (float(gradient.abs().max()) < 1e-12) == right


def test_large_scores_are_finite():
    keys = torch.tensor([[3e4, 0.0], [-3e4, 0.0]], requires_grad=True)
    queries = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    loss = in_batch(queries, keys, ids=torch.tensor([0, 1]), normalize=False, temperature=0.1)
    loss.backward()
    assert loss.item() == pytest.approx(3e5)
    assert keys.grad is not None and keys.grad.isfinite().all()


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_the_guide_hides_what_is_as_near_as_the_own_key(margin, relative):
    teacher = Guide(normal(B, 3, seed=4), normal(B, 3, seed=5), margin, relative)
    one = functional.normalize(teacher.queries, dim=1)
    two = functional.normalize(teacher.keys, dim=1)

    def hide(kind, i, j):
        left = two[i] if kind == "kk" else one[i]
        right = one[j] if kind == "qq" else two[j]
        own = float(one[i] @ two[i])
        return float(left @ right) > own - (abs(own) * margin if relative else margin)

    assert any(hide("qk", i, j) for i in range(B) for j in range(B) if i != j), "some are hidden"
    found = in_batch(QUERIES, KEYS, guide=teacher, negatives="all", temperature=0.5)
    assert float(found) == pytest.approx(wanted(QUERIES, KEYS, hide=hide, everything=True))


def test_both_ways():
    known = normal(B, B, seed=2) > 0.5
    teacher = Guide(normal(B, 3, seed=4), normal(B, 3, seed=5))
    options = {"guide": teacher, "temperature": 0.5}
    found = in_batch(QUERIES, KEYS, ids=IDS, query_ids=QUERY_IDS, known=known, symmetric=True,
                     **options)  # fmt: skip
    options["guide"] = Guide(teacher.keys, teacher.queries)
    back = in_batch(KEYS, QUERIES, ids=QUERY_IDS, known=known.T, **options)
    options["guide"] = teacher
    there = in_batch(QUERIES, KEYS, ids=IDS, known=known, **options)
    torch.testing.assert_close(found, (there + back) / 2)


def test_every_prefix_is_a_vector_of_its_own():
    found = in_batch(QUERIES, KEYS, ids=IDS, prefixes=(2, 3, D), temperature=0.5)
    parts = [in_batch(QUERIES[:, :n], KEYS[:, :n], ids=IDS, temperature=0.5) for n in (2, 3, D)]
    torch.testing.assert_close(found, torch.stack(parts).mean())


@pytest.mark.parametrize("prefixes", [(), (2, 3), (3, 2, D), (0, D), (2, 2, D)])
def test_prefixes_rise_to_the_full_width(prefixes):
    with pytest.raises(ValueError, match="widths that rise to 5, the full width"):
        in_batch(QUERIES, KEYS, prefixes=prefixes)


@pytest.mark.parametrize("negatives", ["keys", "all"])
def test_gradients(negatives):
    def loss(queries, keys):
        return in_batch(queries, keys, ids=IDS, negatives=negatives, prefixes=(2, D),
                        symmetric=True, query_ids=QUERY_IDS, temperature=0.5)  # fmt: skip

    inputs = QUERIES.clone().requires_grad_(), KEYS.clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs)


def test_a_batch_of_one_thing_has_nothing_to_tell_apart():
    same = torch.zeros(B, dtype=torch.int64)
    assert float(in_batch(QUERIES, KEYS, ids=same)) == pytest.approx(0, abs=1e-12)


def test_inner_products_have_lengths():
    found = in_batch(2 * QUERIES, KEYS, ids=torch.arange(B), normalize=False, temperature=2.0)
    scores = QUERIES @ KEYS.T
    torch.testing.assert_close(found, (scores.logsumexp(1) - scores.diagonal()).mean())


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match=r"one shape, got \(6, 5\) and \(6, 4\)"):
        in_batch(QUERIES, KEYS[:, :4])
    with pytest.raises(ValueError, match="above 0, got 0"):
        in_batch(QUERIES, KEYS, temperature=0)
