"""The torchrec backend at one rank: equal to local, and its traps closed."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.ids import ids_of
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.sharding import ShardingConfig
from recsys.embeddings.torchrec_backend import ShardingOptions, to_kjt, to_torchrec
from recsys.embeddings.torchrec_plan import padded
from recsys.errors import SchemaError, ShardingError
from tests.embeddings.conftest import KEYS, make_batch, make_collection, objective, spec
from tests.embeddings.test_scheme import Add, Multiply, make
from tests.embeddings.test_scheme import batch as scheme_batch

FUSED = [("sgd", "sparse"), ("adagrad", "sparse"), ("rowwise_adagrad", "sparse")]
DENSE = [("sgd", "dense"), ("adagrad", "dense"), ("adam", "dense")]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def train(collection, optimizer, seeds, weighted=False):
    for seed in seeds:
        optimizer.zero_grad()
        objective(collection(make_batch(seed, size=32, weighted=weighted))).backward()
        optimizer.step()


def both(kind, mode, weighted=False, **settings):
    config = EmbeddingOptimizerConfig(kind=kind, mode=mode, learning_rate=0.05, **settings)
    local, sharded = make_collection(), make_collection()
    first = local.attach_optimizer(config)
    second = to_torchrec(sharded, config, ShardingOptions(weighted=weighted))
    return local, first, sharded, second


def assert_equal_states(first, second, atol=1e-6):
    assert sorted(first) == sorted(second)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=atol, rtol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("kind", "mode"), FUSED + DENSE)
def test_equals_local(kind, mode, weighted):
    settings = {"l2": 0.01} if mode == "dense" else {}
    if "adagrad" in kind:
        settings["initial_accumulator_value"] = 0.01
    local, first, sharded, second = both(kind, mode, weighted, **settings)
    for collection, optimizer in ((local, first), (sharded, second)):
        train(collection, optimizer, range(3), weighted)
        optimizer.set_learning_rate(0.01)
        train(collection, optimizer, range(3, 5), weighted)
    assert list(local.state_dict()) == list(sharded.state_dict())
    assert_equal_states(local.state_dict(), sharded.state_dict())
    pad = {name: value for name, value in second.state_dict().items() if value.ndim}
    assert not any(value[0].any() for value in sharded.state_dict().values())
    compared = {name: value[1:] for name, value in first.state_dict().items() if value.ndim}
    assert_equal_states(compared, {name: value[1:] for name, value in pad.items()}, atol=1e-5)


@pytest.mark.parametrize(("kind", "mode"), FUSED + DENSE)
@pytest.mark.parametrize("towards", ["torchrec", "local"])
def test_either_backend_continues_from_the_other(kind, mode, towards):
    local, first, sharded, second = both(kind, mode)
    source, target = ((local, first), (sharded, second))[:: 1 if towards == "torchrec" else -1]
    train(*source, range(2))
    target[0].load_state_dict(source[0].state_dict())
    target[1].load_state_dict(source[1].state_dict())
    train(*source, range(2, 4))
    train(*target, range(2, 4))
    assert_equal_states(source[0].state_dict(), target[0].state_dict())


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 8])
def test_any_width_is_exact_with_rowwise_adagrad(dim):
    """Trap: FBGEMM wants multiples of 4, and its mean of squares runs over the padding."""
    config = EmbeddingOptimizerConfig(learning_rate=0.1)
    results = []
    for backend in ("local", "torchrec"):
        table = spec("t", 41, dim, ("user",), "sum")
        collection = EmbeddingCollection({"g": [table]}, KEYS)
        if backend == "local":
            optimizer = collection.attach_optimizer(config)
        else:
            optimizer = to_torchrec(collection, config)
            assert collection.bytes().tables == 4 * 41 * padded(dim)
        train(collection, optimizer, range(4))
        results.append({**collection.state_dict(), **optimizer.state_dict()})
    assert_equal_states(*results)


def test_order_does_not_depend_on_the_plan():
    """Trap: torchrec's output order follows the plan."""
    local, _, sharded, _ = both("sgd", "sparse")
    outputs = sharded(make_batch(0))
    for group, expected in local(make_batch(0)).items():
        assert outputs[group].keys == expected.keys
        torch.testing.assert_close(outputs[group].values, expected.values)


def test_other_key_order_is_refused():
    """Trap: torchrec caches the key order of the first batch."""
    _, _, sharded, _ = both("sgd", "sparse")
    sharded(make_batch(0))
    swapped = dataclasses.replace(make_batch(0), keys=("tags", "user", "friend", "city"))
    with pytest.raises(SchemaError, match="same keys in another order"):
        sharded(swapped)


