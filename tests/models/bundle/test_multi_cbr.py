"""MultiCBR against its equations, written out with dense matrices."""

import torch
from torch.nn import functional

from recsys.models.bundle.multi_cbr import MultiCBR
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
    model = MultiCBR
    config = MultiCBR.Config(embedding_dim=8)


def layers(square, rows, weights):
    found, total = rows, weights[0] * rows
    for weight in weights[1:]:
        found = square @ found
        total = total + weight * functional.normalize(found, dim=1)
    return total


def fused(rows):
    """The weighted sum of the three views."""
    dense = dense_matrices(small_bundles())
    users, bundles, items = rows[:3], rows[3:7], rows[7:]
    ub = layers(squared(dense["ub"]), rows[:7], (0.7, 0.2, 0.1))
    ui = layers(squared(dense["ui"]), torch.cat([users, items]), (0.6, 0.2, 0.2))
    bi = layers(squared(dense["bi"]), torch.cat([bundles, items]), (0.6, 0.1, 0.3))
    by_items = torch.cat([ui[:3], mean_of(dense["bi"]) @ ui[3:]])
    by_contents = torch.cat([mean_of(dense["ui"]) @ bi[4:], bi[:4]])
    return 0.35 * ub + 0.15 * by_items + 0.5 * by_contents


def apart(vectors, nodes, temperature):
    """What keeps different nodes apart."""
    vectors = functional.normalize(vectors, dim=1)
    parts = []
    for place, node in enumerate(nodes):
        others = [k for k, other in enumerate(nodes) if k == place or other != node]
        products = vectors[place] @ vectors[others].T / temperature
        parts.append(products.logsumexp(0) - 1 / temperature)
    return torch.stack(parts).mean()


def test_vectors_loss_and_gradient_are_those_of_the_equations():
    config = MultiCBR.Config(embedding_dim=6, contrast_weight=0.6, rates={})
    made = MultiCBR(config, small_bundles())
    made.reset_parameters(1)
    loss = made.loss(BATCH)
    (table,) = made.embeddings.table_parameters()
    (gradient,) = torch.autograd.grad(loss, table)

    rows = made.rows_of("user", "item", "content").detach().requires_grad_()
    found = fused(rows)
    user, good, bad = found[BATCH.user], found[BATCH.item + 3], found[BATCH.negatives[:, 0] + 3]
    wanted = functional.softplus((user * bad).sum(1) - (user * good).sum(1)).mean()
    for nodes in (BATCH.user, BATCH.item + 3):
        wanted = wanted + 0.6 * apart(found[nodes], nodes.tolist(), 0.23) / 2
    torch.testing.assert_close(loss, wanted)
    wanted.backward()
    mine = torch.cat([gradient[2:5], gradient[7:11], gradient[13:18]])
    torch.testing.assert_close(mine, rows.grad)
    torch.testing.assert_close(torch.cat(made.eval().vectors()), found.detach())


def test_noise_has_the_length_of_its_rate():
    made = MultiCBR(MultiCBR.Config(embedding_dim=6, rates={"bi": 0.3}), small_bundles())
    made.reset_parameters(1)
    rows = torch.randn(4, 6)
    changed = made.augmented(rows, "bi") - rows
    torch.testing.assert_close(changed.norm(dim=1), torch.full((4,), 0.3))
    assert (changed.sign() == rows.sign()).all()
    assert torch.equal(made.augmented(rows, "ui"), rows)
