"""INT8 and INT16 training storage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.budget import planned_bytes
from recsys.embeddings.compression.integer_rows import start_factor, uniform
from recsys.embeddings.compression.low_precision import LowPrecision, LowPrecisionRows
from recsys.embeddings.compression.plan import compress
from recsys.embeddings.compression.schemes import AnyScheme
from recsys.embeddings.optimizer import EmbeddingOptimizer, EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Full, Scheme
from recsys.errors import BudgetInfeasible, CheckpointError, ConfigError
from recsys.schema import Init, TableSpec
from recsys.testing.table import SPEC, TableConformance, bag_batch, make_tables, vectors

N, D = SPEC.num_embeddings, SPEC.embedding_dim


class TestLowPrecision(TableConformance):
    scheme = LowPrecision(bits=8)

    def expected_bytes(self) -> int:
        return N * D + 1 + 16


class TestSixteenBitsPerRow(TableConformance):
    scheme = LowPrecision(bits=16, per="row")

    def expected_bytes(self) -> int:
        return 2 * N * D + N + 16


class TestFixedStep(TableConformance):
    scheme = LowPrecision(bits=8, step=0.02)

    def expected_bytes(self) -> int:
        return N * D + 16


def rows_of(tables: EmbeddingCollection) -> LowPrecisionRows:
    decoder = tables.decoders["embedding/item"]
    assert isinstance(decoder, LowPrecisionRows)
    return decoder


def started(scheme: Scheme, spec: TableSpec = SPEC, seed: int = 1) -> EmbeddingCollection:
    tables = make_tables(scheme, spec)
    tables.reset_parameters(seed)
    return tables


BAGS = [[3, 4, 3], [], [5], [39, 0, 3]]
WEIGHTS = [0.5, 2.0, -1.0, 1.5, 1.0, 0.25, 2.0]


def train_step(tables: EmbeddingCollection, owner: EmbeddingOptimizer, step: int = 0) -> None:
    owner.zero_grad()
    target = torch.arange(1.0, 1 + D) * 0.1 * (step + 1)
    output = tables(bag_batch(BAGS, WEIGHTS))["embedding"]["item"]
    ((output - target) ** 2).sum().backward()
    owner.step()


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize(
    "kind, mode",
    [
        ("sgd", "sparse"),
        ("rowwise_adagrad", "sparse"),
        ("adagrad", "sparse"),
        ("adam", "sparse"),
        ("adam", "dense"),
        ("adagrad", "dense"),
        ("sgd", "dense"),
    ],
)
def test_equals_fp32_for_a_tiny_step_and_rounding_to_nearest(kind, mode, pooling):
    """Against a plain table with the collection's own optimizers; duplicates, weights, PAD."""
    spec = SPEC.model_copy(update={"init": Init(std=0.01), "pooling": pooling})
    small = started(LowPrecision(bits=16, step=2e-5, rounding="nearest"), spec)
    plain = make_tables(Full(), spec)
    state = {
        "embedding.other.weight": small.state_dict()["embedding.other.weight"].clone(),
        "embedding.item.weight": vectors(small, range(N)).detach().clone(),
    }
    plain.load_state_dict(state)
    rate = 0.02 if kind == "sgd" else 0.005
    config = EmbeddingOptimizerConfig(
        kind=kind, mode=mode, learning_rate=rate, l2=0.01 if mode == "dense" else 0.0
    )
    owners = small.attach_optimizer(config), plain.attach_optimizer(config)
    for step in range(5):
        for tables, owner in zip((small, plain), owners):
            train_step(tables, owner, step)
    moved = (vectors(plain, range(N)) - state["embedding.item.weight"]).abs().max()
    assert moved > 0.01
    torch.testing.assert_close(
        vectors(small, range(N)), vectors(plain, range(N)), atol=1.5e-4, rtol=0
    )


