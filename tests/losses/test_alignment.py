import pytest
import torch
from torch.nn import functional

from recsys.losses.alignment import (
    below_threshold,
    content_to_id,
    f1_threshold,
    sequence_to_item,
)
from recsys.losses.in_batch import in_batch


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_content_goes_to_the_id_and_not_the_other_way_round():
    content, rows = normal(6, 4).requires_grad_(), normal(6, 4, seed=1).requires_grad_()
    ids = torch.tensor([1, 2, 1, 3, 4, 5])
    loss = content_to_id(content, rows, ids=ids, temperature=0.3, length_weight=0.7)
    lengths = rows.norm(dim=1)
    apart = ((content.norm(dim=1) - lengths) ** 2).mean() / (lengths**2).mean()
    plain = in_batch(content, rows, ids=ids, temperature=0.3)
    assert float(loss) == pytest.approx(float(plain + 0.7 * apart))
    loss.backward()
    assert rows.grad is None and bool(content.grad.any())


def test_a_cold_item_lands_beside_its_id():
    """Ids are a hidden map of the content; 10 items are never trained on."""
    features = normal(90, 8)
    rows = features @ normal(8, 5, seed=1) * (1 + normal(90, 1, seed=2).abs())
    weight = (0.01 * normal(8, 5, seed=3)).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=0.05)

    def cosines():
        return functional.cosine_similarity(features[80:] @ weight.detach(), rows[80:])

    before = float(cosines().mean())
    for _ in range(100):
        optimizer.zero_grad()
        content_to_id(features[:80] @ weight, rows[:80], length_weight=0.1).backward()
        optimizer.step()
    assert before < 0.5 and float(cosines().min()) > 0.8


def test_a_history_is_the_mean_of_directions():
    history, targets = normal(7, 4), normal(3, 4, seed=1)
    offsets = torch.tensor([0, 2, 3, 7])
    users = torch.stack(
        [functional.normalize(history[a:b]).mean(0) for a, b in ((0, 2), (2, 3), (3, 7))]
    )
    options = {
        "known": torch.tensor([[0, 1, 0], [0, 0, 0], [1, 0, 0]]).bool(),
        "log_q": torch.tensor([-1.0, -2.0, -3.0]).double(),
        "temperature": 0.4,
    }
    ids = torch.tensor([1, 2, 1])
    found = sequence_to_item(history, offsets, targets, target_ids=ids, **options)
    assert float(found) == pytest.approx(float(in_batch(users, targets, ids=ids, **options)))
    scaled = history * torch.tensor([[3.0], [1], [1], [9], [1], [1], [2]])
    again = sequence_to_item(scaled, offsets, targets, target_ids=ids, **options)
    assert float(again) == pytest.approx(float(found))


def test_the_best_cut_against_all_cuts():
    near = (normal(60) * 4).round() / 4  # many equal
    labels = near + normal(60, seed=1) > 0.3
    value, f1 = f1_threshold(near, labels)
    every = {}
    for cut in near.unique().tolist():
        chosen = near >= cut
        right = int((chosen & labels).sum())
        every[cut] = 2 * right / (int(chosen.sum()) + int(labels.sum()))
    assert f1 == pytest.approx(max(every.values())) and every[value] == pytest.approx(f1)


def test_hard_negatives_lie_just_below():
    near = normal(8, 12)
    near[3, 4] = -torch.inf
    found = below_threshold(near, 0.2, 5)
    for row in range(8):
        order = [c for c in near[row].argsort(descending=True).tolist() if -99 < near[row, c] < 0.2]
        assert found[row].tolist() == (order + [-1] * 5)[:5]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: content_to_id(normal(3, 2), normal(3, 2), length_weight=-1), "`length_weight`"),
        (lambda: content_to_id(normal(3, 2), normal(2, 2)), "of one shape"),
        (
            lambda: sequence_to_item(normal(3, 2), torch.tensor([0, 0, 3]), normal(2, 2)),
            "each history with an item",
        ),
        (
            lambda: sequence_to_item(normal(3, 2), torch.tensor([0, 2]), normal(2, 2)),
            r"offsets \(3,\) for 2 targets",
        ),
        (lambda: f1_threshold(normal(3), torch.zeros(3)), "at least one positive"),
        (lambda: f1_threshold(normal(3) / 0, torch.ones(3)), "finite"),
        (lambda: f1_threshold(normal(3), torch.zeros(2)), r"\(P,\)"),
        (lambda: below_threshold(normal(2, 3), 0.0, 4), "from 1 to C"),
    ],
)
def test_bad_input_is_named(call, text):
    with pytest.raises(ValueError, match=text):
        call()
