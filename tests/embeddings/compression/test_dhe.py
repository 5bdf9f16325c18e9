"""Deep hash embeddings against numpy, in 64-bit floats and unbounded integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xxhash

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.budget import full_bytes, planned_bytes
from recsys.embeddings.compression.dhe import DHE, Hashes
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Full
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.schema import Init
from recsys.testing.table import SPEC, TableConformance, bag_batch, make_tables, vectors
from tests.embeddings.compression.test_hashing import WORD
from tests.embeddings.compression.toy import check_bags, made, regress, round_trip, table

K, W = 12, 24


def mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ x >> 31


def hashes_of(index: int, count: int) -> list[float]:
    """In [-1, 1): the upper 24 bits as a signed number."""
    start = xxhash.xxh3_64_intdigest(b"item#dhe", 0)
    found = []
    for j in range(count):
        upper = ((mix(index) * (mix((start + j) & WORD) | 1)) & WORD) >> 40
        found.append((upper - (1 << 24) if upper >= 1 << 23 else upper) / 2**23)
    return found


class TestDHE(TableConformance):
    scheme = DHE(hidden=W, num_hashes=K, depth=2)
    std_tolerance = 0.25  # 24 hidden units make all vectors, which are far from independent
    norms = 2 * 8 * W

    def expected_bytes(self) -> int:
        floats = (K + 1) * W + (W + 1) * W + (W + 1) * self.spec.embedding_dim
        return 4 * floats + self.norms + 8

    def sharing(self, index: int) -> set[int]:
        return set(range(1, 40))

    def step(self, tables, indices) -> None:
        """The MLP belongs to the dense optimizer."""
        dense = torch.optim.SGD(tables.decoders.parameters(), lr=1e-3)
        owner = tables.attach_optimizer(EmbeddingOptimizerConfig(kind="sgd", learning_rate=1e-3))
        dense.zero_grad()
        owner.zero_grad()
        vectors(tables, indices).sum().backward()
        owner.step()
        dense.step()


class TestMean(TestDHE):
    spec = SPEC.model_copy(update={"pooling": "mean"})


class TestReluWithoutNorm(TestDHE):
    scheme = DHE(hidden=W, num_hashes=K, depth=2, activation="relu", norm="none")
    norms = 0


class TestNormal(TestDHE):
    """The start values of models by default."""

    scheme = DHE(hidden=W, num_hashes=K, depth=2, distribution="normal")
    spec = SPEC.model_copy(update={"init": Init(std=1e-4)})


def computed(tables: EmbeddingCollection, scheme: DHE) -> torch.Tensor:
    """The whole table in numpy; batch norm by its running statistics."""
    state = {
        name.removeprefix("decoders.embedding/item."): value.double().numpy()
        for name, value in tables.state_dict().items()
    }
    x = np.array([hashes_of(index, K) for index in range(40)])
    if scheme.distribution == "normal":
        deciles = torch.distributions.Normal(0, 1).icdf(torch.tensor((x + 2**-24 + 1) / 2))
        x = deciles.numpy()
    number = 0
    for _ in range(scheme.depth):
        x = x @ state[f"layers.{number}.weight"].T + state[f"layers.{number}.bias"]
        number += 1
        if scheme.norm != "none":
            name = f"layers.{number}"
            if scheme.norm == "layer":
                mean, var = x.mean(1, keepdims=True), x.var(1, keepdims=True)
            else:
                mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
            x = (x - mean) / np.sqrt(var + 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]
            number += 1
        x = np.maximum(x, 0) if scheme.activation == "relu" else x * np.tanh(np.logaddexp(0, x))
        number += 1
    x = x @ state[f"layers.{number}.weight"].T + state[f"layers.{number}.bias"]
    x[0] = 0
    return torch.tensor(x, dtype=torch.float32)


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("distribution", ["uniform", "normal"])
@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
@pytest.mark.parametrize("activation", ["mish", "relu"])
def test_values_are_the_definition(activation, norm, distribution, pooling):
    scheme = DHE(
        hidden=W,
        num_hashes=K,
        depth=2,
        activation=activation,
        norm=norm,
        distribution=distribution,
    )
    tables = made(scheme, SPEC.model_copy(update={"pooling": pooling}))
    if norm == "batch":
        with torch.no_grad():
            tables(bag_batch([[3, 4, 9], [7]]))  # moves the running statistics
        tables.eval()
    for parameter in tables.decoders.parameters():  # biases and norms start neutral
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        parameter.data += 0.1 * noise
    check_bags(tables, computed(tables, scheme))


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_hashes_have_their_distribution(distribution):
    hashes = Hashes("item", 64, distribution, 0)
    hashes.initialize()
    large = torch.arange(2**31 - 20_001, 2**31 - 1, dtype=torch.int32)
    for indices in (torch.arange(1, 20_001, dtype=torch.int32), large):
        found = hashes(indices)
        assert found.isfinite().all()
        assert found.mean().abs() < 0.005
        deviation = 1.0 if distribution == "normal" else 3**-0.5
        assert found.std().item() == pytest.approx(deviation, rel=0.01)
        between = torch.corrcoef(found.t()).fill_diagonal_(0)
        assert between.abs().max() < 5 / 20_000**0.5
        if distribution == "uniform":
            assert -1 <= found.min() < -0.999
            assert 0.999 < found.max() < 1


def test_equal_indices_are_computed_once(monkeypatch):
    tables = made(DHE(hidden=W, num_hashes=K), SPEC)
    seen, forward = [], Hashes.forward

    def counted(self, indices):
        seen.append(indices.tolist())
        return forward(self, indices)

    monkeypatch.setattr(Hashes, "forward", counted)
    vectors(tables, [7, 3, 7, 7])
    assert seen == [[3, 7]]


def test_batch_norm_sees_repeats_in_training():
    tables = made(DHE(hidden=W, num_hashes=K, depth=1, norm="batch"), SPEC)
    decoder = tables.decoders["embedding/item"]
    before = decoder.layers[0](decoder.hashes(torch.tensor([7, 3, 7, 7], dtype=torch.int32)))
    vectors(tables, [7, 3, 7, 7])
    torch.testing.assert_close(decoder.layers[1].running_mean, 0.1 * before.mean(0))


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.02])
def test_plan_fills_the_budget(ratio, norm):
    tables = [table("a", 100_000), table("b", 12), table("c", 30_000, 10)]
    budget = int(ratio * full_bytes(tables))
    plan = DHE(norm=norm).plan(tables, budget)
    assert 0.9 * budget < planned_bytes(tables, plan) <= budget
    assert plan["b"] == Full()
    fixed = DHE(norm=norm, num_hashes=1024).plan(tables, budget)
    assert fixed["a"].num_hashes == 1024
    assert 0.9 * budget < planned_bytes(tables, fixed) <= budget


def test_formula_of_the_plan_is_the_storage():
    spec = table("a", 10_000)
    for norm, norms in (("none", 0), ("layer", 8 * 20), ("batch", 16 * 20 + 8)):
        plan = DHE(norm=norm, depth=3, hidden=20).plan([spec], None)
        assert plan["a"].num_hashes == 20
        floats = 21 * 20 + 2 * 21 * 20 + 21 * 16
        assert planned_bytes([spec], plan) == 4 * floats + 3 * norms + 8


def test_hashes_follow_the_width():
    plan = DHE(depth=1).plan([table("a", 10_000_000)], 60_000_000)
    assert plan["a"].num_hashes == 1024 < plan["a"].hidden
    assert DHE(hidden=4).plan([table("a", 10_000)], None)["a"].num_hashes == 16


def test_budget_below_the_floor_is_refused():
    tables = [table("a", 400), table("b", 400)]
    floor = 2 * (4 * (17 * 4 + 4 * 5 * 4 + 5 * 16) + 5 * 8 * 4 + 8)
    with pytest.raises(BudgetInfeasible) as error:
        DHE().plan(tables, floor - 1)
    assert error.value.min_bytes == floor
    assert DHE().plan(tables, floor)["a"].hidden == 4
    with pytest.raises(ConfigError, match="hidden"):
        DHE().plan(tables, None)


def test_other_dtypes_are_refused():
    DHE().check_dtype("fp32")
    with pytest.raises(ConfigError, match="has no rows"):
        DHE().check_dtype("int8")


def test_json_round_trip():
    scheme = DHE(hidden=W, num_hashes=K, depth=2, activation="relu", norm="batch", salt=3)
    assert round_trip(scheme) == scheme


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_training_lowers_a_loss(norm):
    tables = made(DHE(hidden=W, num_hashes=32, depth=2, norm=norm), SPEC)
    targets = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    losses = regress(tables, targets)
    assert losses[-1] < 0.1 * losses[0]
    assert all(parameter.grad is not None for parameter in tables.decoders.parameters())


def test_tiny_start_trains_too():
    spec = SPEC.model_copy(update={"init": Init(std=1e-4)})
    tables = made(DHE(hidden=W, num_hashes=32, depth=2), spec)
    targets = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    losses = regress(tables, targets)
    assert losses[-1] < 0.1 * losses[0]


def test_state_restores_running_statistics():
    scheme = DHE(hidden=W, num_hashes=K, norm="batch")
    tables, other = made(scheme, SPEC, 1), made(scheme, SPEC, 2)
    regress(tables, torch.ones(6, 4), steps=3)
    other.load_state_dict({name: value.clone() for name, value in tables.state_dict().items()})
    assert torch.equal(vectors(tables.eval(), range(40)), vectors(other.eval(), range(40)))


def test_all_rows_in_chunks():
    spec = SPEC.model_copy(update={"num_embeddings": 9000})
    tables = made(DHE(hidden=W, num_hashes=K), spec)
    rows = tables.all_rows("embedding", "item")
    torch.testing.assert_close(rows[[1, 4097, 8999]], vectors(tables, [1, 4097, 8999]))


def test_traced_form_agrees():
    decoder = make_tables(DHE(hidden=W, num_hashes=K), SPEC).decoders["embedding/item"]

    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder = decoder

        def forward(self, indices):
            return self.decoder((), indices)

    indices = torch.tensor([3, 3, 9, 12, 0], dtype=torch.int32)
    auto = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(Flat(), (indices[:4],), dynamic_shapes=auto)
    torch.testing.assert_close(program.module()(indices), Flat()(indices))


def test_alone_in_a_collection():
    tables = EmbeddingCollection({"g": [SPEC]}, ("item",), schemes={"g.item": DHE(hidden=W)})
    assert tables.table_parameters() == []
    assert tables.all_rows("g", "item").shape == (40, 4)
    assert tables.all_rows("g", "item").isfinite().all()
