"""RP3beta against dense powers of transition probabilities."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from recsys.errors import DataError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.models.graph.rp3beta import RP3beta

DENSE = (np.random.default_rng(1).random((25, 18)) < 0.3).astype(np.float32)
DENSE[:, 2] = 0
DENSE[4] = 0


def fitted(weights: np.ndarray = DENSE, **options) -> RP3beta:
    user, item = (torch.from_numpy(part) for part in np.nonzero(weights))
    graph = InteractionGraph(25, 18, user, item, torch.from_numpy(weights[weights != 0]))
    model = RP3beta(RP3beta.Config(**options), graph)
    model.fit(lambda line: None)
    return model


def walks(alpha: float, beta: float) -> np.ndarray:
    users, items = DENSE.sum(1).clip(1), DENSE.sum(0).clip(1)
    there, back = (DENSE / users[:, None]) ** alpha, (DENSE.T / items[:, None]) ** alpha
    found = (back @ there) / items**beta
    np.fill_diagonal(found, 0)
    return found.astype(np.float64)


def largest(matrix: np.ndarray, count: int) -> np.ndarray:
    limit = np.sort(matrix, axis=1)[:, [-count]]
    return np.where(matrix >= limit, matrix, 0)


@pytest.mark.parametrize("side", ["seen", "scored"])
@pytest.mark.parametrize("normalize", [False, True])
def test_equation(side, normalize):
    model = fitted(alpha=0.7, beta=0.4, top_k=5, side=side, normalize=normalize)
    wanted = walks(0.7, 0.4)
    wanted = largest(wanted, 5) if side == "seen" else largest(wanted.T, 5).T
    if normalize:
        total = wanted.sum(1, keepdims=True)
        wanted = wanted / np.where(total > 0, total, 1)
    np.testing.assert_allclose(model.weights.matrix().toarray(), wanted, atol=1e-6)
    np.testing.assert_allclose(model.scores(torch.arange(25)), DENSE @ wanted, atol=1e-5)


def test_a_walk_by_hand():
    """Without exponents a row is where a walk of two steps ends, but for staying."""
    model = fitted(alpha=1.0, beta=0.0, top_k=18, normalize=False)
    steps = model.weights.matrix().toarray()
    back = DENSE.T / DENSE.sum(0).clip(1)[:, None]
    stays = (back * (1 / DENSE.sum(1).clip(1))).sum(1)
    np.testing.assert_allclose(steps.sum(1) + stays, (DENSE.sum(0) > 0) * 1.0, rtol=1e-5)


def test_beta_holds_popular_items_back():
    shares = []
    for beta in (0.0, 0.5, 1.0):
        top = fitted(alpha=1.0, beta=beta, top_k=18).scores(torch.arange(25)).argmax(1)
        shares.append(DENSE.sum(0)[top.numpy()].mean())
    assert shares[0] > shares[1] > shares[2]


def test_a_new_user_with_the_same_history_gets_the_same_scores():
    model = fitted()
    assert torch.equal(model.scores_of(csr_array(DENSE[[6]])), model.scores(torch.tensor([6])))


def test_negative_weights_are_refused():
    with pytest.raises(DataError, match="weights of pairs from 0"):
        fitted(-DENSE)
