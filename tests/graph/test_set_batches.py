import numpy as np
import torch

from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.set_batches import SetLoader


def graph():
    user = np.repeat([0, 1, 3, 4], [2, 1, 6, 3])
    item = np.concatenate([[1, 4], [0], np.arange(6), [2, 3, 5]])
    return InteractionGraph(5, 6, torch.from_numpy(user), torch.from_numpy(item))


def sets_of(batches):
    return {int(u): set(i[r].tolist()) for b in batches for u, i, r in zip(b.user, b.items, b.real)}


def test_an_epoch_has_every_set_once_on_all_ranks():
    wanted = {0: {1, 4}, 1: {0}, 3: set(range(6)), 4: {2, 3, 5}}  # user 2 has nothing
    assert sets_of(SetLoader(graph(), 3)) == wanted
    parts = [list(SetLoader(graph(), 1, 0, rank, 2)) for rank in range(2)]
    assert [len(part) for part in parts] == [2, 2]
    assert sets_of(parts[0] + parts[1]) == wanted


def test_large_sets_are_cut_anew_in_every_epoch():
    loader = SetLoader(graph(), 4, max_items=3)
    seen = [sets_of(loader)[3] for _ in range(6)]
    assert all(len(found) == 3 for found in seen) and len(set(map(frozenset, seen))) > 1
    assert sets_of(loader)[4] == {2, 3, 5}


def test_a_position_is_resumed():
    first, again = SetLoader(graph(), 1, 3), SetLoader(graph(), 1, 3)
    batches = iter(first)
    next(batches)
    again.load_state_dict(first.state_dict())
    assert [b.user.tolist() for b in again] == [b.user.tolist() for b in batches]
