import math
from functools import partial

import pytest
import torch

from recsys.losses.distillation import list_distillation, logit_distillation


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orders(towers, teacher):
    """Mean correlation of ranks (Spearman) of the lists."""
    ranks = [x.detach().argsort(1).argsort(1).double() for x in (towers[0] @ towers[1].T, teacher)]
    one, two = (rank - rank.mean(1, keepdim=True) for rank in ranks)
    return float(((one * two).sum(1) / one.square().sum(1)).mean())


def test_logits_row_by_row():
    student, teacher, weights = normal(5, 3), normal(5, 3, seed=1), normal(5, seed=2).abs()
    rows = [sum((a - b) ** 2 for a, b in zip(*pair)) for pair in zip(student.tolist(),
                                                                     teacher.tolist())]  # fmt: skip
    assert float(logit_distillation(student, teacher)) == pytest.approx(sum(rows) / 5)
    wanted = sum(w * r for w, r in zip(weights.tolist(), rows)) / float(weights.sum())
    assert float(logit_distillation(student, teacher, weights)) == pytest.approx(wanted)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_lists_row_by_row(temperature):
    student, teacher = normal(4, 6), 3 * normal(4, 6, seed=1)
    known = normal(4, 6, seed=2) > -0.5
    known[2] = False
    total, lists = 0.0, 0
    for row in range(4):
        columns = [c for c in range(6) if known[row, c]]
        if columns:
            t = [math.exp(float(teacher[row, c]) / temperature) for c in columns]
            s = [math.exp(float(student[row, c]) / temperature) for c in columns]
            total += sum(a / sum(t) * math.log((a / sum(t)) / (b / sum(s))) for a, b in zip(t, s))
            lists += 1
    found = list_distillation(student, teacher, temperature=temperature, known=known)
    assert lists == 3
    assert float(found) == pytest.approx(temperature**2 * total / lists)


def test_the_teacher_is_a_constant_and_nothing_known_is_no_loss():
    student, teacher = normal(3, 4).requires_grad_(), normal(3, 4, seed=1).requires_grad_()
    (list_distillation(student, teacher) + logit_distillation(student, teacher)).backward()
    assert teacher.grad is None and bool(student.grad.any())
    student.grad = None
    none = list_distillation(student, teacher, known=torch.zeros(3, 4, dtype=torch.bool))
    none.backward()
    assert float(none) == 0.0 and not student.grad.any()


@pytest.mark.parametrize("loss", [partial(list_distillation, temperature=5.0), logit_distillation])
def test_towers_learn_the_order_of_a_ranker(loss):
    """What a ranker says of hidden factors is learned by free towers of the same rank."""
    users, items = normal(20, 3), normal(30, 3, seed=1)
    teacher = 2 * users @ items.T + 1.0
    towers = [normal(20, 4, seed=2).mul_(0.1), normal(30, 4, seed=3).mul_(0.1)]
    for tower in towers:
        tower.requires_grad_()
    optimizer = torch.optim.Adam(towers, lr=0.05)
    before = orders(towers, teacher)
    for _ in range(200):
        optimizer.zero_grad()
        loss(towers[0] @ towers[1].T, teacher).backward()
        optimizer.step()
    assert before < 0.5 and orders(towers, teacher) > 0.95


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: logit_distillation(normal(3), normal(4)), "of one shape"),
        (lambda: logit_distillation(normal(3), normal(3), normal(2)), "a weight for each of 3"),
        (lambda: logit_distillation(normal(3), normal(3), torch.zeros(3)), "above 0 in sum"),
        (lambda: list_distillation(normal(3), normal(3)), r"one shape \(B, C\)"),
        (lambda: list_distillation(normal(3, 2), normal(3, 2), temperature=0.0), "`temperature`"),
        (
            lambda: list_distillation(normal(3, 2), normal(3, 2), known=torch.ones(3) > 0),
            r"known \(B, C\)",
        ),
    ],
)
def test_bad_input_is_named(call, text):
    with pytest.raises(ValueError, match=text):
        call()
