"""SLIM: its elastic nets by scikit-learn, scores and their parts."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.sparse import csr_array

from recsys.graph.interaction_graph import InteractionGraph
from recsys.models.graph.slim import SLIM

DENSE = (np.random.default_rng(3).random((50, 16)) < 0.3).astype(np.float32)


def fitted(**options) -> SLIM:
    user, item = (torch.from_numpy(part) for part in np.nonzero(DENSE))
    model = SLIM(SLIM.Config(**options), InteractionGraph(50, 16, user, item))
    model.fit(lambda line: None)
    return model


def test_equals_scikit_learn_in_its_terms():
    linear = pytest.importorskip("sklearn.linear_model")
    alpha, ratio = 0.05, 0.2
    model = fitted(l1=50 * alpha * ratio, l2=50 * alpha * (1 - ratio), tolerance=1e-6)
    weights = model.weights.matrix().toarray()
    wanted = np.zeros((16, 16))
    for item in range(16):
        others = DENSE.astype(np.float64)
        others[:, item] = 0
        net = linear.ElasticNet(
            alpha=alpha, l1_ratio=ratio, positive=True, fit_intercept=False, tol=1e-10,
            max_iter=100_000,
        )  # fmt: skip
        wanted[:, item] = net.fit(others, DENSE[:, item]).coef_
    np.testing.assert_allclose(weights, wanted, atol=1e-5)
    np.testing.assert_allclose(model.scores(torch.arange(50)), DENSE @ wanted, atol=1e-4)


def test_two_items_by_hand():
    """Items 0 and 1 share 1 of their 2 and 3 users: w = (1 - l1) / (norm + l2)."""
    graph = InteractionGraph(4, 2, torch.tensor([0, 1, 1, 2, 3]), torch.tensor([0, 0, 1, 1, 1]))
    model = SLIM(SLIM.Config(l1=0.25, l2=1.0), graph)
    model.fit(lambda line: None)
    wanted = [[0, 0.75 / (2 + 1)], [0.75 / (3 + 1), 0]]
    np.testing.assert_allclose(model.weights.matrix().toarray(), wanted, rtol=1e-6)


def test_larger_l1_keeps_fewer_weights():
    counts = [fitted(l1=l1).weights.matrix().nnz for l1 in (0.0, 1.0, 3.0, 100.0)]
    assert counts[0] > counts[1] > counts[2] > counts[3] == 0


def test_a_new_user_with_the_same_history_gets_the_same_scores_and_why():
    model = fitted(l1=0.1, l2=1.0)
    scores = model.scores_of(csr_array(DENSE[[6]]))
    assert torch.equal(scores, model.scores(torch.tensor([6])))
    items, values = model.contributions(torch.from_numpy(np.flatnonzero(DENSE[6])), 3)
    torch.testing.assert_close(values.sum(), scores[0, 3])
    assert model.weights.matrix()[[int(items[0])]].toarray()[0, 3] == values[0]


def test_no_regularization_is_refused():
    with pytest.raises(ValidationError, match="greater than 0"):
        SLIM.Config(l2=0)
