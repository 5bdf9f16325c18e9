"""Sparse and dense training against torch's own optimizers on plain nn.EmbeddingBag."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from recsys.embeddings import kernels
from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.errors import CheckpointError
from recsys.types import Batch
from tests.embeddings.conftest import make_batch, make_collection, objective, spec

ROWS, DIM = 30, 5
EVERY = [("sgd", "sparse"), ("adagrad", "sparse"), ("rowwise_adagrad", "sparse")]
EVERY += [("adam", "sparse"), ("sgd", "dense"), ("adagrad", "dense"), ("adam", "dense")]


def bags(seed: int) -> Batch:
    """Bags of one feature, without PAD."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 5, (16,), generator=generator, dtype=torch.int32)
    count = int(lengths.sum())
    values = torch.randint(1, ROWS, (count,), generator=generator, dtype=torch.int32)
    return Batch(torch.zeros(16, 0), values, lengths, torch.zeros(16, 1), ("a",), (count,))


def pair(pooling: str, sparse: bool) -> tuple[EmbeddingCollection, nn.EmbeddingBag]:
    ours = EmbeddingCollection({"g": [spec("t", ROWS, DIM, ("a",), pooling)]}, ("a",))
    weight = ours.state_dict()["g.t.weight"].clone()
    return ours, nn.EmbeddingBag.from_pretrained(weight, freeze=False, mode=pooling, sparse=sparse)


def train(ours, theirs, optimizer, reference, steps=6):
    for step in range(steps):
        batch = bags(step)
        optimizer.zero_grad()
        reference.zero_grad()
        offsets = batch.lengths.cumsum(0) - batch.lengths
        ((ours(batch)["g"].values - 0.3) ** 2).sum().backward()
        ((theirs(batch.values.long(), offsets) - 0.3) ** 2).sum().backward()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(
        ours.state_dict()["g.t.weight"], theirs.weight.detach(), atol=2e-6, rtol=2e-6
    )


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam"])
def test_sparse_equals_torch(implementation, kind, pooling):
    ours, theirs = pair(pooling, sparse=True)
    config = EmbeddingOptimizerConfig(
        kind=kind, learning_rate=0.05, initial_accumulator_value=0.1 if kind == "adagrad" else 0.0
    )
    reference = {
        "sgd": lambda p: torch.optim.SGD(p, 0.05),
        "adagrad": lambda p: torch.optim.Adagrad(
            p, 0.05, eps=config.eps, initial_accumulator_value=0.1
        ),
        "adam": lambda p: torch.optim.SparseAdam(p, 0.05, eps=config.eps),
    }[kind](list(theirs.parameters()))
    train(ours, theirs, ours.attach_optimizer(config), reference)


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam"])
def test_dense_equals_torch_with_l2_on_whole_tables(kind):
    ours, theirs = pair("sum", sparse=False)
    config = EmbeddingOptimizerConfig(kind=kind, mode="dense", learning_rate=0.05, l2=0.1)
    reference = {
        "sgd": lambda p: torch.optim.SGD(p, 0.05, weight_decay=0.1),
        "adagrad": lambda p: torch.optim.Adagrad(p, 0.05, eps=config.eps, weight_decay=0.1),
        "adam": lambda p: torch.optim.Adam(p, 0.05, eps=config.eps, weight_decay=0.1),
    }[kind](theirs.parameters())
    train(ours, theirs, ours.attach_optimizer(config), reference)


