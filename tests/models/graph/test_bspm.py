"""BSPM against Runge-Kutta steps with dense matrices, written as its authors do."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.sparse import csr_array

from recsys.graph.interaction_graph import InteractionGraph
from recsys.models.graph.bspm import BSPM

DENSE = (np.random.default_rng(5).random((24, 17)) < 0.3).astype(np.float32)


def fitted(**options) -> BSPM:
    user, item = (torch.from_numpy(part) for part in np.nonzero(DENSE))
    model = BSPM(BSPM.Config(**options), InteractionGraph(24, 17, user, item))
    model.fit(lambda line: None)
    return model


def filters(rank: int) -> tuple[np.ndarray, np.ndarray]:
    users, items = DENSE.sum(1).clip(1), DENSE.sum(0)
    scaled = DENSE.astype(np.float64) / np.sqrt(users)[:, None] / np.sqrt(items)
    vectors = np.linalg.svd(scaled)[2][:rank].T
    return scaled.T @ scaled, (vectors @ vectors.T) * np.sqrt(items) / np.sqrt(items)[:, None]


def integrate(slope, y, time, steps, solver):
    """All states of a solver with fixed steps; rk4 by the 3/8 rule."""
    points = [y]
    for before, after in pairwise(np.linspace(0, time, steps + 1)):
        h, k1 = after - before, slope(y)
        if solver == "euler":
            y = y + h * k1
        else:
            k2 = slope(y + h * k1 / 3)
            k3 = slope(y + h * (k2 - k1 / 3))
            k4 = slope(y + h * (k1 - k2 + k3))
            y = y + h * (k1 + 3 * (k2 + k3) + k4) / 8
        points.append(y)
    return points


OPTIONS = [
    {},
    {"solver": "euler", "sharpen_time": 1.2, "average_points": True},
    {"sharpen_steps": 2, "sharpen_time": 2.2, "ideal_rank": 0},
    {"merge": "late", "blur_steps": 3, "blur_time": 1.5},
    {"sharpen_time": 0.0},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_equations(options):
    model = fitted(**{"ideal_rank": 5, **options})
    config = model.config
    smooth, low = filters(config.ideal_rank)
    ideal = config.ideal_weight * DENSE @ low
    blurred = integrate(
        lambda y: y @ smooth - y, DENSE, config.blur_time, config.blur_steps, "euler"
    )
    early = config.merge == "early"
    start = blurred[-1] + ideal if early else blurred[-1]
    sharp, points = blurred, blurred[1:]
    if config.sharpen_time:
        sharp = integrate(
            lambda y: -y @ smooth, start, config.sharpen_time, config.sharpen_steps, config.solver
        )
        points = points + sharp[1:]
    wanted = np.mean(points, axis=0) if config.average_points else sharp[-1]
    if not early or not config.sharpen_time:
        wanted = wanted + ideal
    np.testing.assert_allclose(model.scores(torch.arange(24)), wanted, atol=2e-5)


def test_many_small_steps_reach_the_solution_of_the_equation():
    """Sharpening for time t is the product with exp(-t P)."""
    model = fitted(ideal_rank=0, sharpen_steps=8, sharpen_time=1.5)
    smooth, _ = filters(0)
    wanted = DENSE @ smooth @ expm(-1.5 * smooth)
    np.testing.assert_allclose(model.scores(torch.arange(24)), wanted, atol=1e-4)


def test_a_new_user_with_the_same_history_gets_the_same_scores():
    model = fitted(ideal_rank=4)
    found = model.scores_of(csr_array(DENSE[[6, 1]]))
    torch.testing.assert_close(found, model.scores(torch.tensor([6, 1])))


def test_a_fit_goes_through_a_state_dict():
    model, fresh = fitted(ideal_rank=4), fitted(ideal_rank=2)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.scores(torch.arange(24)), model.scores(torch.arange(24)))
