"""Membership, exact draws and matches against Python sets."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.known_pairs import KnownPairs


@st.composite
def graphs(draw):
    users, items = draw(st.integers(1, 6)), draw(st.integers(2, 9))
    cells = st.tuples(st.integers(0, users - 1), st.integers(0, items - 1))
    pairs = sorted(draw(st.sets(cells, min_size=1)))
    user, item = torch.tensor(pairs).T
    return InteractionGraph(users, items, user.contiguous(), item.contiguous()), set(pairs)


@settings(max_examples=80, deadline=None)
@given(graphs(), st.integers(0, 99))
def test_everything_agrees_with_sets(pair, seed):
    graph, seen = pair
    known, generator = KnownPairs(graph), torch.Generator().manual_seed(seed)
    user = torch.randint(graph.num_users, (40,), generator=generator)
    item = torch.randint(graph.num_items, (40,), generator=generator)
    wanted = [n for n, cell in enumerate(zip(user.tolist(), item.tolist())) if cell in seen]
    assert known.seen(user, item).tolist() == wanted
    for few in (item, item[:3]):
        found = known.among(user, few).T.tolist()
        cells = [[n, m] for n, u in enumerate(user.tolist()) for m, i in enumerate(few.tolist())
                 if (u, i) in seen]  # fmt: skip
        assert sorted(found) == cells
    row, items = known.histories(user)
    assert [(int(user[r]), int(i)) for r, i in zip(row, items)] == [
        cell for u in user.tolist() for cell in sorted(seen) if cell[0] == u
    ]
    free = user[known.degrees[user] < graph.num_items]
    drawn = known.unseen(free, generator)
    assert ((drawn >= 0) & (drawn < graph.num_items)).all()
    assert not set(zip(free.tolist(), drawn.tolist())) & seen


def test_unseen_items_are_equally_likely():
    user, item = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([1, 4, 0, 2, 5])
    known = KnownPairs(InteractionGraph(3, 6, user, item))
    generator = torch.Generator().manual_seed(0)
    for number, free in ((0, [0, 2, 3, 5]), (1, [1, 3, 4]), (2, [0, 1, 2, 3, 4, 5])):
        drawn = known.unseen(torch.full((6000,), number), generator)
        counts = torch.bincount(drawn, minlength=6)
        expected = 6000 / len(free)
        assert counts.nonzero()[:, 0].tolist() == free
        assert ((counts[free] - expected) ** 2 / expected).sum() < 20.5  # 99.9 % of chi2(5)
