"""GFCF against the filter written out with dense matrices."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from recsys.errors import DataError, TrainingError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.models.graph.gfcf import GFCF

DENSE = (np.random.default_rng(4).random((30, 22)) < 0.25).astype(np.float32)
DENSE[:, 9] = 0


def model(weights: np.ndarray = DENSE, **options) -> GFCF:
    user, item = (torch.from_numpy(part) for part in np.nonzero(weights))
    graph = InteractionGraph(30, 22, user, item, torch.from_numpy(weights[weights != 0]))
    return GFCF(GFCF.Config(**options), graph)


def fitted(**options) -> GFCF:
    made = model(**options)
    made.fit(lambda line: None)
    return made


@pytest.mark.parametrize(("rank", "weight"), [(0, 0.3), (5, 0.3), (22, 1.5)])
def test_equation(rank, weight):
    users, items = DENSE.sum(1).clip(1), DENSE.sum(0)
    scaled = DENSE.astype(np.float64) / np.sqrt(users)[:, None] / np.sqrt(items.clip(1))
    vectors = np.linalg.svd(scaled)[2][:rank].T
    ideal = (vectors @ vectors.T) * np.sqrt(items) / np.sqrt(items.clip(1))[:, None]
    wanted = DENSE @ (scaled.T @ scaled + weight * ideal)
    found = fitted(ideal_rank=rank, ideal_weight=weight).scores(torch.arange(30))
    seen = items > 0  # the ideal filter of an item without users is 0 / 0
    np.testing.assert_allclose(found[:, seen], wanted[:, seen], atol=1e-5)
    assert (found[:, 9] == 0).all()


def test_a_new_user_with_the_same_history_gets_the_same_scores():
    made = fitted(ideal_rank=4)
    found = made.scores_of(csr_array(DENSE[[6, 1]]))
    torch.testing.assert_close(found, made.scores(torch.tensor([6, 1])))


def test_a_fit_goes_through_a_state_dict():
    made, fresh = fitted(ideal_rank=4), model(ideal_rank=4)
    fresh.load_state_dict(made.state_dict())
    assert torch.equal(fresh.scores(torch.arange(30)), made.scores(torch.arange(30)))


def test_errors():
    with pytest.raises(TrainingError, match="expected a fitted model"):
        model().scores(torch.tensor([0]))
    with pytest.raises(DataError, match="expected a history with 22 columns, one an item, got 3"):
        fitted().scores_of(csr_array((1, 3), dtype=np.float32))
    with pytest.raises(DataError, match="weights of pairs from 0"):
        model(-DENSE).fit(lambda line: None)
