"""EASE against the closed form, and against the regressions that it solves."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from recsys.errors import ConfigError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.models.graph import ease
from recsys.models.graph.ease import EASE

DENSE = (np.random.default_rng(2).random((40, 23)) < 0.3).astype(np.float32)
DENSE[:, 5] = 0


def fitted(**options) -> EASE:
    user, item = (torch.from_numpy(part) for part in np.nonzero(DENSE))
    model = EASE(EASE.Config(**options), InteractionGraph(40, 23, user, item))
    model.fit(lambda line: None)
    return model


def closed_form(l2: float) -> np.ndarray:
    inverse = np.linalg.inv(DENSE.T.astype(np.float64) @ DENSE + l2 * np.eye(23))
    found = np.eye(23) - inverse / inverse.diagonal()
    np.fill_diagonal(found, 0)
    return found


@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-5), ("float64", 1e-7)])
def test_closed_form(precision, error, monkeypatch):
    monkeypatch.setattr(ease, "_ROWS", 7)
    model = fitted(l2=3.0, precision=precision)
    np.testing.assert_allclose(model.weights.dense, closed_form(3.0), atol=error)
    np.testing.assert_allclose(
        model.scores(torch.arange(40)), DENSE @ closed_form(3.0), atol=10 * error
    )


def test_every_item_is_a_ridge_regression_on_the_others():
    weights = fitted(l2=3.0).weights.dense.numpy()
    for item in (0, 5, 22):
        others = np.delete(np.arange(23), item)
        left = DENSE[:, others].T @ DENSE[:, others] + 3 * np.eye(22)
        wanted = np.linalg.solve(left, DENSE[:, others].T @ DENSE[:, item])
        np.testing.assert_allclose(weights[others, item], wanted, atol=1e-5)


def test_pruning_keeps_the_largest_of_every_scored_item(monkeypatch):
    monkeypatch.setattr(ease, "_ROWS", 7)
    model = fitted(l2=3.0, top_k=4)
    wanted = closed_form(3.0)
    limit = np.sort(np.abs(wanted), axis=0)[-4]
    wanted[np.abs(wanted) < limit] = 0
    assert model.weights.is_sparse
    np.testing.assert_allclose(model.weights.matrix().toarray(), wanted, atol=1e-5)


def test_a_new_user_with_the_same_history_gets_the_same_scores_and_why():
    model = fitted(l2=3.0)
    scores = model.scores_of(csr_array(DENSE[[6]]))
    assert torch.equal(scores, model.scores(torch.tensor([6])))
    seen = torch.from_numpy(np.flatnonzero(DENSE[6]))
    items, values = model.contributions(seen, 3)
    torch.testing.assert_close(values.sum(), scores[0, 3])
    np.testing.assert_allclose(values, closed_form(3.0)[items, 3], atol=1e-5)
    numbers, _ = model.similar_items(torch.tensor([3]), 2)
    assert numbers[0].tolist() == np.argsort(-closed_form(3.0)[3])[:2].tolist()


def test_too_little_memory_is_refused(monkeypatch):
    monkeypatch.setattr(ease, "free_memory", lambda: 2000)
    with pytest.raises(ConfigError, match=r"EASE needs 2,116 bytes .* 23 x 23 .* 2,000 are free"):
        fitted()
    with pytest.raises(ConfigError, match=r"EASE needs 6,348 bytes .* in float64"):
        fitted(precision="float64")


def test_regularization_too_small_for_the_precision():
    """Two users saw the same two items, with weights of 1000."""
    pairs = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    graph = InteractionGraph(2, 2, *pairs, torch.full((4,), 1000.0))
    with pytest.raises(ConfigError, match=r"inverse is wrong by .*%.* Raise `l2`, or set `precis"):
        EASE(EASE.Config(l2=0.3), graph).fit(lambda line: None)
    model = EASE(EASE.Config(l2=0.3, precision="float64"), graph)
    model.fit(lambda line: None)
    np.testing.assert_allclose(model.weights.dense, [[0, 1], [1, 0]], atol=1e-6)
