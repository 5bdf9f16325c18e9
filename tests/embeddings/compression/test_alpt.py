"""Integer rows with learned steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.alpt import ALPT, LearnedStepRows, step_gradient
from recsys.embeddings.compression.budget import planned_bytes
from recsys.embeddings.compression.integer_rows import uniform
from recsys.embeddings.compression.low_precision import LowPrecision
from recsys.embeddings.compression.plan import compress
from recsys.embeddings.compression.schemes import AnyScheme
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.schema import Init, TableSpec
from recsys.testing.table import SPEC, TableConformance, bag_batch, make_tables, vectors

N, D = SPEC.num_embeddings, SPEC.embedding_dim
BAGS = [[3, 4, 3], [], [5], [39, 0, 3]]
WEIGHTS = [0.5, 2.0, -1.0, 1.5, 1.0, 0.25, 2.0]


class TestALPT(TableConformance):
    scheme = ALPT(bits=8)

    def expected_bytes(self) -> int:
        return N * (D + 4) + 16


class TestSixteenBitsFromAStatedStep(TableConformance):
    scheme = ALPT(bits=16, step=0.01)

    def expected_bytes(self) -> int:
        return N * (2 * D + 4) + 16


def started(scheme: ALPT, spec: TableSpec = SPEC, seed: int = 1) -> EmbeddingCollection:
    tables = make_tables(scheme, spec)
    tables.reset_parameters(seed)
    return tables


def rows_of(tables: EmbeddingCollection) -> LearnedStepRows:
    decoder = tables.decoders["embedding/item"]
    assert isinstance(decoder, LearnedStepRows)
    return decoder


def test_step_gradient_by_hand():
    """x = 0.3, -1.6 and 9 (clipped to 7): slopes -0.3, -0.4 and 7."""
    values = torch.tensor([[0.03, -0.16, 0.9]])
    grads = torch.tensor([[1.0, 2.0, 10.0]])
    got = step_gradient(values, torch.tensor([[0.1]]), grads, -8, 7, 0.5)
    assert got.item() == pytest.approx(0.5 * (-0.3 - 0.8 + 70.0))


def test_step_gradient_is_that_of_lsq():
    """Autograd through clip(round(x)) step with a straight-through round."""
    values, steps = torch.randn(20, 6), torch.rand(20, 1) * 0.3 + 0.05
    weight = torch.randn(20, 6)
    leaf = steps.clone().requires_grad_()
    scaled = (values / leaf).clamp(-8, 7)
    (((scaled.round() - scaled).detach() + scaled) * leaf * weight).sum().backward()
    got = step_gradient(values, steps, weight, -8, 7, 1.0)
    torch.testing.assert_close(got, leaf.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["sgd", "rowwise_adagrad"])
@pytest.mark.parametrize("first", [0.02, None])
def test_one_step_is_algorithm_1(kind, first):
    """In numpy: update the row, its step, then round the row with the new step."""
    tables = started(ALPT(bits=8, step=first, scale_lr=1e-3))
    rows = rows_of(tables)
    config = EmbeddingOptimizerConfig(kind=kind, learning_rate=0.05)
    owner = tables.attach_optimizer(config)
    codes = rows.codes.numpy().astype(np.float64).copy()
    steps = rows.steps.numpy().astype(np.float64).copy()
    noise = uniform(rows.noise[0], rows.noise[1], torch.arange(N), D).numpy()
    grad = torch.linspace(-0.3, 0.31, 3 * D).view(3, D)
    owner.zero_grad()
    (vectors(tables, [7, 9, 7]) * grad).sum().backward()
    owner.step()
    for index, g in ((7, (grad[0] + grad[2]).numpy()), (9, grad[1].numpy())):
        root = np.sqrt((g**2).mean()) if kind == "rowwise_adagrad" else 1.0
        moved = codes[index] * steps[index] - 0.05 * g / root
        x = moved / steps[index]
        inside = (x >= -128) & (x <= 127)
        slope = np.where(inside, np.round(x) - x, np.clip(x, -128, 127))
        toward = (g * slope).sum() / math.sqrt(3 * D * 127)
        toward = np.sign(toward) if kind == "rowwise_adagrad" else toward
        rate = 1e-3 * (steps[index] / 0.01 if first is None else 1.0)
        step = steps[index] - rate * toward
        assert rows.steps[index].item() == pytest.approx(step, rel=1e-5)
        assert step != steps[index]
        expected = np.clip(np.floor(moved / step + noise[index]), -128, 127)
        assert np.abs(rows.codes[index].numpy() - expected).max() <= 1  # ties of float32
        assert (rows.codes[index].numpy() == expected).mean() >= 0.75
        codes[index], steps[index] = rows.codes[index].numpy(), rows.steps[index].numpy()
    np.testing.assert_array_equal(rows.codes.numpy(), codes)  # no other row moved
    np.testing.assert_array_equal(rows.steps.numpy().astype(np.float64), steps)


def test_steps_double_when_a_row_leaves_its_range():
    rows = rows_of(started(ALPT(bits=8), SPEC.model_copy(update={"init": Init(std=1e-4)})))
    before = rows.steps.clone()
    torch.testing.assert_close(before, torch.full((N,), 6e-4 / 127))
    rows.write(torch.tensor([5, 6]), torch.tensor([[1e-3, 0, 0, 0], [1e-4, 0, 0, 0]]).double())
    assert rows.steps[5] == 2 * before[5]
    assert torch.equal(rows.steps[6:], before[6:])
    assert rows.read(torch.tensor([5]))[0, 0].item() == pytest.approx(1e-3, abs=2e-5)


def test_plan():
    tables = [
        SPEC.model_copy(
            update={"name": n, "num_embeddings": 1000, "embedding_dim": d, "feature_names": (n,)}
        )
        for n, d in (("a", 16), ("b", 1))
    ]
    wide = tables[:1]
    assert compress(wide, ALPT(), ratio=0.32)["a"] == ALPT(bits=8)  # 0.3125, as in the paper
    assert compress(wide, ALPT(), ratio=0.57)["a"] == ALPT(bits=16)  # 0.5625
    assert planned_bytes(wide, {"a": ALPT(bits=8)}) == 999 * 20
    with pytest.raises(BudgetInfeasible) as error:
        compress(wide, ALPT(), ratio=0.3)
    assert error.value.min_bytes == 999 * 20
    assert compress(tables, ALPT())["b"] == LowPrecision(bits=8)
    scheme = ALPT(bits=16, scale_lr=1e-4)
    assert TypeAdapter(AnyScheme).validate_json(scheme.model_dump_json()) == scheme


@pytest.mark.parametrize("kind", ["sgd", "rowwise_adagrad", "adam"])
def test_resume_is_exact(kind):
    def step(tables, owner, number):
        owner.zero_grad()
        output = tables(bag_batch(BAGS, WEIGHTS))["embedding"]["item"]
        ((output - 0.1 * number) ** 2).sum().backward()
        owner.step()

    config = EmbeddingOptimizerConfig(kind=kind, learning_rate=0.05)
    tables, other = started(ALPT(bits=8)), started(ALPT(bits=8), seed=9)
    owner, again = tables.attach_optimizer(config), other.attach_optimizer(config)
    step(tables, owner, 1)
    other.load_state_dict({k: v.clone() for k, v in tables.state_dict().items()})
    again.load_state_dict({k: v.clone() for k, v in owner.state_dict().items()})
    for number in (2, 3):
        step(tables, owner, number)
        step(other, again, number)
    for name, value in tables.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    if kind == "rowwise_adagrad":
        assert owner.state_bytes() == 4 * (2 * N + 7)


def test_learning_the_step_helps():
    """Rows of very different size from one coarse step: fixed steps clip, learned ones do not."""
    spec = SPEC.model_copy(update={"init": Init(std=0.05)})
    target = torch.randn(N - 1, D, generator=torch.Generator().manual_seed(0))
    final = {}
    for rate in (0.0, 0.002):
        tables = started(ALPT(bits=8, step=0.002, scale_lr=rate), spec)
        owner = tables.attach_optimizer(EmbeddingOptimizerConfig(learning_rate=0.05))
        for _ in range(200):
            owner.zero_grad()
            loss = ((vectors(tables, range(1, N)) - target) ** 2).mean()
            loss.backward()
            owner.step()
            final[rate] = loss.item()
    assert final[0.0] > 0.2 and final[0.002] < 0.1 * final[0.0]


def test_training_from_usual_start_values_lowers_the_loss():
    spec = SPEC.model_copy(update={"init": Init(std=1e-4)})
    tables = started(ALPT(bits=8), spec)
    owner = tables.attach_optimizer(EmbeddingOptimizerConfig(learning_rate=0.05))
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
def test_frozen_is_the_eval_forward_exactly(bits):
    scheme = ALPT(bits=bits)
    tables = started(scheme)
    owner = tables.attach_optimizer(EmbeddingOptimizerConfig(learning_rate=0.1))
    for _ in range(3):
        owner.zero_grad()
        (tables(bag_batch(BAGS, WEIGHTS))["embedding"]["item"] ** 2).sum().backward()
        owner.step()
    successor = scheme.frozen(tables.trained()["embedding.item"])
    served = make_tables(successor.scheme, SPEC)
    served.decoders["embedding/item"].load_state_dict(dict(successor.decoder or {}))
    with torch.no_grad():
        assert torch.equal(vectors(served, range(N)), vectors(tables, range(N)))
    assert served.bytes("infer").tables - 7 * D * 4 == (N - 1) * (D * bits // 8 + 4)
    assert tables.bytes("infer") == served.bytes("infer")
    with pytest.raises(ConfigError, match=f"at least the {bits} bits"):
        scheme.check_dtype("int4")
