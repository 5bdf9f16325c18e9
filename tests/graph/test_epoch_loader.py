"""Loaders in turn: all of one, then all of the next; exact positions. Pairs: test_sampling.py."""

import pytest
import torch

from recsys.errors import CheckpointError, ConfigError
from recsys.graph.epoch_loader import EpochLoader, InTurn


class Numbers(EpochLoader[tuple[str, int, list[int]]]):
    """Batches that say whose they are."""

    unit = "numbers"

    def __init__(self, name, total, batch_size, seed=0, rank=0, world_size=1):
        super().__init__(total, batch_size, seed, rank, world_size)
        self.name = name

    def batch(self, epoch, start, order):
        assert order is not None
        return self.name, epoch, self.share(order, start).tolist()

    def identity(self):
        return {"name": self.name, "batch_size": self.batch_size}


def in_turn(rank=0, world_size=1, batch_size=3) -> InTurn:
    return InTurn(
        [Numbers("a", 7, batch_size, 0, rank, world_size), Numbers("b", 4, 3, 0, rank, world_size)]
    )


def test_an_epoch_is_all_of_one_then_all_of_the_other():
    loader = in_turn()
    for epoch in range(3):
        assert len(loader) == loader.batches_left() == 5
        found = list(loader)
        assert [name for name, *_ in found] == ["a", "a", "a", "b", "b"]
        assert {number for _, number, _ in found} == {epoch}
        assert sorted(n for batch in found[:3] for n in batch[2]) == list(range(7))
        assert sorted(found[3][2] + found[4][2]) == list(range(4))


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_ranks_have_equally_many_batches(world_size):
    parts = [list(in_turn(rank, world_size)) for rank in range(world_size)]
    assert {len(part) for part in parts} == {len(in_turn(0, world_size))}
    for step in zip(*parts):
        assert len({name for name, *_ in step}) == 1
        assert all(batch[2] for batch in step)
    for name, total in (("a", 7), ("b", 4)):
        found = {n for part in parts for kind, _, batch in part for n in batch if kind == name}
        assert found == set(range(total))


@pytest.mark.parametrize("done", [1, 2, 3, 4, 5])
def test_resuming_gives_the_very_same_batches(done):
    whole = in_turn()
    list(whole)
    wanted = list(whole) + list(whole)  # of the second and the third epoch
    loader = in_turn()
    loader.set_epoch(1)
    batches = iter(loader)
    for _ in range(done):
        next(batches)
    state = loader.state_dict()
    for resumed in (in_turn(), loader):
        resumed.load_state_dict(state)
        resumed.set_epoch(1)
        assert resumed.batches_left() == 5 - done
        assert list(resumed) + list(resumed) == wanted[done:]


def test_a_pass_that_was_broken_off_begins_anew():
    loader = in_turn()
    batches = iter(loader)
    first = [next(batches) for _ in range(4)]
    assert list(loader)[:4] == first
    loader.set_epoch(7)
    assert {epoch for _, epoch, _ in loader} == {7}


def test_other_loaders_are_refused():
    state = in_turn().state_dict()
    for other in (in_turn(batch_size=4), InTurn([Numbers("a", 7, 3), Numbers("c", 4, 3)])):
        with pytest.raises(CheckpointError, match="other loaders"):
            other.load_state_dict(state)
    with pytest.raises(ConfigError, match="two or more"):
        InTurn([Numbers("a", 7, 3)])


def test_the_order_is_that_of_the_seed_and_the_epoch():
    torch.manual_seed(0)
    orders = [next(iter(Numbers("a", 40, 40, seed)))[2] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
