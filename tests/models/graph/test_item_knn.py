"""ItemKNN against dense cosines, and what a model of item similarities can do."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from recsys.errors import DataError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.item_similarity import weighted
from recsys.models.graph.item_knn import ItemKNN

DENSE = (np.random.default_rng(0).random((30, 20)) < 0.25).astype(np.float32)
DENSE[:, 7] = 0


def graph(dense: np.ndarray = DENSE) -> InteractionGraph:
    user, item = (torch.from_numpy(part) for part in np.nonzero(dense))
    return InteractionGraph(*dense.shape, user, item, torch.from_numpy(dense[dense != 0]))


def fitted(dense: np.ndarray = DENSE, **options) -> ItemKNN:
    model = ItemKNN(ItemKNN.Config(**options), graph(dense))
    model.fit(lambda line: None)
    return model


@pytest.mark.parametrize("weighting", ["none", "tfidf", "bm25"])
def test_equation(weighting):
    model = fitted(weighting=weighting, shrinkage=1.5)
    x = weighted(csr_array(DENSE), weighting).toarray().astype(np.float64)
    length = np.sqrt((x**2).sum(0))
    wanted = x.T @ x / (length[:, None] * length + 1.5)
    np.fill_diagonal(wanted, 0)
    np.testing.assert_allclose(model.weights.matrix().toarray(), wanted, atol=1e-6)
    np.testing.assert_allclose(model.scores(torch.arange(30)), DENSE @ wanted, atol=1e-5)


def test_known_answer_of_a_checkerboard():
    """Users like items of their own parity; the one left out comes first."""
    dense = np.fromfunction(lambda u, i: (u + i) % 2 == 0, (20, 20)).astype(np.float32)
    dense[np.diag_indices(20)] = 0
    scores = fitted(dense, top_k=20).scores(torch.arange(20)).numpy()
    scores[dense > 0] = -np.inf
    assert scores.argmax(1).tolist() == list(range(20))


def test_a_new_user_with_the_same_history_gets_the_same_scores():
    model = fitted(top_k=5)
    assert torch.equal(
        model.scores_of(csr_array(DENSE[[4, 2]])), model.scores(torch.tensor([4, 2]))
    )


def test_contributions_add_up_to_the_score():
    model = fitted(top_k=6)
    seen = torch.from_numpy(np.flatnonzero(DENSE[3]))
    for item in (0, 7, 11):
        items, values = model.contributions(seen, item)
        torch.testing.assert_close(values.sum(), model.scores(torch.tensor([3]))[0, item])
        assert sorted(items.tolist()) == seen.tolist()
        assert (values.diff() <= 0).all()
    _, twice = model.contributions(seen, 11, torch.full(seen.shape, 2.0))
    torch.testing.assert_close(twice, 2 * values)


def test_similar_items_by_hand():
    """Item 0 shares its one user with 1, and half of 2's."""
    dense = np.array([[1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32)
    numbers, weights = fitted(dense).similar_items(torch.tensor([0, 3]), 3)
    assert numbers.tolist() == [[1, 2, -1], [-1, -1, -1]]
    np.testing.assert_allclose(weights, [[1, 0.5**0.5, 0], [0, 0, 0]], rtol=1e-6)


def test_a_fit_goes_through_a_state_dict():
    model, fresh = fitted(top_k=5), ItemKNN(ItemKNN.Config(top_k=5), graph())
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.scores(torch.arange(30)), model.scores(torch.arange(30)))


def test_negative_weights_are_refused():
    with pytest.raises(DataError, match="weights of pairs from 0"):
        fitted(-DENSE)


def test_a_cosine_does_not_see_lengths():
    same = [fitted(weighting=kind).weights.matrix().toarray() for kind in ("tfidf", "bm25")]
    np.testing.assert_allclose(same[0], same[1], rtol=1e-5)
