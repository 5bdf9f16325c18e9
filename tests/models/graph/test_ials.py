"""iALS against the objective and the normal equations, in float64."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from recsys.errors import DataError, TrainingError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.models.graph.ials import iALS

DENSE = (np.random.default_rng(6).random((26, 15)) < 0.3).astype(np.float32)
DENSE[4] = 0
OPTIONS = {"dim": 4, "unobserved_weight": 0.2, "l2": 0.05, "l2_exponent": 0.8}


def model(weights: np.ndarray = DENSE, **options) -> iALS:
    user, item = (torch.from_numpy(part) for part in np.nonzero(weights))
    graph = InteractionGraph(26, 15, user, item, torch.from_numpy(weights[weights != 0]))
    return iALS(iALS.Config(**{**OPTIONS, **options}), graph)


def fitted(seed: int = 0, **options) -> iALS:
    made = model(**options)
    made.reset_parameters(seed)
    made.fit(lambda line: None)
    return made


def scales(dense: np.ndarray) -> np.ndarray:
    """What the regularization of every row is multiplied by."""
    return ((dense > 0).sum(1) + 0.2 * dense.shape[1]) ** 0.8


def objective(users: np.ndarray, items: np.ndarray) -> float:
    scores = users @ items.T
    own = (scales(DENSE) * (users**2).sum(1)).sum() + (scales(DENSE.T) * (items**2).sum(1)).sum()
    return (DENSE * (scores - 1) ** 2).sum() + 0.2 * (scores**2).sum() + 0.05 * own


def best(dense: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    shared = 0.2 * vectors.T @ vectors
    return np.stack([
        np.linalg.solve(
            shared + (vectors.T * row) @ vectors + 0.05 * scale * np.eye(4), vectors.T @ row
        )
        for row, scale in zip(dense, scales(dense))
    ])  # fmt: skip


def test_users_are_the_solution_of_their_normal_equations():
    users, items = fitted(passes=3).vectors()
    np.testing.assert_allclose(users, best(DENSE, items.double().numpy()), atol=1e-5)


def test_each_pass_lowers_the_objective_and_it_ends_at_a_fixed_point():
    values = []
    for passes in (1, 2, 4, 16, 400):
        users, items = (v.double().numpy() for v in fitted(passes=passes).vectors())
        values.append(objective(users, items))
    assert values == sorted(values, reverse=True)
    np.testing.assert_allclose(items, best(DENSE.T, users), atol=1e-4)
    # No step from there lowers the objective.
    rng = np.random.default_rng(0)
    for _ in range(20):
        step = 1e-2 * rng.standard_normal(items.shape)
        assert objective(users, items + step) > values[-1]


def test_weights_count_as_often_as_they_say():
    """A pair of weight c costs c (y - 1)^2."""
    weights = DENSE * np.random.default_rng(1).integers(1, 5, DENSE.shape).astype(np.float32)
    made = model(weights, passes=2)
    made.fit(lambda line: None)
    users, items = made.vectors()
    np.testing.assert_allclose(users, best(weights, items.double().numpy()), atol=1e-5)


def test_scores_of_known_and_new_users():
    made = fitted()
    users, items = made.vectors()
    torch.testing.assert_close(made.scores(torch.arange(26)), users @ items.T)
    new = made.scores_of(csr_array(DENSE[[6, 4]]))
    torch.testing.assert_close(new, made.scores(torch.tensor([6, 4])))
    assert (new[1] == 0).all()  # without a history


def test_the_seed_says_where_it_starts():
    def scores(seed):
        return fitted(seed, passes=1).scores(torch.arange(26))

    assert torch.equal(scores(1), scores(1)) and not torch.equal(scores(1), scores(2))


def test_a_fit_goes_through_a_state_dict():
    made, fresh = fitted(), model()
    fresh.load_state_dict(made.state_dict())
    assert torch.equal(fresh.scores(torch.arange(26)), made.scores(torch.arange(26)))


def test_errors():
    with pytest.raises(TrainingError, match="expected a fitted model"):
        model().scores(torch.tensor([0]))
    with pytest.raises(DataError, match="expected a history with 15 columns"):
        fitted().scores_of(csr_array((1, 3), dtype=np.float32))
    with pytest.raises(DataError, match="weights of pairs from 0, got -1"):
        model(-DENSE).fit(lambda line: None)
    with pytest.raises(DataError, match="weights of pairs from 0, got -2"):
        fitted().scores_of(csr_array(-2 * DENSE[[0]]))


def test_vectors_follow_what_is_loaded_and_fitted_anew():
    one, two, fresh = fitted(0), fitted(1), model()
    history = one.graph.matrix()
    before = one.user_vectors(history)
    torch.testing.assert_close(one.user_vectors(history), before)
    one.load_state_dict(two.state_dict())
    fresh.load_state_dict(two.state_dict())
    torch.testing.assert_close(one.user_vectors(history), fresh.user_vectors(history))
    assert not torch.allclose(one.user_vectors(history), before)
    one.reset_parameters(0)
    one.fit(lambda line: None)
    torch.testing.assert_close(one.user_vectors(history), before)