def test_rowwise_adagrad_by_hand(implementation):
    ours = EmbeddingCollection({"g": [spec("t", 4, 2, ("a",), "sum")]}, ("a",))
    ours.load_state_dict({"g.t.weight": torch.tensor([[0.0, 0], [1, 1], [2, 2], [5, 5]])})
    optimizer = ours.attach_optimizer(EmbeddingOptimizerConfig(learning_rate=0.5))
    values = torch.tensor([1, 2, 1], dtype=torch.int32)  # row 1 twice: its gradients are summed
    ones = torch.ones(3, dtype=torch.int32)
    batch = Batch(torch.zeros(3, 0), values, ones, torch.zeros(3, 1), ("a",), (3,))
    output = ours(batch)["g"].values
    output.backward(torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 2.0]]))
    optimizer.step()
    # row 1: g = (3, 4), mean square 12.5; row 2: g = (3, 1), mean square 5; row 3 is untouched
    expected = np.array(
        [
            [0, 0],
            [1 - 1.5 / 12.5**0.5, 1 - 2 / 12.5**0.5],
            [2 - 1.5 / 5**0.5, 2 - 0.5 / 5**0.5],
            [5, 5],
        ]
    )
    np.testing.assert_allclose(ours.state_dict()["g.t.weight"].numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(optimizer.state_dict()["g.t.sum"].numpy(), [0, 12.5, 5, 0])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["sgd", "adagrad", "rowwise_adagrad", "adam"])
def test_compiled_equals_torch_operations(monkeypatch, kind, weighted):
    if kernels.library() is None:
        pytest.skip("kernels were not built")
    results = []
    library = kernels.library
    for compiled in (True, False):
        monkeypatch.setattr(kernels, "library", library if compiled else lambda: None)
        collection = make_collection()
        optimizer = collection.attach_optimizer(EmbeddingOptimizerConfig(kind=kind))
        for step in range(5):
            optimizer.zero_grad()
            objective(collection(make_batch(step, size=200, weighted=weighted))).backward()
            optimizer.step()
        results.append({**collection.state_dict(), **optimizer.state_dict()})
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], atol=1e-6, rtol=1e-5)


def test_result_does_not_depend_on_the_number_of_threads():
    if kernels.library() is None:
        pytest.skip("kernels were not built")
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            specs = [spec(f"t{i}", 5000, 8 + i, (f"f{i}",), "sum") for i in range(5)]
            keys = tuple(f"f{i}" for i in range(5))
            collection = EmbeddingCollection({"g": specs}, keys)
            optimizer = collection.attach_optimizer(EmbeddingOptimizerConfig())
            generator = torch.Generator().manual_seed(0)
            values = torch.randint(0, 5000, (5 * 9000,), generator=generator, dtype=torch.int32)
            lengths = torch.ones(5 * 9000, dtype=torch.int32)
            empty = torch.zeros(9000, 0)
            batch = Batch(empty, values, lengths, empty, keys, (9000,) * 5)
            for _ in range(2):
                (collection(batch)["g"].values ** 2).sum().backward()
                optimizer.step()
            results.append({**collection.state_dict(), **optimizer.state_dict()})
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(value, other[name]) for name, value in results[0].items())


@pytest.mark.parametrize(("kind", "mode"), EVERY)
def test_pad_rows_stay_zero(implementation, kind, mode):
    collection = make_collection()
    l2 = 0.1 if mode == "dense" else 0.0
    config = EmbeddingOptimizerConfig(kind=kind, mode=mode, l2=l2)
    optimizer = collection.attach_optimizer(config)
    for step in range(3):
        batch = make_batch(step)
        assert (batch.values == 0).any()
        optimizer.zero_grad()
        objective(collection(batch)).backward()
        optimizer.step()
    assert not any(weight[0].any() for weight in collection.state_dict().values())
    if "adagrad" in kind:
        assert not any(state[0].any() for state in optimizer.state_dict().values())


