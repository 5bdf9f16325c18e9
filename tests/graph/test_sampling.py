"""Pairs: every one once, ranks, resuming. Negatives: never seen, and drawn as they should."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import CheckpointError, ConfigError, DataError
from recsys.graph.interaction_graph import InteractionGraph
from recsys.graph.negatives import SamplingConfig
from recsys.graph.sampling import PairLoader


def random_graph(users=30, items=20, share=0.3, seed=0) -> InteractionGraph:
    cells = torch.rand(users, items, generator=torch.Generator().manual_seed(seed)) < share
    cells[0, 0] = True
    cells[:, 1] = False  # so that nobody has seen everything
    user, item = cells.nonzero().T
    return InteractionGraph(users, items, user.contiguous(), item.contiguous())


GRAPH = random_graph()


def pairs(batches) -> list[tuple[int, int]]:
    return [cell for b in batches for cell in zip(b.user.tolist(), b.item.tolist())]


SEEN = set(zip(GRAPH.user.tolist(), GRAPH.item.tolist()))


def same(one, other) -> bool:
    values = [(getattr(one, n), getattr(other, n)) for n in ("user", "item", "negatives", "known")]
    return all(torch.equal(a, b) if a is not None else b is None for a, b in values)


# ------------------------------------------------------------------------------------ pairs


@pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000])
def test_an_epoch_has_every_pair_once(batch_size):
    loader = PairLoader(GRAPH, batch_size=batch_size)
    first, second = list(loader), list(loader)
    for batches in (first, second):
        assert sorted(pairs(batches)) == sorted(SEEN)
        assert [b.batch_size for b in batches[:-1]] == [batch_size] * (len(loader) - 1)
        assert len(batches) == len(loader)
    assert pairs(first) != pairs(second)
    again = PairLoader(GRAPH, batch_size=batch_size)
    again.set_epoch(1)
    assert all(map(same, again, second))
    assert pairs(PairLoader(GRAPH, batch_size=batch_size, seed=1)) != pairs(first)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 50), st.sampled_from(["edge", "user"]))
def test_ranks_share_the_pairs_out(batch_size, world, seed, by):
    graph = random_graph(6, 5, seed=seed)
    config = SamplingConfig(by=by)
    loaders = [PairLoader(graph, config, batch_size, 3, rank, world) for rank in range(world)]
    parts = [list(loader) for loader in loaders]
    assert {len(part) for part in parts} == {len(loaders[0])}
    for step in zip(*parts):
        sizes = [batch.batch_size for batch in step]
        assert max(sizes) - min(sizes) <= 1 <= min(sizes)
    every = pairs(itertools.chain(*parts))
    seen = set(zip(graph.user.tolist(), graph.item.tolist()))
    assert set(every) <= seen
    assert graph.num_edges <= len(every) < graph.num_edges + world
    if by == "edge":
        assert set(every) == seen


def test_users_are_drawn_uniformly_and_then_their_items():
    user, item = torch.tensor([0, 2, 2, 2, 2]), torch.tensor([3, 0, 1, 2, 3])
    loader = PairLoader(InteractionGraph(4, 6, user, item), SamplingConfig(by="user"), 5)
    found = pairs(batch for _ in range(600) for batch in loader)
    assert len(found) == 3000
    counts = {cell: found.count(cell) for cell in set(found)}
    assert set(counts) == {(0, 3), (2, 0), (2, 1), (2, 2), (2, 3)}
    assert abs(counts[0, 3] - 1500) < 4 * 750**0.5
    assert all(abs(counts[2, i] - 375) < 4 * 328**0.5 for i in range(4))


CONFIGS = [
    SamplingConfig(),
    SamplingConfig(by="user", num_negatives=3),
    SamplingConfig(negatives="popularity", num_negatives=2),
    SamplingConfig(negatives="in_batch", num_negatives=2),
    SamplingConfig(negatives="in_batch", shared=True),
    SamplingConfig(shared=True, num_negatives=8),
    SamplingConfig(negatives="none"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_resuming_gives_the_very_same_batches(config):
    whole = PairLoader(GRAPH, config, 16)
    list(whole)
    wanted = list(whole)  # of the second epoch
    loader = PairLoader(GRAPH, config, 16)
    loader.set_epoch(1)
    for done, _ in enumerate(loader, 1):
        if done == 4:
            break
    state = loader.state_dict()
    for resumed in (PairLoader(GRAPH, config, 16), loader):
        resumed.load_state_dict(state)
        resumed.set_epoch(1)
        assert resumed.batches_left() == len(wanted) - 4
        rest = list(resumed)
        assert len(rest) == len(wanted) - 4
        assert all(map(same, rest, wanted[4:]))
        assert resumed.state_dict()["epoch"] == 2


def test_other_ranks_take_over_the_pairs_that_are_left():
    loaders = [PairLoader(GRAPH, batch_size=8, rank=rank, world_size=3) for rank in range(3)]
    had = pairs(b for loader in loaders for b in itertools.islice(loader, 2))
    assert len(had) == 48
    state = loaders[0].state_dict()
    now = [PairLoader(GRAPH, batch_size=8, rank=rank, world_size=2) for rank in range(2)]
    for loader in now:
        loader.load_state_dict(state)
    assert now[0].batches_left() == -(-(GRAPH.num_edges - 48) // 16)
    rest = pairs(b for loader in now for b in loader)
    assert set(had) | set(rest) == SEEN
    assert len(had) + len(rest) - len(SEEN) in (0, 1)


def test_a_position_of_other_data_or_options_is_refused():
    state = PairLoader(GRAPH).state_dict()
    others = [
        PairLoader(random_graph(seed=1)),
        PairLoader(GRAPH, batch_size=7),
        PairLoader(GRAPH, seed=7),
        PairLoader(GRAPH, SamplingConfig(num_negatives=2)),
    ]
    for loader, name in zip(others, ("data", "batch_size", "seed", "sampling")):
        with pytest.raises(CheckpointError, match=f"saved with {name}="):
            loader.load_state_dict(state)


# ------------------------------------------------------------------------------- negatives


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 999),
    st.floats(0.05, 0.98),
    st.sampled_from(["edge", "user"]),
    st.sampled_from(["uniform", "popularity", "in_batch", "hard"]),
    st.integers(1, 4),
)
def test_no_negative_is_ever_known(seed, share, by, kind, count):
    graph = random_graph(12, 8, share, seed)
    seen = set(zip(graph.user.tolist(), graph.item.tolist()))
    config = SamplingConfig(by=by, negatives=kind, num_negatives=count)
    loader = PairLoader(graph, config, 5, seed, scorer=lambda user, items: items.float())
    for batch in loader:
        assert batch.negatives.shape == (batch.batch_size, count)
        assert ((batch.negatives >= 0) & (batch.negatives < 8)).all()
        owners = batch.user.repeat_interleave(count).tolist()
        assert not set(zip(owners, batch.negatives.flatten().tolist())) & seen


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.sampled_from(["uniform", "popularity", "in_batch"]))
def test_known_ones_among_shared_negatives_are_told(seed, kind):
    config = SamplingConfig(negatives=kind, shared=True, num_negatives=9)
    for batch in PairLoader(GRAPH, config, 16, seed):
        assert batch.negatives.ndim == 1
        if kind == "in_batch":
            assert torch.equal(batch.negatives, batch.item)
        cells = itertools.product(
            enumerate(batch.user.tolist()), enumerate(batch.negatives.tolist())
        )
        wanted = {(n, m) for (n, u), (m, i) in cells if (u, i) in SEEN}
        assert set(map(tuple, batch.known.T.tolist())) == wanted
        assert len(wanted) == batch.known.shape[1]


def chi_square(found: torch.Tensor, q: torch.Tensor) -> float:
    counts = torch.bincount(found, minlength=len(q)).double()
    expected = q / q.sum() * counts.sum()
    assert counts[q == 0].eq(0).all()
    return float(((counts - expected) ** 2 / expected)[q > 0].sum())


@pytest.mark.parametrize("kind", ["uniform", "popularity"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_unseen_items_are_drawn_as_they_should(kind, share):
    graph = random_graph(3, 12, share, 5)
    config = SamplingConfig(negatives=kind, num_negatives=3000, alpha=0.75)
    q = graph.item_degrees().clamp(min=1).double() ** 0.75
    if kind == "uniform":
        q = torch.ones(12, dtype=torch.float64)
    for batch in PairLoader(graph, config, 50):
        for user in range(3):
            allowed = q.clone()
            allowed[graph.item[graph.user == user]] = 0
            found = batch.negatives[batch.user == user].flatten()
            if len(found):
                assert chi_square(found, allowed) < 31.3  # 99.9 % of chi2(11)


def test_log_q_is_what_shared_negatives_are_drawn_from():
    popular = SamplingConfig(negatives="popularity", shared=True, num_negatives=20_000, alpha=0.5)
    batch = next(iter(PairLoader(GRAPH, popular)))
    q = batch.log_q.double().exp()
    assert q.sum().item() == pytest.approx(1)
    degrees = GRAPH.item_degrees().clamp(min=1)
    torch.testing.assert_close(q / q[0], (degrees / degrees[0]).double().sqrt())
    assert chi_square(batch.negatives, q) < 43.8  # 99.9 % of chi2(19)
    for by in ("edge", "user"):
        config = SamplingConfig(by=by, negatives="in_batch", shared=True)
        loader = PairLoader(GRAPH, config, 50)
        batches = [batch for _ in range(100) for batch in loader]
        drawn = torch.cat([batch.negatives for batch in batches])
        assert chi_square(drawn, batches[0].log_q.double().exp()) < 42.3


def test_in_batch_negatives_are_items_of_the_batch():
    config = SamplingConfig(negatives="in_batch", num_negatives=4)
    for batch in PairLoader(GRAPH, config, 32):
        there = set(batch.item.tolist())
        for user, found in zip(batch.user.tolist(), batch.negatives.tolist()):
            if {i for i in there if (user, i) not in SEEN}:
                assert set(found) <= there


def test_hard_negatives_score_best_of_their_pool():
    config = SamplingConfig(negatives="hard", num_negatives=2, pool_size=6)
    pools = []

    def scorer(user, items):
        assert not torch.is_grad_enabled()
        pools.append(items)
        return (items * 7 % 20).float()

    for batch in PairLoader(GRAPH, config, 16, scorer=scorer):
        best = (pools[-1] * 7 % 20).sort(1, descending=True).values
        assert torch.equal(batch.negatives * 7 % 20, best[:, :2])


def test_without_rejection_seen_items_come_too():
    config = SamplingConfig(reject=False, num_negatives=20)
    owners = [
        (b.user.repeat_interleave(20), b.negatives.flatten()) for b in PairLoader(GRAPH, config)
    ]
    found = set(zip(owners[0][0].tolist(), owners[0][1].tolist()))
    assert found & SEEN
    shared = SamplingConfig(reject=False, shared=True, num_negatives=20)
    assert all(batch.known is None for batch in PairLoader(GRAPH, shared))


def test_no_negatives():
    batch = next(iter(PairLoader(GRAPH, SamplingConfig(negatives="none"))))
    assert batch.negatives is None and batch.known is None


# ---------------------------------------------------------------------------------- errors


def test_a_user_who_has_seen_everything_is_named():
    user, item = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
    graph = InteractionGraph(2, 2, user, item)
    for kind in ("uniform", "popularity", "in_batch"):
        with pytest.raises(DataError, match="the first number 1, have seen all 2 items"):
            PairLoader(graph, SamplingConfig(negatives=kind))
        assert len(pairs(PairLoader(graph, SamplingConfig(negatives=kind, reject=False)))) == 3
    shared = next(iter(PairLoader(graph, SamplingConfig(shared=True))))
    assert 1 in shared.user[shared.known[0]]  # the loss leaves those out


def test_bad_options_are_named():
    with pytest.raises(ConfigError, match=r"rank 2 is not in 0 \.\. 1"):
        PairLoader(GRAPH, rank=2, world_size=2)
    with pytest.raises(ConfigError, match="got 0 and 0"):
        PairLoader(GRAPH, batch_size=0)
    with pytest.raises(ConfigError, match="give a `scorer`"):
        PairLoader(GRAPH, SamplingConfig(negatives="hard"))
    with pytest.raises(ConfigError, match=r"expected scores \(\d+, 16\), got \(\d+,\)"):
        bad = SamplingConfig(negatives="hard")
        next(iter(PairLoader(GRAPH, bad, scorer=lambda user, items: user.float())))
    with pytest.raises(ValueError, match="expected shared=false"):
        SamplingConfig(negatives="hard", shared=True)
    with pytest.raises(ValueError, match="pool_size of at least num_negatives"):
        SamplingConfig(negatives="hard", num_negatives=50)