def test_one_step_by_hand():
    """q <- clip(floor((q step - lr g) / step + u)), with numpy and exact integers."""
    tables = started(LowPrecision(bits=8, step=0.02))
    rows = rows_of(tables)
    owner = tables.attach_optimizer(EmbeddingOptimizerConfig(kind="sgd", learning_rate=1.0))
    before = rows.codes.numpy().astype(np.int64).copy()
    noise = uniform(rows.noise[0], rows.noise[1], torch.arange(N), D).numpy()
    owner.zero_grad()
    grad = torch.linspace(-0.3, 0.3, 3 * D).view(3, D)
    (vectors(tables, [7, 9, 7]) * grad).sum().backward()
    owner.step()
    expected = before.copy()
    for index, g in ((7, grad[0] + grad[2]), (9, grad[1])):
        exact = before[index] - g.double().numpy() / np.float64(np.float32(0.02))
        expected[index] = np.clip(np.floor(exact + noise[index]), -128, 127)
    assert (expected != before).any()
    np.testing.assert_array_equal(rows.codes.numpy(), expected)


def test_rounding_is_unbiased_and_small_updates_do_not_vanish():
    """A hundredth of a step, 20 000 numbers, 10 steps: the mean moves by a tenth of a step."""
    spec = SPEC.model_copy(update={"num_embeddings": 5001, "init": Init(kind="zeros")})
    means = {}
    for rounding in ("stochastic", "nearest"):
        tables = started(LowPrecision(bits=8, step=0.01, rounding=rounding), spec)
        owner = tables.attach_optimizer(EmbeddingOptimizerConfig(kind="sgd", learning_rate=1e-4))
        for _ in range(10):
            owner.zero_grad()
            vectors(tables, range(1, 5001)).sum().backward()
            owner.step()
        means[rounding] = vectors(tables, range(1, 5001)).mean().item()
    # sd of the mean: sqrt(10 * 0.01 * 0.99 / 20000) steps of 0.01, about 2.2e-5
    assert means["stochastic"] == pytest.approx(-1e-3, abs=1e-4)
    assert means["nearest"] == 0.0


def test_the_smallest_updates_of_int16_survive():
    """Around code 30 000 float32 cannot tell 30000.001 from 30000; the mean still moves."""
    spec = SPEC.model_copy(update={"num_embeddings": 5001})
    tables = started(LowPrecision(bits=16, step=1e-3), spec)
    rows = rows_of(tables)
    rows.codes.fill_(30_000)
    every = torch.arange(1, 5001)
    for step in range(10):
        rows.noise[1] = step
        rows.write(every, rows.read(every) + 1e-6)
    drift = rows.codes[1:].double().mean().item() - 30_000
    assert drift == pytest.approx(0.01, abs=0.003)


def test_noise_is_uniform_and_does_not_repeat():
    seed, rows = torch.tensor(5), torch.arange(4000)
    first = uniform(seed, torch.tensor(1), rows, 8)
    assert first.min() > 0 and first.max() < 1
    assert first.mean().item() == pytest.approx(0.5, abs=0.006)
    assert first.var().item() == pytest.approx(1 / 12, rel=0.02)
    other = uniform(seed, torch.tensor(2), rows, 8)
    both = torch.stack([first.flatten(), other.flatten(), first.flip(1).flatten()])
    assert (torch.corrcoef(both) - torch.eye(3)).abs().max() < 0.02
    assert torch.equal(uniform(seed, torch.tensor(1), rows[7:9], 8), first[7:9])


def test_the_table_step_doubles_when_a_row_leaves_the_range():
    tables = started(LowPrecision(bits=8), SPEC.model_copy(update={"init": Init(std=1e-4)}))
    rows = rows_of(tables)
    before, first = vectors(tables, range(N)).detach().clone(), int(rows.exponents)
    assert 6e-4 / 127 <= 2.0**first < 2 * 6e-4 / 127
    values = rows.read(torch.tensor([5]))
    values[0, 0] = 1.0
    rows.write(torch.tensor([5]), values)
    step = 2.0 ** int(rows.exponents)
    assert 1 / 127 <= step < 2 / 127
    after = vectors(tables, range(N)).detach()
    assert after[5, 0].item() == pytest.approx(1.0, abs=step)
    # Each of the others went to 0 or one step away from it.
    assert ((after - before)[6:].abs() <= step).all() and not torch.equal(after, before)


def test_a_row_step_follows_its_row_and_halving_loses_nothing():
    tables = started(LowPrecision(bits=8, per="row"))
    rows = rows_of(tables)
    mine = torch.tensor([4, 6])
    values = torch.tensor([[100.0, 1, -1, 0], [0.001, 0, 0, 0]], dtype=torch.float64)
    others = vectors(tables, range(7, N)).detach().clone()
    rows.write(mine, values)
    steps = rows.steps_of(mine).flatten()
    assert steps[0] == 1.0 and 0.001 / 127 <= steps[1] < 4 * 0.001 / 127
    assert torch.equal(vectors(tables, range(7, N)), others)
    exact = rows.read(mine[:1])
    exact[0, 0] = exact[0, 0].sign()  # the large one is gone, the row gets a finer step
    rows.write(mine[:1], exact)
    assert rows.steps_of(mine[:1]) <= 1 / 32
    assert torch.equal(rows.read(mine[:1]), exact)