@pytest.mark.parametrize(("kind", "mode"), EVERY)
def test_state_round_trip_continues_exactly(implementation, kind, mode):
    config = EmbeddingOptimizerConfig(kind=kind, mode=mode)
    collections = [make_collection(), make_collection()]
    optimizers = [collection.attach_optimizer(config) for collection in collections]

    def step(number, seed):
        optimizers[number].zero_grad()
        objective(collections[number](make_batch(seed))).backward()
        optimizers[number].step()

    step(0, 0)
    step(0, 1)
    collections[1].load_state_dict(collections[0].state_dict())
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    step(0, 2)
    step(1, 2)
    first, second = (c.state_dict() for c in collections)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_state_names_and_errors(collection):
    optimizer = collection.attach_optimizer(EmbeddingOptimizerConfig(kind="adam"))
    state = optimizer.state_dict()
    names = {name.rsplit(".", 1)[1] for name in state}
    assert names == {"exp_avg", "exp_avg_sq", "step"}
    assert state["embedding.tags.exp_avg"].shape == (9, 6)
    with pytest.raises(CheckpointError, match="unexpected"):
        make_collection().attach_optimizer(EmbeddingOptimizerConfig()).load_state_dict(state)
    state["embedding.tags.exp_avg"] = torch.zeros(8, 6)
    with pytest.raises(CheckpointError, match=r"`embedding.tags.exp_avg`: expected \(9, 6\), got"):
        optimizer.load_state_dict(state)


def test_gradients_add_up_until_the_step(implementation):
    whole, parts = make_collection(), make_collection()
    optimizers = [c.attach_optimizer(EmbeddingOptimizerConfig()) for c in (whole, parts)]
    first, second = make_batch(1), make_batch(2)
    (objective(whole(first)) + objective(whole(second))).backward()
    objective(parts(first)).backward()
    objective(parts(second)).backward()
    for optimizer in optimizers:
        optimizer.step()
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(weight, parts.state_dict()[name])


def test_zero_grad_forgets_and_learning_rate_counts(implementation):
    collection = make_collection()
    optimizer = collection.attach_optimizer(EmbeddingOptimizerConfig(kind="sgd"))
    before = copy.deepcopy(collection.state_dict())
    objective(collection(make_batch(0))).backward()
    optimizer.zero_grad()
    optimizer.step()
    assert all(torch.equal(w, before[n]) for n, w in collection.state_dict().items())
    moved = []
    for rate in (0.1, 0.2):
        other = make_collection()
        optimizer = other.attach_optimizer(EmbeddingOptimizerConfig(kind="sgd"))
        optimizer.set_learning_rate(rate)
        assert optimizer.learning_rate == rate
        objective(other(make_batch(0))).backward()
        optimizer.step()
        moved.append(other.state_dict()["linear.person.weight"] - before["linear.person.weight"])
    torch.testing.assert_close(2 * moved[0], moved[1], atol=1e-6, rtol=1e-4)


def test_gradient_of_index_weights(implementation):
    gradients = []
    for attach in (True, False):
        collection = make_collection()
        if attach:
            collection.attach_optimizer(EmbeddingOptimizerConfig())
        batch = make_batch(4, weighted=True)
        weights = batch.value_weights.requires_grad_()
        objective(collection(dataclasses.replace(batch, value_weights=weights))).backward()
        gradients.append(weights.grad)
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


def test_unpooled_rows_are_trained(implementation):
    trained = []
    for mode in ("sparse", "dense"):
        collection = make_collection()
        config = EmbeddingOptimizerConfig(kind="adagrad", mode=mode)
        optimizer = collection.attach_optimizer(config)
        rows, _ = collection.sequence(make_batch(6), "embedding", "tags")
        pooled = collection(make_batch(6))["embedding"].values
        ((rows - 1) ** 2).sum().backward(retain_graph=True)
        (pooled**2).sum().backward()
        optimizer.step()
        trained.append(collection.state_dict()["embedding.tags.weight"])
    torch.testing.assert_close(*trained, atol=1e-6, rtol=1e-5)


def test_contradicting_settings_are_refused():
    with pytest.raises(ValueError, match="`l2` needs mode=dense"):
        EmbeddingOptimizerConfig(l2=0.1)
    with pytest.raises(ValueError, match="mode=dense knows kind=adam, adagrad and sgd"):
        EmbeddingOptimizerConfig(kind="rowwise_adagrad", mode="dense")
