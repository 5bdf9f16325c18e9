"""Eigenvectors and filters against dense matrices."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array, random_array

from recsys.errors import DataError, TrainingError
from recsys.graph import spectrum
from recsys.graph.spectrum import ItemFilter, normalized, top_eigenvectors


def pairs(users=40, items=25, seed=0) -> csr_array:
    """With an item and a user that have no pair."""
    dense = np.random.default_rng(seed).random((users, items)) < 0.2
    dense[3], dense[:, 5] = False, False
    return csr_array(dense.astype(np.float32))


def dense_filter(matrix: csr_array, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """P and the ideal filter, in float64."""
    whole = matrix.toarray().astype(np.float64)
    users, items = whole.sum(1).clip(1), whole.sum(0)
    scaled = whole / np.sqrt(users)[:, None] / np.sqrt(items.clip(1))
    _, _, rows = np.linalg.svd(scaled)
    vectors = rows[:rank].T
    up, down = np.sqrt(items), np.where(items > 0, 1 / np.sqrt(items.clip(1)), 0)
    return scaled.T @ scaled, down[:, None] * (vectors @ vectors.T) * up


@pytest.mark.parametrize("rank", [0, 6])
def test_filter_equals_dense_matrices(rank, monkeypatch):
    monkeypatch.setattr(spectrum, "_WIDTH", 3)
    matrix = pairs()
    made = ItemFilter(25)
    made.assign(matrix, rank, 0, lambda line: None)
    smooth, ideal = dense_filter(matrix, rank)
    history = matrix[[7, 3, 1, 0]]
    np.testing.assert_allclose(made.ideal(history), history @ ideal, atol=1e-5)
    found = made.respond(history, lambda y, low: made.smooth(y) + 2 * low)
    np.testing.assert_allclose(found, history @ (smooth + 2 * ideal), atol=1e-5)


def test_loading_another_state_forgets_the_old_matrix():
    first, second = ItemFilter(25), ItemFilter(25)
    first.assign(pairs(), 4, 0, lambda line: None)
    second.assign(pairs(seed=1), 4, 0, lambda line: None)
    x = torch.eye(25)
    assert not torch.equal(first.smooth(x), second.smooth(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.smooth(x), second.smooth(x))


def test_iterated_eigenvectors_equal_exact_ones(monkeypatch):
    """Of a spectrum that falls slowly, where the exact way is switched off."""
    matrix, _ = normalized(csr_array(random_array((300, 200), density=0.03, rng=2)))
    operator = torch.from_numpy((matrix.T @ matrix).toarray())
    wanted, vectors = torch.linalg.eigh(operator.double())
    monkeypatch.setattr(spectrum, "_EXACT", 0)
    said = []
    values, found = top_eigenvectors(
        lambda x: operator @ x, 200, 20, seed=0, say=said.append, tolerance=1e-5
    )
    assert len(said) > 1
    np.testing.assert_allclose(values, wanted.flip(0)[:20], rtol=1e-4)
    best = vectors.flip(1)[:, :20]
    torch.testing.assert_close(found @ found.T, (best @ best.T).float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.T @ found, torch.eye(20), atol=1e-5, rtol=0)


def test_more_eigenvectors_than_there_are():
    values, vectors = top_eigenvectors(lambda x: 2 * x, 3, 10, 0, print)
    assert values.tolist() == [2.0, 2.0, 2.0] and vectors.shape == (3, 3)


def test_errors():
    with pytest.raises(TrainingError, match="only built"):
        ItemFilter(25).respond(pairs(), lambda y, low: y)
    made = ItemFilter(25)
    made.assign(pairs(), 2, 0, lambda line: None)
    with pytest.raises(DataError, match="expected a history with 25 columns"):
        made.respond(csr_array((1, 24), dtype=np.float32), lambda y, low: y)
    with pytest.raises(DataError, match="weights of pairs from 0"):
        made.assign(csr_array(-pairs()), 2, 0, lambda line: None)