@pytest.mark.parametrize("std", [1e-3, 0.5])
@pytest.mark.parametrize(
    "scheme",
    [LowPrecision(bits=8), LowPrecision(bits=16, per="row"), LowPrecision(bits=8, step=0.01)],
)
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_start_values_have_the_deviation_asked_for(scheme, std, kind):
    init = Init(kind=kind, std=std)
    spec = SPEC.model_copy(update={"num_embeddings": 20_000, "init": init})
    got = vectors(started(scheme, spec), range(1, 20_000)).std().item()
    assert got == pytest.approx(std, rel=0.06)


def test_start_factor_of_a_coarse_grid():
    """Far below the step nearly all variance is rounding: |w| step = std^2."""
    factor = start_factor(Init(kind="uniform", std=1e-4), 0.01)
    spread = factor * 1e-4 * np.sqrt(3) / 2  # mean |w| of the uniform distribution
    assert spread * 0.01 == pytest.approx(1e-8, rel=0.02)


# ------------------------------------------------------------------------------- plan


def table(name: str, rows: int, dim: int) -> TableSpec:
    return SPEC.model_copy(
        update={
            "name": name,
            "num_embeddings": rows,
            "embedding_dim": dim,
            "feature_names": (name,),
        }
    )


def test_plan_takes_the_widest_that_fits():
    tables = [table("a", 1000, 8), table("b", 100, 8)]
    full = 1100 * 8 * 4
    for ratio, bits in ((0.25, 8), (0.49, 8), (0.5, 16)):
        plan = compress(tables, LowPrecision(), ratio=ratio)
        assert [plan[name].model_dump()["bits"] for name in "ab"] == [bits, bits]
        assert planned_bytes(tables, plan) <= ratio * full
    assert planned_bytes(tables, compress(tables, LowPrecision(), ratio=0.25)) == 8 * 1098 + 2
    assert compress(tables, LowPrecision())["a"] == LowPrecision(bits=8)
    with pytest.raises(BudgetInfeasible) as error:
        compress(tables, LowPrecision(), ratio=0.1)
    assert error.value.min_bytes == 8 * 1098 + 2


def test_plan_of_narrow_tables():
    """A step a row would double a code; one step a table does not."""
    narrow = table("a", 1000, 1)
    plan = LowPrecision(per="row").plan([narrow], 1000)
    assert plan["a"] == LowPrecision(bits=8, per="table")
    assert planned_bytes([narrow], plan) == 999 + 1
    assert LowPrecision(step=0.1).plan([table("a", 1, 1)], None)["a"].model_dump() == {
        "kind": "full"
    }


def test_json_round_trip():
    adapter = TypeAdapter(AnyScheme)
    scheme = LowPrecision(bits=16, per="row")
    assert adapter.validate_json(scheme.model_dump_json()) == scheme
    assert adapter.validate_python({"kind": "low_precision"}) == LowPrecision()


# ------------------------------------------------------------------------------- life


@pytest.mark.parametrize(
    "scheme",
    [LowPrecision(bits=8), LowPrecision(bits=8, per="row"), LowPrecision(bits=8, step=0.02)],
)
@pytest.mark.parametrize("kind", ["sgd", "rowwise_adagrad", "adam"])
def test_resume_is_exact(scheme, kind):
    config = EmbeddingOptimizerConfig(kind=kind, learning_rate=0.05)
    tables = started(scheme)
    owner = tables.attach_optimizer(config)
    for step in range(2):
        train_step(tables, owner, step)
    saved = {k: v.clone() for k, v in tables.state_dict().items()}
    states = {k: v.clone() for k, v in owner.state_dict().items()}
    other = started(scheme, seed=5)
    again = other.attach_optimizer(config)
    other.load_state_dict(saved)
    again.load_state_dict(states)
    for step in range(2, 4):
        train_step(tables, owner, step)
        train_step(other, again, step)
    for name, value in tables.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    if kind != "sgd":
        with pytest.raises(CheckpointError, match="missing"):
            again.load_state_dict({})


