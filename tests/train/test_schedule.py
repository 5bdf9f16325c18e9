import math

import pytest

from recsys.config import TrainConfig
from recsys.train.schedule import Schedule


def factors(steps, **settings):
    schedule = Schedule(TrainConfig(**settings), steps)
    return [schedule.factor(step) for step in range(steps)]


def test_constant():
    assert factors(3) == [1.0, 1.0, 1.0]


def test_warmup_rises_in_equal_parts_and_wastes_no_step():
    assert factors(6, warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_starts_at_one_and_ends_at_zero_on_the_last_step():
    found = factors(5, schedule="cosine")
    assert found == pytest.approx([(1 + math.cos(math.pi * i / 4)) / 2 for i in range(5)])
    assert found[0] == 1.0 and found[-1] == pytest.approx(0.0)
    after_warmup = factors(12, schedule="cosine", warmup_steps=7)
    assert max(after_warmup) == 1.0 and after_warmup[-1] == pytest.approx(0.0)


def test_plateau_waits_for_patience_and_starts_waiting_anew():
    config = TrainConfig(schedule="plateau", plateau_patience=2, plateau_factor=0.5)
    schedule = Schedule(config, 100)
    lowered = [schedule.evaluated(improved) for improved in (True, False, True, False, False)]
    assert lowered == [False, False, False, False, True]
    assert schedule.factor(50) == 0.5
    assert [schedule.evaluated(False) for _ in range(2)] == [False, True]
    assert schedule.factor(50) == 0.25


def test_a_resumed_plateau_remembers():
    config = TrainConfig(schedule="plateau", plateau_patience=2)
    first, second = Schedule(config, 9), Schedule(config, 9)
    first.evaluated(False)
    second.load_state_dict(first.state_dict())
    assert second.evaluated(False) is True
