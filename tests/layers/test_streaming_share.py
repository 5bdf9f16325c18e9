"""Shares of ids in a stream: by hand, against the truth, after a change, in buckets, on ranks."""

import io

import numpy as np
import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from recsys.layers.streaming_share import StreamingShare


def zipf_stream(num_ids: int, batches: list[int], seed: int, power: float = 1.0):
    """Batches of ids, and the share of each id."""
    share = np.arange(1, num_ids + 1, dtype=float) ** -power
    share /= share.sum()
    random = np.random.default_rng(seed)
    return [torch.from_numpy(random.choice(num_ids, size, p=share)) for size in batches], share


def test_by_hand():
    """Rate 1/2: id 3 comes twice in 3 rows, then once in 1: (2 / 2 + 1) / (3 / 2 + 1)."""
    shares = StreamingShare(num_ids=6, rate=0.5)
    shares.update(torch.tensor([3, 3, 4]))
    assert shares(torch.tensor([3, 4])).exp().tolist() == pytest.approx([2 / 3, 1 / 3])
    shares.update(torch.tensor([3]))
    assert shares(torch.tensor([3])).exp().item() == pytest.approx(2.0 / 2.5)
    # id 4 has not come by since; id 5 never did, so it would be the fifth row's
    assert shares(torch.tensor([4, 5])).exp().tolist() == pytest.approx([1 / 3, 1 / 5])


def test_without_forgetting_it_is_the_share_at_the_last_sight():
    stream, _ = zipf_stream(20, [7, 1, 30, 12, 50], seed=1)
    shares = StreamingShare(num_ids=20, rate=0.0)
    for ids in stream:
        shares.update(ids)
    for value in range(20):
        last = max((n for n, ids in enumerate(stream) if value in ids), default=None)
        if last is not None:
            rows = torch.cat(stream[: last + 1])
            expected = (rows == value).double().mean().item()
            assert shares(torch.tensor([value])).exp().item() == pytest.approx(expected, rel=1e-5)


def test_finds_shares_of_batches_of_any_size():
    """Ids of every share, from one in 15 rows to one in 3,000, in batches from 8 to 2,000 rows."""
    sizes = [8, 2000, 100, 500] * 150
    stream, share = zipf_stream(1000, sizes, seed=2, power=0.8)
    shares = StreamingShare(num_ids=1000, rate=0.01)
    for ids in stream:
        shares.update(ids)
    found = shares(torch.arange(1000)).exp().double().numpy()
    frequent = found[:20] / share[:20]  # in nearly every batch, often several times
    assert np.abs(frequent - 1).max() < 0.15 and abs(frequent.mean() - 1) < 0.03
    assert abs((found[200:] / share[200:]).mean() - 1) < 0.05


def test_follows_a_change():
    stream, share = zipf_stream(50, [200] * 400, seed=3)
    shares = StreamingShare(num_ids=50, rate=0.05)
    for number, ids in enumerate(stream):
        shares.update(ids if number < 200 else 49 - ids)
    found = shares(torch.arange(50)).exp().numpy()
    assert np.abs(np.log(found / share[::-1])).max() < 0.6
    assert np.abs(np.log(found / share)).max() > 3


def test_a_weight_counts_like_repetition():
    once, repeated = StreamingShare(num_ids=5), StreamingShare(num_ids=5)
    once.update(torch.tensor([1, 2, 4]), torch.tensor([3.0, 1.0, 2.0]))
    repeated.update(torch.tensor([1, 1, 1, 2, 4, 4]))
    for name, buffer in once.named_buffers():
        assert torch.equal(buffer, repeated.get_buffer(name)), name


def test_buckets_err_upwards_and_little():
    """Two ids in one bucket add up; the smaller of two hash functions is mostly alone."""
    stream, _ = zipf_stream(2000, [500] * 200, seed=4)
    whole, few = StreamingShare(2000, 0.0), StreamingShare(2000, 0.0, num_buckets=4000)
    for ids in stream:
        whole.update(ids)
        few.update(ids)
    assert few.gap.shape == (8000,)
    known = torch.cat(stream).unique()
    ratio = (few(known) - whole(known)).exp()
    assert ratio.min() > 0.8
    assert (ratio < 1.001).float().mean() > 0.75
    # both hash functions spread neighbouring ids over different buckets
    for places in few._places(torch.arange(1000)):
        assert len(places.unique()) > 850


def test_goes_on_bit_for_bit_and_forgets():
    stream, _ = zipf_stream(30, [40] * 6, seed=5)
    straight, first = StreamingShare(30), StreamingShare(30)
    for ids in stream:
        straight.update(ids)
    for ids in stream[:3]:
        first.update(ids)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    resumed = StreamingShare(30)
    resumed.load_state_dict(torch.load(file))
    for ids in stream[3:]:
        resumed.update(ids)
    for name, buffer in straight.named_buffers():
        assert torch.equal(buffer, resumed.get_buffer(name)), name
    straight.initialize()
    assert not any(buffer.any() for buffer in straight.buffers())


def test_nothing_came_by():
    shares = StreamingShare(3)
    shares.update(torch.zeros(0, dtype=torch.int64))
    assert shares(torch.tensor([0, 2])).tolist() == [0.0, 0.0]  # one row more would be all rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_ids": 0}, r"`num_ids`: expected at least 1, got 0"),
        ({"num_ids": 3, "rate": 1.0}, r"`rate`: expected at least 0 and below 1, got 1.0"),
        ({"num_ids": 3, "num_buckets": 0}, r"`num_buckets`: expected at least 1, got 0"),
    ],
)
def test_bad_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        StreamingShare(**arguments)


def _rank(rank: int, path: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    parts = [torch.tensor([1, 2, 2]), torch.tensor([4])] if rank == 0 else [
        torch.zeros(0, dtype=torch.int64), torch.tensor([1, 1])
    ]  # fmt: skip
    shares = StreamingShare(5, rate=0.25)
    for ids in parts:
        shares.update(ids)
    torch.save(shares.state_dict(), f"{path}.{rank}")
    distributed.destroy_process_group()


@pytest.mark.distributed
def test_ranks_see_the_ids_of_all(tmp_path):
    spawn(_rank, (str(tmp_path / "store"),), nprocs=2)
    one = StreamingShare(5, rate=0.25)
    for ids in (torch.tensor([1, 2, 2]), torch.tensor([4, 1, 1])):
        one.update(ids)
    for rank in range(2):
        found = torch.load(tmp_path / f"store.{rank}")
        for name, buffer in one.named_buffers():
            assert torch.equal(buffer, found[name]), name
