"""Recurrent binarization against its equations, and what training and the length are good for."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from recsys.errors import CheckpointError
from recsys.retrieval.index import Index
from recsys.retrieval.recurrent_codes import (
    RecurrentCodes,
    _easy,
    _straight_through,
    _Trained,
)
from recsys.retrieval.training_pairs import TrainingPairs

DIM = 12
RANDOM = np.random.default_rng(0)
CENTRES = RANDOM.normal(size=(30, DIM))


def around(number, noise=0.3):
    vectors = CENTRES[number] + noise * RANDOM.normal(size=(len(number), DIM))
    return torch.from_numpy(vectors).float()


VECTORS = (
    around(np.repeat(np.arange(30), 20))
    * torch.from_numpy(RANDOM.lognormal(0, 0.5, (600, 1))).float()
)


def test_codes_are_those_of_the_equations():
    codes = RecurrentCodes(bits=10, levels=3, hidden=8, epochs=1).fitted(VECTORS)
    state = codes.state()

    def block(number, x):
        first, shift, second, bias = (
            state[f"{number}.{name}"] for name in ("first", "shift", "second", "bias")
        )
        return torch.relu(x @ first + shift) @ second + bias

    queries = around(np.arange(30))
    found = {}
    for name, rows in (("items", VECTORS), ("queries", queries)):
        x = rows / rows.norm(dim=1, keepdim=True)
        b = block(0, x).sign()
        for level in (1, 2):
            f = functional.normalize(block(2 * level - 1, b), dim=1)
            b = b + 2.0**-level * block(2 * level, x - f).sign()
        found[name] = b
    cosines = functional.normalize(found["queries"]) @ functional.normalize(found["items"]).T
    wanted = cosines * queries.norm(dim=1)[:, None] * VECTORS.norm(dim=1)
    parts = codes.encode(VECTORS)
    assert parts["codes"].shape == (600, 3, 2) and parts["length"].dtype == torch.float16
    scores = codes.products(codes.prepare(queries), parts)
    torch.testing.assert_close(scores, wanted, rtol=2e-3, atol=2e-3)


def test_the_sign_lets_gradients_through_between_minus_one_and_one():
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], requires_grad=True)
    signs = _straight_through(x)
    assert signs.tolist() == [-1.0, -1.0, 1.0, 1.0, 1.0]
    signs.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_a_served_block_is_the_trained_one():
    block = _Trained(5, 7, 3, torch.Generator().manual_seed(0))
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for _ in range(200):
            trained = block(x)
        torch.testing.assert_close(block.folded()(x), trained, rtol=0.02, atol=0.02)


def test_only_the_hardest_count():
    near = torch.arange(14.0).view(2, 7)
    near[1, 6] = -torch.inf
    assert _easy(near).int().tolist() == [[1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 1]]


def hits(codes, queries, wanted, keep=50):
    """Share of the vectors of a query's own cluster among the best by codes alone."""
    scores = codes.products(codes.prepare(queries), codes.encode(VECTORS))
    best = scores.topk(keep, dim=1).indices // 20
    return float((best == wanted[:, None]).float().sum(1).mean()) / 20


def test_training_finds_more_and_pairs_teach_another_geometry():
    asked = np.arange(30)
    queries = around(asked)
    start = RecurrentCodes(bits=24, levels=2, hidden=32, epochs=1).fitted(VECTORS[:40])
    trained = RecurrentCodes(bits=24, levels=2, hidden=32, epochs=30).fitted(VECTORS)
    wanted = torch.arange(30)
    assert hits(trained, queries, wanted) > hits(start, queries, wanted) + 0.05
    # Queries that look for another cluster as well: only pairs can tell which.
    other = wanted ^ 1
    which = np.repeat(asked, 40)
    rows = np.concatenate([20 * np.array([[c], [c ^ 1]]) + np.arange(20) for c in asked]).flatten()
    pairs = TrainingPairs(queries, which, rows)
    taught = RecurrentCodes(bits=24, levels=2, hidden=32, epochs=20, pairs=pairs, fidelity=0.0)
    taught.fit(VECTORS)
    assert hits(taught, queries, other) > hits(trained, queries, other) + 0.1


def test_the_same_seed_gives_the_same_codes_and_global_numbers_stay():
    torch.manual_seed(5)
    one = RecurrentCodes(bits=8, hidden=4, epochs=1).fitted(VECTORS).encode(VECTORS)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    two = RecurrentCodes(bits=8, hidden=4, epochs=1).fitted(VECTORS).encode(VECTORS)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_zeros_are_no_trouble():
    vectors = VECTORS.clone()
    vectors[::7] = 0.0
    pairs = TrainingPairs(vectors[:50], np.arange(50), np.arange(50))
    codes = RecurrentCodes(bits=8, hidden=4, epochs=1, pairs=pairs)
    index = Index(vectors, range(600), codes=codes, prior=np.arange(600))
    found = index.search(vectors[:2], 5)
    assert found.plans == ("prior", "codes") and np.isfinite(found.scores).all()


def test_a_damaged_state_is_refused():
    codes = RecurrentCodes(bits=8, hidden=4, epochs=1).fitted(VECTORS)
    state = {n: t for n, t in codes.state().items() if n != "2.bias"}
    with pytest.raises(CheckpointError, match=r"2\.bias is missing"):
        RecurrentCodes(bits=8, hidden=4).load_state(state)
