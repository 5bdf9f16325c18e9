"""CrossCBR against its equations, written out with dense matrices."""

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from recsys.models.bundle.cross_cbr import CrossCBR
from recsys.testing.bundle import (
    BundleModelConformance,
    dense_matrices,
    mean_of,
    small_bundles,
    squared,
)
from recsys.types import PairBatch

BATCH = PairBatch(torch.tensor([0, 2, 0]), torch.tensor([1, 2, 0]), torch.tensor([[2], [0], [3]]))


class TestSuite(BundleModelConformance):
    model = CrossCBR
    config = CrossCBR.Config(embedding_dim=8)


def model(**options):
    made = CrossCBR(CrossCBR.Config(embedding_dim=6, **options), small_bundles())
    made.reset_parameters(1)
    return made


def layers(square, rows, count):
    """Layer 0, and the others with length 1."""
    found, total = rows, rows
    for _ in range(count):
        found = square @ found
        total = total + functional.normalize(found, dim=1)
    return total


def views(rows, count, operators=None):
    """Vectors of users and bundles, by items and by bundles."""
    dense = dense_matrices(small_bundles())
    found = operators or {"ub": squared(dense["ub"]), "ui": squared(dense["ui"]),
                          "mean bi": mean_of(dense["bi"])}  # fmt: skip
    ui = layers(found["ui"], torch.cat([rows[:3], rows[7:]]), count)
    return [torch.cat([ui[:3], found["mean bi"] @ ui[3:]]), layers(found["ub"], rows[:7], count)]


def rows_of(made):
    return made.rows_of("user", "item", "content").detach()


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_vectors_are_both_views_side_by_side(num_layers):
    made = model(num_layers=num_layers).eval()
    wanted = torch.cat(views(rows_of(made), num_layers), 1)
    torch.testing.assert_close(torch.cat(made.vectors()), wanted)


def own_first(first, second, nodes, temperature):
    """-ln of the share of a node's own second view; the same node elsewhere does not count."""
    first, second = functional.normalize(first, dim=1), functional.normalize(second, dim=1)
    parts = []
    for place, node in enumerate(nodes):
        others = [k for k, other in enumerate(nodes) if k == place or other != node]
        products = first[place] @ second[others].T / temperature
        parts.append(products.logsumexp(0) - first[place] @ second[place] / temperature)
    return torch.stack(parts).mean()


@pytest.mark.parametrize("augment", ["none", "edges"])
def test_loss_and_gradient_are_those_of_the_equations(augment):
    made = model(num_layers=2, contrast_weight=0.7, temperature=0.3, l2=0.2, augment=augment)
    made.begin_epoch(3, seed=5)
    loss = made.loss(BATCH)
    (table,) = made.embeddings.table_parameters()
    (gradient,) = torch.autograd.grad(loss, table)

    rows = rows_of(made).requires_grad_()
    drawn = {name: part.to_dense() for name, part in made.operators(rows.device).items()}
    items, bundles = views(rows, 2, drawn)
    both = torch.cat([items, bundles], 1)
    user, good, bad = both[BATCH.user], both[BATCH.item + 3], both[BATCH.negatives[:, 0] + 3]
    wanted = functional.softplus((user * bad).sum(1) - (user * good).sum(1)).mean()
    used = torch.cat([BATCH.user, BATCH.item + 3, BATCH.negatives[:, 0] + 3])
    wanted = wanted + 0.2 * 0.5 * rows[used].square().sum() / 3
    for nodes in (BATCH.user, BATCH.item + 3):
        near = own_first(items[nodes], bundles[nodes], nodes.tolist(), 0.3)
        wanted = wanted + 0.7 * near / 2
    torch.testing.assert_close(loss, wanted)
    wanted.backward()
    mine = torch.cat([gradient[2:5], gradient[7:11], gradient[13:18]])
    torch.testing.assert_close(mine, rows.grad)


def test_edges_of_an_epoch_are_those_of_the_seed_and_the_epoch():
    made = model(rates={"ub": 0.5, "bi": 0.5})

    def edges(epoch, seed):
        made.begin_epoch(epoch, seed)
        torch.rand(3)
        return {name: part.to_dense() for name, part in made.operators(torch.device("cpu")).items()}

    first, again = edges(4, 2), edges(4, 2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    others = [edges(epoch, 2) for epoch in range(5, 13)]
    assert any(not torch.equal(first["ub"], other["ub"]) for other in others)
    assert any(not torch.equal(first["mean bi"], other["mean bi"]) for other in others)
    whole = dense_matrices(small_bundles())
    for found in others:
        torch.testing.assert_close(found["ui"], squared(whole["ui"]))  # of rate 0
        kept = (found["ub"][:3, 3:] > 0).float()
        assert not (kept.bool() & ~whole["ub"].bool()).any()
        torch.testing.assert_close(found["ub"], squared(kept))
        kept = (found["mean bi"] > 0).float()
        torch.testing.assert_close(found["mean bi"], mean_of(kept))
    drawn = made.operators(torch.device("cpu"))
    made.eval().vectors()
    assert made.train().operators(torch.device("cpu")) is drawn, "evaluations change no edge"


def test_messages_and_noise_are_of_training_alone():
    for augment in ("messages", "noise"):
        made = model(num_layers=1, augment=augment, rates={"ui": 0.5, "bi": 0.5})
        items, bundles = made.of_views()
        plain = views(rows_of(made), 1)
        torch.testing.assert_close(bundles, plain[1])
        assert not torch.allclose(items[3:], plain[0][3:]) and items.isfinite().all()
        torch.testing.assert_close(torch.cat(made.eval().vectors()), torch.cat(plain, 1))


def test_weights_of_views_are_weights_of_scores():
    made = model(view_weights={"ui": 4.0}, contrast="none").eval()
    items, bundles = views(rows_of(made), 1)
    wanted = 4 * items[:3] @ items[3:].T + bundles[:3] @ bundles[3:].T
    torch.testing.assert_close(made.scores(torch.arange(3)), wanted)


def test_those_without_pairs_may_have_nothing_in_a_view():
    """Nobody took the last bundle; the last user took no item."""
    made = model(unseen="nothing").eval()
    items, bundles = views(rows_of(made), 1)
    items[2] = 0
    bundles[6] = 0
    torch.testing.assert_close(torch.cat(made.vectors()), torch.cat([items, bundles], 1))
    made.train().loss(BATCH).backward()
    (table,) = made.embeddings.table_parameters()
    assert table.grad[10].abs().sum() == 0, "of the row of the last bundle, a negative"
    assert table.grad.isfinite().all()


def test_one_view_and_early_fusion():
    made = model(views=("ui",), contrast="uniform", fusion="early").eval()
    torch.testing.assert_close(torch.cat(made.vectors()), views(rows_of(made), 1)[0])
    for options, text in (
        ({"views": ("ub",)}, "cross compares two views"),
        ({"views": ("ub", "ub")}, "every one once"),
        (
            {"rates": {"ub": 1.0}},
            r"rates.ub: expected a probability below 1 of leaving edges out, got 1",
        ),
        ({"view_weights": {"ui": -1.0}}, r"view_weights.ui\n"),
        ({"rates": {"uu": 0.1}}, r"rates.uu"),
        ({"layer_weights": {"ui": (1.0,)}}, "layer_weights.ui: expected 2, for layers 0 to"),
    ):
        with pytest.raises(ValidationError, match=text):
            CrossCBR.Config(**options)