def test_a_learning_rate_of_zero_moves_nothing():
    """Trap: a table without a stated optimizer trains with SGD, 0.01."""
    config = EmbeddingOptimizerConfig(kind="sgd", learning_rate=0.0)
    collection = make_collection()
    optimizer = to_torchrec(collection, config)
    before = copy.deepcopy(collection.state_dict())
    train(collection, optimizer, range(2))
    assert all(torch.equal(value, before[name]) for name, value in collection.state_dict().items())


def test_batches_become_jagged_tensors_without_a_copy():
    batch = make_batch(2, weighted=True)
    kjt = to_kjt(ids_of(batch, KEYS), KEYS, weighted=True)
    assert kjt.keys() == list(KEYS)
    assert kjt.values().data_ptr() == batch.values.data_ptr()
    assert kjt.lengths().data_ptr() == batch.lengths.data_ptr()
    assert kjt.weights().data_ptr() == batch.value_weights.data_ptr()
    assert torch.equal(kjt["friend"].values(), batch.key_values("friend"))


def test_unexpected_weights_are_refused():
    _, _, sharded, _ = both("sgd", "sparse")
    with pytest.raises(ShardingError, match=r"Pass ShardingOptions\(weighted=True\)"):
        sharded(make_batch(0, weighted=True))


def test_lazy_adam_is_refused_with_advice():
    config = EmbeddingOptimizerConfig(kind="adam")
    with pytest.raises(ShardingError, match=r"CUDA only.*Use kind=rowwise_adagrad, mode=dense"):
        to_torchrec(make_collection(), config)


def test_tables_are_placed_once():
    _, _, sharded, _ = both("sgd", "sparse")
    config = EmbeddingOptimizerConfig()
    with pytest.raises(ShardingError, match="on the torchrec backend already"):
        to_torchrec(sharded, config)
    with pytest.raises(ShardingError, match="`to_torchrec` has returned their optimizer"):
        sharded.attach_optimizer(config)


def test_meta_tables_get_the_same_start_values():
    groups = {"g": [spec("t", 50, 3, ("user",), "sum")]}
    local = EmbeddingCollection(groups, KEYS)
    sharded = EmbeddingCollection(groups, KEYS, device="meta")
    to_torchrec(sharded, EmbeddingOptimizerConfig())
    assert torch.equal(local.state_dict()["g.t.weight"], sharded.state_dict()["g.t.weight"])


@pytest.mark.parametrize("mode", ["sparse", "dense"])
def test_rows_one_by_one(mode):
    config = EmbeddingOptimizerConfig(kind="adagrad", mode=mode)
    results = []
    for backend in ("local", "torchrec"):
        collection = make_collection()
        if backend == "local":
            optimizer = collection.attach_optimizer(config)
        else:
            options = ShardingOptions(unpooled=("embedding.tags", "linear.person"))
            optimizer = to_torchrec(collection, config, options)
        for seed in range(3):
            optimizer.zero_grad()
            batch = make_batch(seed)
            outputs = collection(batch)
            rows, _ = collection.sequence(batch, "embedding", "tags")
            (objective(outputs) + (rows**2).sum()).backward()
            optimizer.step()
        results.append({**collection.state_dict(), **optimizer.state_dict()})
    for state in results:
        state.update({name: value[1:] for name, value in state.items()})
    assert_equal_states(*results)


def test_rows_of_a_pooled_table_are_refused():
    _, _, sharded, _ = both("sgd", "sparse")
    with pytest.raises(ShardingError, match=r"unpooled=\('embedding.tags',\)"):
        sharded.sequence(make_batch(0), "embedding", "tags")


@pytest.mark.parametrize("decoder", [Add, Multiply])
def test_compressed_tables_change_nothing(decoder):
    config = EmbeddingOptimizerConfig(kind="adagrad")
    local, sharded = make(decoder), make(decoder)
    optimizers = [local.attach_optimizer(config)]
    optimizers.append(to_torchrec(sharded, config))
    for collection, optimizer in zip((local, sharded), optimizers):
        for _ in range(3):
            optimizer.zero_grad()
            ((collection(scheme_batch())["g"].values - 1) ** 2).sum().backward()
            optimizer.step()
    assert_equal_states(local.state_dict(), sharded.state_dict())


def test_plan_is_printable():
    _, _, sharded, optimizer = both("rowwise_adagrad", "sparse")
    text = str(sharded.store.plan)
    assert "embedding.person  table_wise  0" in text
    held = sharded.bytes("train", optimizer)
    assert f"rank 0: {held.total:_} bytes" in text


def test_columns_with_rowwise_adagrad_are_refused():
    options = ShardingOptions(ShardingConfig(placement="column_wise"))
    with pytest.raises(ShardingError, match="another algorithm"):
        to_torchrec(make_collection(), EmbeddingOptimizerConfig(), options)
