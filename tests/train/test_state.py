import json
import math
import random

import numpy as np
import torch

from recsys.train.state import Progress, random_state, seed_everything, set_random_state

CPU = torch.device("cpu")


def draw():
    return random.random(), np.random.random(), random.gauss(0, 1), float(torch.rand(()))


def test_every_generator_goes_on_where_it_was():
    seed_everything(4)
    draw()
    state = random_state(CPU)
    expected = [draw() for _ in range(3)]
    seed_everything(77)
    set_random_state(state, CPU)
    assert [draw() for _ in range(3)] == expected


def test_same_seed_same_draws():
    seed_everything(4)
    first = draw()
    seed_everything(4)
    assert draw() == first


def test_progress_survives_json_also_with_nan():
    fresh = Progress(step=3, rows=9)
    again = Progress.from_json(json.loads(json.dumps(fresh.to_json())))
    assert math.isnan(again.best) and again.step == 3
    again.judge(0.7, higher=True, margin=0.0)
    assert Progress.from_json(json.loads(json.dumps(again.to_json()))) == again


def test_best_by_direction_margin_and_nan():
    up, down = Progress(), Progress()
    assert [up.judge(v, True, 0.01) for v in (0.5, 0.505, 0.52, math.nan)] == [
        True, False, True, False,
    ]  # fmt: skip
    assert (up.best, up.without_best, up.evaluations) == (0.52, 1, 4)
    assert [down.judge(v, False, 0.0) for v in (math.nan, 0.6, 0.7, 0.5)] == [
        False, True, False, True,
    ]  # fmt: skip
