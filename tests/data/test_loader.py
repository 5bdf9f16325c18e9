import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.blocks import Bag, RowBlock, concatenate
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prefetch import prefetch
from recsys.data.prepare import PrepareConfig, prepare
from recsys.data.prepared import Prepared
from recsys.data.source import GivenSplits, Source
from recsys.errors import CheckpointError, ConfigError, DataError
from recsys.schema import Categorical, Label, MultiValued, Numeric, Schema, Sequence, Vector
from recsys.types import Batch

ROWS = 1003
SCHEMA = Schema(
    features=(
        Categorical(name="user", dtype="int"),
        MultiValued(name="tags", dtype="int", pooling="sum", weights="tag_weights"),
        Numeric(name="n"),
        Vector(name="v", dim=2),
        Sequence(name="seen", dtype="int", max_length=3, pooling="mean"),
        Categorical(name="item", dtype="int"),
    ),
    labels=(Label(name="click"), Label(name="buy")),
    weight="w",
    group="user",
    timestamp="t",
)
PLAIN = Schema(
    features=(Categorical(name="user", dtype="int"), Numeric(name="n")),
    labels=(Label(name="click"),),
)


def raw_rows() -> pa.Table:
    numbers = np.arange(ROWS)
    tags = [list(range(i % 4)) for i in range(ROWS)]
    return pa.table(
        {
            "user": numbers % 17,
            "tags": tags,
            "tag_weights": [[i + k / 10 for k in row] for i, row in enumerate(tags)],
            "n": numbers.astype(float),
            "v": [[i, -i] for i in range(ROWS)],
            "seen": [list(range(i % 3)) for i in range(ROWS)],
            "item": numbers % 5,
            "click": numbers % 2,
            "buy": (numbers % 3 == 0).astype(int),
            "w": 1 + numbers % 2,
            "t": numbers,
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("loader")
    pq.write_table(raw_rows(), path / "log.parquet")
    return path


def make(folder, schema: Schema, row_group_rows: int = 100) -> Prepared:
    source = Source(files=(str(folder / "log.parquet"),), format="parquet")
    config = PrepareConfig(row_group_rows=row_group_rows)
    return prepare(schema, GivenSplits(train=source), folder / "cache", config)


@pytest.fixture(scope="module")
def prepared(folder) -> Prepared:
    return make(folder, SCHEMA)


@pytest.fixture(scope="module")
def plain(folder) -> Prepared:
    return make(folder, PLAIN)


def row_numbers(batches: list[Batch]) -> list[int]:
    return [int(n) for batch in batches for n in batch.dense[:, 0]]


def assert_equal(left: Batch, right: Batch) -> None:
    for name in Batch.__slots__:
        mine, other = getattr(left, name), getattr(right, name)
        if isinstance(mine, torch.Tensor):
            assert mine.dtype == other.dtype and torch.equal(mine, other), name
        else:
            assert mine == other, name


def assert_row(batch: Batch, position: int, vocabularies: dict) -> None:
    """One row of a batch against the raw row that its number `n` names."""
    i = int(batch.dense[position, 0])
    assert batch.dense[position].tolist() == [i, i, -i]
    assert batch.labels[position].tolist() == [i % 2, float(i % 3 == 0)]
    assert (float(batch.weights[position]), int(batch.timestamps[position])) == (1 + i % 2, i)
    expected = {
        "user": [i % 17],
        "tags": list(range(i % 4)),
        "seen": list(range(i % 3)),
        "item": [i % 5],
    }
    for key, ids in expected.items():
        start, end = batch.key_range(key)
        lengths = batch.key_lengths(key)
        first = int(lengths[:position].sum())
        indices = batch.key_values(key)[first : first + int(lengths[position])]
        assert vocabularies[key].decode(indices.numpy()) == ids
        weights = batch.value_weights[start:end][first : first + len(ids)].tolist()
        wanted = [i + k / 10 for k in ids] if key == "tags" else [1] * len(ids)
        assert weights == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [64, 100, 1000, 5000])
def test_every_row_comes_once_with_its_values(prepared, shuffle, batch_size):
    config = LoaderConfig(batch_size=batch_size, shuffle=shuffle, buffer_rows=250)
    loader = BatchLoader(prepared, "train", config)
    batches = list(loader)
    assert len(batches) == len(loader) == -(-ROWS // batch_size)
    assert [b.batch_size for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
    numbers = row_numbers(batches)
    assert sorted(numbers) == list(range(ROWS))
    assert (numbers == list(range(ROWS))) is not shuffle
    for batch in batches:
        assert batch.keys == ("user", "tags", "seen", "item")
        assert batch.values.dtype == batch.lengths.dtype == torch.int32
        assert sum(batch.value_counts) == len(batch.values) == int(batch.lengths.sum())
        for position in range(0, batch.batch_size, 41):
            assert_row(batch, position, prepared.encoder.vocabularies)


def test_groups_are_one_for_one_with_users(prepared):
    [batch] = BatchLoader(prepared, "train", LoaderConfig(batch_size=ROWS))
    pairs = set(zip(batch.groups.tolist(), batch.key_values("user").tolist()))
    assert len(pairs) == 17 == len({group for group, _ in pairs})


def test_single_valued_keys_have_length_one(plain):
    batch = next(iter(BatchLoader(plain, "train", LoaderConfig(batch_size=10))))
    assert batch.lengths.tolist() == [1] * 10
    assert batch.value_counts == (10,)
    assert batch.weights is batch.value_weights is batch.groups is batch.timestamps is None


def test_the_shuffle_depends_on_seed_and_epoch_only(prepared):
    config = LoaderConfig(batch_size=100, shuffle=True, buffer_rows=300, seed=5)
    loader = BatchLoader(prepared, "train", config)
    first, second = row_numbers(list(loader)), row_numbers(list(loader))
    assert first != second  # the next pass is the next epoch
    loader.set_epoch(0)
    assert row_numbers(list(loader)) == first
    other = BatchLoader(prepared, "train", config.model_copy(update={"prefetch": 0}))
    other.set_epoch(1)
    assert row_numbers(list(other)) == second
    seeded = BatchLoader(prepared, "train", config.model_copy(update={"seed": 6}))
    assert row_numbers(list(seeded)) != first


def test_the_shuffle_mixes_row_groups_within_the_buffer(prepared):
    config = LoaderConfig(batch_size=100, shuffle=True, buffer_rows=300)
    for batch in list(BatchLoader(prepared, "train", config))[:9]:
        groups = {int(n) // 100 for n in batch.dense[:, 0]}
        assert 3 <= len(groups) <= 4  # a batch comes from one buffer of 3 groups (4 with the short)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("stop", [0, 1, 5, 9, 15])
def test_resuming_gives_the_same_remaining_batches(prepared, shuffle, stop):
    config = LoaderConfig(batch_size=64, shuffle=shuffle, buffer_rows=250)
    loader = BatchLoader(prepared, "train", config)
    loader.set_epoch(2)
    iterator = iter(loader)
    for _ in range(stop):
        next(iterator)
    state = loader.state_dict()
    rest = list(iterator)
    resumed = BatchLoader(prepared, "train", config)
    resumed.load_state_dict(state)
    resumed.set_epoch(2)  # a trainer names the epoch again; the position stays
    assert resumed.state_dict() == state
    again = list(resumed)
    assert len(again) == len(rest) == len(loader) - stop
    for left, right in zip(rest, again):
        assert_equal(left, right)
    for left, right in zip(loader, resumed):  # and the epoch after it
        assert_equal(left, right)


def test_a_new_pass_after_a_break_starts_at_the_beginning(plain):
    loader = BatchLoader(plain, "train", LoaderConfig(batch_size=100))
    for batch in loader:
        assert int(batch.dense[0, 0]) == 0
        break
    assert loader.state_dict()["batches"] == 1
    assert int(next(iter(loader)).dense[0, 0]) == 0


def test_a_position_of_other_data_or_options_is_refused(prepared, plain):
    state = BatchLoader(prepared, "train", LoaderConfig(batch_size=64)).state_dict()
    with pytest.raises(CheckpointError, match="batch_size=64, but now batch_size=32"):
        BatchLoader(prepared, "train", LoaderConfig(batch_size=32)).load_state_dict(state)
    with pytest.raises(CheckpointError, match="was saved with data="):
        BatchLoader(plain, "train", LoaderConfig(batch_size=64)).load_state_dict(state)


# --------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_share_the_rows_with_equal_batches(prepared, world_size, shuffle):
    config = LoaderConfig(batch_size=50, shuffle=shuffle, buffer_rows=200)
    numbers, counts = [], []
    for rank in range(world_size):
        loader = BatchLoader(prepared, "train", config, rank, world_size)
        batches = list(loader)
        counts.append(len(batches))
        assert len(batches) == len(loader)
        for batch in batches:
            assert batch.batch_size == 50
            real = batch.weights > 0
            numbers += [int(n) for n in batch.dense[real, 0]]
            padding = ~real
            assert batch.dense[padding].abs().sum() == batch.labels[padding].sum() == 0
            assert batch.key_values("user")[padding].tolist() == [0] * int(padding.sum())
            assert batch.key_lengths("user").tolist() == [1] * 50
            assert batch.key_lengths("tags")[padding].sum() == 0
    assert len(set(counts)) == 1
    assert sorted(numbers) == list(range(ROWS))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    "stages", [[(2, 3), (3, 100)], [(2, 4), (1, 2), (3, 1), (2, 100)], [(1, 7), (2, 100)],
               [(3, 0), (2, 100)], [(2, 9), (2, 100)], [(2, 9), (3, 100)]]
)  # fmt: skip
def test_another_number_of_ranks_shares_out_what_is_left(prepared, shuffle, stages):
    config = LoaderConfig(batch_size=50, shuffle=shuffle, buffer_rows=200, seed=3)
    states, numbers = None, []
    for world_size, steps in stages:
        loaders = [BatchLoader(prepared, "train", config, r, world_size) for r in range(world_size)]
        for loader in loaders:
            loader.set_epoch(1)
            if states is not None:
                loader.load_state_dict(states[0])
            loader.set_epoch(1)
        lefts = {loader.batches_left() for loader in loaders}
        states, counts = [], set()
        for loader in loaders:
            iterator, count = iter(loader), 0
            for _, batch in zip(range(steps), iterator):
                real = slice(None) if batch.weights is None else batch.weights > 0
                numbers += [int(n) for n in batch.dense[real, 0]]
                count += 1
            counts.add(count)
            states.append(loader.state_dict())
            if count < steps:
                assert counts == lefts  # all had as many, and as many as they said
            iterator.close()
        assert len(counts) == len(lefts) == 1
        assert all(state == states[0] for state in states)
        assert len(set(numbers)) == len(numbers)
    assert sorted(numbers) == list(range(ROWS))


@pytest.mark.parametrize("shuffle", [False, True])
def test_resuming_after_the_number_of_ranks_changed(prepared, shuffle):
    config = LoaderConfig(batch_size=50, shuffle=shuffle, buffer_rows=200)
    first = BatchLoader(prepared, "train", config, 0, 2)
    for _, _ in zip(range(3), first):
        pass
    second = BatchLoader(prepared, "train", config, 1, 3)
    second.load_state_dict(first.state_dict())
    assert second.state_dict()["batches"] == 0
    rest = list(second)
    second.load_state_dict(first.state_dict())
    iterator = iter(second)
    next(iterator)
    resumed = BatchLoader(prepared, "train", config, 1, 3)
    resumed.load_state_dict(second.state_dict())
    assert resumed.batches_left() == len(rest) - 1
    for left, right in zip(rest[1:], resumed, strict=True):
        assert_equal(left, right)
    whole = BatchLoader(prepared, "train", config, 1, 3)
    whole.set_epoch(1)
    for left, right in zip(whole, resumed, strict=True):  # the epoch after it is an ordinary one
        assert_equal(left, right)


def test_a_rank_without_rows_left_gets_padding_only(folder):
    pq.write_table(raw_rows().slice(0, 5), folder / "five.parquet")
    source = Source(files=(str(folder / "five.parquet"),), format="parquet")
    five = prepare(PLAIN, GivenSplits(train=source), folder / "cache")
    loaders = [BatchLoader(five, "train", LoaderConfig(batch_size=2), r, 2) for r in (0, 1)]
    weights = [[batch.weights.tolist() for batch in loader] for loader in loaders]
    assert weights == [[[1, 1], [1, 0]], [[1, 1], [0, 0]]]


def test_resuming_on_a_rank(prepared):
    config = LoaderConfig(batch_size=50, shuffle=True, buffer_rows=200)
    loader = BatchLoader(prepared, "train", config, 1, 3)
    iterator = iter(loader)
    for _ in range(4):
        next(iterator)
    resumed = BatchLoader(prepared, "train", config, 1, 3)
    resumed.load_state_dict(loader.state_dict())
    for left, right in zip(iterator, resumed):
        assert_equal(left, right)


def test_a_rank_outside_the_world(prepared):
    with pytest.raises(ConfigError, match=r"rank 2 is not in 0 .. 1"):
        BatchLoader(prepared, "train", rank=2, world_size=2)


# -------------------------------------------------------------------------------------- faults


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "recsys-prefetch"]


def test_the_thread_ends_when_the_consumer_stops(plain):
    for batch in BatchLoader(plain, "train", LoaderConfig(batch_size=5, prefetch=2)):
        assert batch.batch_size == 5
        assert threads()
        break
    del batch
    assert threads() == []


def test_an_exception_in_the_thread_reaches_the_consumer():
    def items():
        yield 1
        raise ValueError("broken item")

    got = []
    with pytest.raises(ValueError, match="broken item"):
        for item in prefetch(items, 2):
            got.append(item)
    assert got == [1]
    assert threads() == []


def test_damaged_rows_name_file_and_row_group(folder):
    damaged = make(folder, PLAIN, row_group_rows=90)
    path = damaged.path("train")
    content = path.read_bytes()
    metadata = pq.ParquetFile(path).metadata
    column = metadata.row_group(3).column(0)
    start = column.data_page_offset
    path.write_bytes(content[:start] + b"\xff" * 40 + content[start + 40 :])
    loader = BatchLoader(damaged, "train", LoaderConfig(batch_size=90))
    with pytest.raises(
        DataError, match=r"row group 3 .* is not readable.*\n.*train.parquet, row 271"
    ):
        list(loader)
    values = start + (metadata.row_group(3).column(0).total_compressed_size) // 2
    flipped = bytes([content[values] ^ 1])  # one bit of one value: only the checksum can tell
    path.write_bytes(content[:values] + flipped + content[values + 1 :])
    with pytest.raises(DataError, match=r"(?s)CRC checksum.*train.parquet, row 271"):
        list(BatchLoader(damaged, "train", LoaderConfig(batch_size=90)))
    path.write_bytes(content[:-30])
    with pytest.raises(DataError, match=r"prepared rows are not readable.*\n.*train.parquet"):
        BatchLoader(damaged, "train")
    path.write_bytes(content)


# -------------------------------------------------------------------------------------- blocks

BAGS = st.lists(st.lists(st.integers(2, 9), max_size=4), min_size=1, max_size=12)


def block_of(bags: list[list[int]]) -> RowBlock:
    schema = Schema(
        features=(Categorical(name="c"), MultiValued(name="b", pooling="sum"), Numeric(name="n")),
        labels=(Label(name="y"),),
    )
    table = pa.table(
        {
            "c": pa.array(range(len(bags)), pa.int32()),
            "b": pa.array(bags, pa.list_(pa.int32())),
            "n": pa.array(range(len(bags)), pa.float32()),
            "y": pa.array([0] * len(bags), pa.float32()),
        }
    )
    return RowBlock.from_table(table, schema)


def bags_of(block: RowBlock) -> list[list[int]]:
    batch = block.to_batch()
    lengths = batch.key_lengths("b").tolist()
    return [part.tolist() for part in batch.key_values("b").split(lengths)]


@given(BAGS, BAGS, st.data())
@settings(deadline=None, max_examples=60)
def test_jagged_rows_survive_slices_permutations_and_joins(first, second, data):
    left, right = block_of(first), block_of(second)
    start = data.draw(st.integers(0, len(first)))
    end = data.draw(st.integers(start, len(first)))
    assert bags_of(left.rows(start, end)) == first[start:end]
    assert bags_of(concatenate([left.rows(start, end), right])) == first[start:end] + second
    assert bags_of(left.rows(start, end).padded(end - start + 2)) == [*first[start:end], [], []]
    order = np.array(data.draw(st.permutations(range(len(first)))))
    assert bags_of(
        RowBlock(
            left.schema, left.num_rows, left.singles, {"b": left.bags["b"].take(order)},
            left.dense, left.labels, left.roles,
        )
    ) == [first[i] for i in order]  # fmt: skip


def test_a_bag_of_a_slice_by_hand():
    bag = Bag(np.array([5, 6, 7, 8]), np.array([0, 1, 1, 4]), np.array([0.5, 1.0, 2.0, 3.0]))
    values, lengths, weights = bag.rows(1, 3).cut()
    assert (values.tolist(), lengths.tolist(), weights.tolist()) == ([6, 7, 8], [0, 3], [1, 2, 3])
    taken = bag.take(np.array([2, 0]))
    assert (taken.values.tolist(), taken.offsets.tolist()) == ([6, 7, 8, 5], [0, 3, 4])
