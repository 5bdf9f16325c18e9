"""Product codes against their definition, and what rotation and pairs are good for."""

import numpy as np
import pytest
import torch

from recsys.losses.in_batch import in_batch
from recsys.retrieval.product_codes import ProductCodes, _straight_through
from recsys.retrieval.training_pairs import TrainingPairs

RANDOM = torch.Generator().manual_seed(0)
SKEW = torch.linspace(2.0, 0.1, 10)
VECTORS = torch.randn(3000, 10, generator=RANDOM) * SKEW


def lost(codes):
    rest = codes.decode(codes.encode(VECTORS)) - VECTORS
    return float(rest.square().sum() / VECTORS.square().sum())


def test_every_part_is_its_nearest_centroid():
    codes = ProductCodes(3, rotate=False).fitted(VECTORS)  # 10 values in 3 parts of 4: zeros behind
    state, parts = codes.state(), codes.encode(VECTORS)
    book = state["book"]
    assert book.shape == (3, 256, 4) and parts["codes"].shape == (3000, 3)
    units = VECTORS / VECTORS.norm(dim=1, keepdim=True)
    padded = torch.nn.functional.pad(units, (0, 2))
    near = []
    for part in range(3):
        distances = torch.cdist(padded[:, 4 * part : 4 * part + 4], book[part])
        chosen = distances.gather(1, parts["codes"][:, part : part + 1].long())[:, 0]
        torch.testing.assert_close(chosen, distances.amin(1), rtol=1e-3, atol=1e-4)
        near.append(book[part][parts["codes"][:, part].long()])
    near = torch.cat(near, 1)[:, :10]
    factor = (VECTORS * near).sum(1) / torch.cat([near, torch.zeros(3000, 2)], 1).square().sum(1)
    torch.testing.assert_close(codes.decode(parts), near * factor[:, None], rtol=2e-3, atol=2e-3)


def test_a_rotation_loses_less_where_axes_differ_and_stays_a_rotation():
    plain, turned = ProductCodes(2, rotate=False).fitted(VECTORS), ProductCodes(2).fitted(VECTORS)
    assert lost(turned) < 0.9 * lost(plain)
    matrix = turned.state()["matrix"]
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(10), rtol=0, atol=1e-4)


def test_gradients_are_those_of_the_soft_assignment():
    cut = torch.randn(5, 2, 3, generator=RANDOM).double()
    book = torch.randn(2, 7, 3, generator=RANDOM).double().requires_grad_()
    hard = _straight_through(cut, book)
    far = (cut[:, :, None] - book).square().sum(3)
    assert torch.equal(hard.argmin(), hard.argmin()) and hard.shape == cut.shape
    for part in range(2):
        torch.testing.assert_close(hard[:, part], book[part][far[:, part].argmin(1)])
    weight = torch.randn(5, 2, 3, generator=RANDOM).double()
    (hard * weight).sum().backward()
    # d/dC of (one_hot C) with the one-hot moving as the softmax does
    again = book.detach().clone().requires_grad_()
    share = (-(cut[:, :, None] - again).square().sum(3)).softmax(2)
    fixed = torch.nn.functional.one_hot(far.argmin(2), 7).double()
    kept = torch.einsum("npk,pkd->npd", fixed, again)
    moved = torch.einsum("npk,pkd->npd", share, book.detach())
    ((kept + moved) * weight).sum().backward()
    torch.testing.assert_close(book.grad, again.grad)


def test_pairs_teach_what_queries_look_at():
    """Learning from pairs lowers the contrast of queries with codes, and fidelity holds it back."""
    shown = torch.zeros(10)
    shown[2:5] = 1.0
    queries = torch.randn(100, 10, generator=RANDOM) * shown
    true = (queries @ VECTORS[:1500].T).topk(10, dim=1).indices
    pairs = TrainingPairs(queries, np.repeat(np.arange(100), 10), true.flatten())

    def judged(**options):
        codes = ProductCodes(2, **options).fitted(VECTORS[:1500])
        near = codes.decode(codes.encode(VECTORS[:1500]))
        units = queries / queries.norm(dim=1, keepdim=True)
        one = true[:, 0]
        return float(in_batch(units, near[one], ids=one, normalize=False, temperature=0.1)), lost(
            codes
        )

    plain = judged()
    taught = judged(pairs=pairs, epochs=10, fidelity=0.0)
    held = judged(pairs=pairs, epochs=10, fidelity=100.0)
    assert taught[0] < plain[0] - 0.01
    assert taught[1] > held[1] > 0.9 * plain[1]


def test_few_vectors_have_as_many_centroids():
    codes = ProductCodes(2).fitted(VECTORS[:5])
    assert codes.state()["book"].shape == (2, 5, 5)
    rest = codes.decode(codes.encode(VECTORS[:5])) - VECTORS[:5]
    assert float(rest.abs().max()) < 0.01


@pytest.mark.parametrize("rotate", [True, False])
def test_names_say_what_it_is(rotate):
    assert ProductCodes(8, rotate=rotate).name == ("opq8" if rotate else "pq8")