def test_optimizer_states_are_counted_and_follow_the_rate():
    tables = started(LowPrecision(bits=8))
    owner = tables.attach_optimizer(EmbeddingOptimizerConfig(kind="rowwise_adagrad"))
    assert tables.bytes("train", owner).optimizer == (N + 7) * 4  # `other` has 7 rows
    assert set(owner.state_dict()) == {"embedding.other.sum", "embedding.item@rows.sum"}
    owner.set_learning_rate(0.0)
    before = vectors(tables, range(N)).detach().clone()
    train_step(tables, owner)
    assert owner.learning_rate == 0.0
    assert torch.equal(vectors(tables, range(N)), before)
    assert owner.state_dict()["embedding.item@rows.sum"][3] > 0
    owner.reset_rows("embedding.item", torch.tensor([3]))
    assert owner.state_dict()["embedding.item@rows.sum"][3] == 0


def test_a_collection_without_any_store_table_trains():
    tables = EmbeddingCollection(
        {"embedding": [SPEC]}, ("item",), schemes={"embedding.item": LowPrecision(bits=8)}
    )
    for mode in ("sparse", "dense"):
        config = EmbeddingOptimizerConfig(kind="adagrad", mode=mode, learning_rate=0.1)
        owner = tables.attach_optimizer(config)
        before = tables.all_rows("embedding", "item").detach().clone()
        owner.zero_grad()
        tables.all_rows("embedding", "item")[4].sum().backward()
        owner.step()
        moved = (tables.all_rows("embedding", "item") != before).any(1).nonzero()
        assert moved.flatten().tolist() == [4]
        owner.load_state_dict(owner.state_dict())
        with pytest.raises(CheckpointError):
            owner.load_state_dict({**owner.state_dict(), "embedding.else.sum": torch.zeros(1)})


@pytest.mark.parametrize("per", ["table", "row"])
def test_training_lowers_the_loss(per):
    spec = SPEC.model_copy(update={"init": Init(std=1e-4)})
    tables = started(LowPrecision(bits=8, per=per), spec)
    owner = tables.attach_optimizer(
        EmbeddingOptimizerConfig(kind="rowwise_adagrad", learning_rate=0.05)
    )
    target = torch.randn(N - 1, D, generator=torch.Generator().manual_seed(0)) * 0.3
    losses = []
    for _ in range(200):
        owner.zero_grad()
        loss = ((vectors(tables, range(1, N)) - target) ** 2).mean()
        loss.backward()
        owner.step()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("options", [{"per": "table"}, {"per": "row"}, {"step": 0.02}])
def test_frozen_is_the_eval_forward_exactly(bits, options):
    scheme = LowPrecision(bits=bits, **options)
    tables = started(scheme)
    owner = tables.attach_optimizer(EmbeddingOptimizerConfig(learning_rate=0.1))
    for step in range(3):
        train_step(tables, owner, step)
    successor = scheme.frozen(tables.trained()["embedding.item"])
    assert successor.scheme == scheme.frozen_scheme()
    served = make_tables(successor.scheme, SPEC)
    served.decoders["embedding/item"].load_state_dict(dict(successor.decoder or {}))
    batch = bag_batch(BAGS, WEIGHTS)
    with torch.no_grad():
        got, expected = (t(batch)["embedding"]["item"] for t in (served, tables))
        assert torch.equal(got, expected) and bool(expected.any())
        assert torch.equal(vectors(served, range(N)), vectors(tables, range(N)))
    steps = {"table": 1, "row": N - 1}[options["per"]] if "per" in options else 4
    assert served.bytes("infer").tables - 7 * D * 4 == (N - 1) * D * bits // 8 + steps
    assert tables.bytes("infer") == served.bytes("infer")


def test_a_dtype_below_the_rows_is_refused():
    LowPrecision(bits=8).check_dtype("int8")
    with pytest.raises(ConfigError, match="at least the 16 bits"):
        LowPrecision(bits=16).check_dtype("int8")


def test_evaluation_leaves_nothing_behind():
    tables = started(LowPrecision(bits=8))
    tables.attach_optimizer(EmbeddingOptimizerConfig())
    vectors(tables, [3, 4])
    with torch.no_grad():
        vectors(tables, [3, 4])
    assert rows_of(tables).pending == []
