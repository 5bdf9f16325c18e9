"""Ranks that keep others waiting are named, and where they are."""

import os
import signal
import time

import pytest
import torch
from torch import distributed

from recsys.data.prefetch import prefetch
from recsys.errors import TrainingError
from recsys.train.launch import launch
from recsys.train.ranks import Ranks
from recsys.train.watch import _ran_out, watched


def rows_that_do_not_come():
    """A reader on a disk that does not answer."""
    yield 0
    time.sleep(120)


def work(how: str) -> None:
    """What every rank does; rank 1 does not come to the second sum."""
    ranks = Ranks.current()
    with watched(ranks):
        distributed.all_reduce(torch.ones(1))
        if ranks.rank == 1 and how == "stopped":
            time.sleep(3)  # time enough to tell where it is
            os.kill(os.getpid(), signal.SIGSTOP)
        if ranks.rank == 1:
            list(prefetch(rows_that_do_not_come, 2))
        ranks.mean(1.0)


@pytest.mark.distributed
@pytest.mark.slow
def test_a_rank_that_hangs_in_its_reader_is_named():
    with pytest.raises(TrainingError, match=r"time ran out on rank 0 of 2") as caught:
        launch(work, ("reads",), ranks=2, timeout_s=6)
    text = str(caught.value)
    missing, waiting = text.split("Missing: ")[1].split("Waiting: ")
    assert missing.startswith("rank 1, which was in rows_that_do_not_come")
    assert "prefetch" in missing and "rank 0" not in missing
    assert waiting.startswith("rank 0 in ") and "Ranks.mean (recsys/train/ranks.py:" in waiting


@pytest.mark.distributed
@pytest.mark.slow
def test_a_rank_that_was_stopped_is_silent():
    with pytest.raises(TrainingError, match=r"Missing: rank 1, silent for \d+ s, last in "):
        launch(work, ("stopped",), ranks=2, timeout_s=14)


def test_what_counts_as_time_that_ran_out():
    assert _ran_out(RuntimeError("[gloo/transport] Timed out waiting 15000ms for recv operation"))
    assert not _ran_out(RuntimeError("Connection closed by peer"))


def later(first: int) -> float:
    """How long this rank waited for the one that works longer than ranks wait."""
    ranks, start = Ranks.current(), time.monotonic()
    found = ranks.patiently(lambda: time.sleep(8), ranks.rank == first)
    assert found is None
    ranks.wait()
    return time.monotonic() - start


@pytest.mark.slow
@pytest.mark.distributed
def test_long_work_of_one_rank_is_waited_for():
    assert launch(later, (1,), ranks=2, timeout_s=4) >= 7.5


def fails_elsewhere() -> str:
    """Rank 1 fails; what rank 0 hears."""
    ranks = Ranks.current()
    try:
        ranks.patiently(lambda: [][0], ranks.rank == 1)
    except (IndexError, TrainingError) as error:
        return str(error)
    return ""


@pytest.mark.distributed
def test_the_error_of_one_rank_reaches_the_others():
    assert launch(fails_elsewhere, (), ranks=2) == "rank 1: list index out of range"
