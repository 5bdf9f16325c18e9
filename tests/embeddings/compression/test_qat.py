"""Quantization-aware training and its packed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.budget import planned_bytes
from recsys.embeddings.compression.fake_quantization import BlockQuantized
from recsys.embeddings.compression.grid import Bits, Block, Grid, GridRows, pack, pack_blocks
from recsys.embeddings.compression.plan import compress
from recsys.embeddings.compression.qat import QAT
from recsys.embeddings.compression.schemes import AnyScheme
from recsys.embeddings.freeze import freeze
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Full, Scheme
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.schema import Init, TableSpec
from recsys.testing.table import SPEC, TableConformance, bag_batch, make_tables, vectors

N, D = SPEC.num_embeddings, SPEC.embedding_dim
BAGS = [[3, 4, 3], [], [5], [39, 0, 3]]
WEIGHTS = [0.5, 2.0, -1.0, 1.5, 1.0, 0.25, 2.0]
ALL = [
    QAT(bits=8),
    QAT(bits=4),
    QAT(bits=4, per="row"),
    QAT(bits=8, scale="learned"),
    QAT(bits=2, scale="learned"),
    QAT(bits=4, scale="learned", per="row"),
    QAT(bits=2, scale="learned", per="row"),
]


class TestQAT(TableConformance):
    scheme = QAT(bits=8)

    def expected_bytes(self) -> int:
        return 4 * N * D + 4 + 8


class TestLearned(TableConformance):
    scheme = QAT(bits=8, scale="learned")

    def expected_bytes(self) -> int:
        return 4 * N * D + 4 + 8 + 4


class TestFourBitsPerRow(TableConformance):
    scheme = QAT(bits=4, per="row")

    def expected_bytes(self) -> int:
        return 4 * N * D


class TestLearnedPerRow(TableConformance):
    scheme = QAT(bits=8, scale="learned", per="row")

    def expected_bytes(self) -> int:
        return 4 * N * (D + 1)


def started(scheme: Scheme, spec: TableSpec = SPEC, seed: int = 1) -> EmbeddingCollection:
    tables = make_tables(scheme, spec)
    tables.reset_parameters(seed)
    return tables


def decoder_of(tables: EmbeddingCollection) -> BlockQuantized:
    decoder = tables.decoders["embedding/item"]
    assert isinstance(decoder, BlockQuantized)
    return decoder


def floats(tables: EmbeddingCollection) -> Tensor:
    return tables.state_dict()["embedding.item@qat.weight"].detach().clone()


def train(tables: EmbeddingCollection, steps: int, rate: float = 0.1) -> list[float]:
    """Towards fixed vectors, steps and dense parameters included."""
    owner = tables.attach_optimizer(EmbeddingOptimizerConfig(learning_rate=rate))
    own = {id(p) for p in tables.table_parameters()}
    dense = [p for p in tables.parameters() if id(p) not in own]
    adam = torch.optim.Adam(dense, lr=0.01) if dense else None
    target = torch.randn(N - 1, D, generator=torch.Generator().manual_seed(0)) * 0.3
    losses = []
    for _ in range(steps):
        owner.zero_grad()
        loss = ((vectors(tables, range(1, N)) - target) ** 2).mean()
        loss.backward()
        if adam is not None:
            adam.step()
            adam.zero_grad()
        owner.step()
        tables.after_step(owner)
        losses.append(loss.item())
    return losses


# ------------------------------------------------------------------------------- values


@pytest.mark.parametrize("scheme", ALL)
@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_values_are_the_equations(scheme, pooling):
    """In numpy, on weighted bags with duplicates, PAD and nothing."""
    tables = started(scheme, SPEC.model_copy(update={"pooling": pooling}))
    train(tables, 3)
    w = floats(tables).numpy().astype(np.float64)
    high = 2 ** (scheme.bits - 1) - 1
    state = tables.state_dict()
    if scheme.per == "table":
        step = np.abs(w[1:]).max() / high  # taken after step 2, so one update old
        if scheme.scale == "learned":
            factor = state["decoders.embedding/item.log_factor"].exp().item()
            step = np.abs(w[1:]).mean() * 2 / math.sqrt(high) * factor
        now = decoder_of(tables).steps().item()
        assert now == pytest.approx(step, rel=0.35)
        steps = np.full((N, 1), now)
    else:
        size = np.abs(w)
        steps = size.max(1, keepdims=True) / high
        if scheme.scale == "learned":
            factor = state["embedding.item@factor.weight"].exp().numpy()
            steps = size.mean(1, keepdims=True) * 2 / math.sqrt(high) * factor
        steps = torch.from_numpy(steps).bfloat16().double().numpy()
    quantized = np.clip(np.round(w / np.maximum(steps, 1e-30)), -high - 1, high) * steps
    quantized[0] = 0
    got = tables(bag_batch(BAGS, WEIGHTS))["embedding"]["item"].detach().double().numpy()
    weights = iter(WEIGHTS)
    expected = np.zeros((4, D))
    for row, bag in enumerate(BAGS):
        for index in bag:
            expected[row] += next(weights) * quantized[index]
        if pooling == "mean" and bag:
            expected[row] /= len(bag)
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_levels_are_taken_on_schedule():
    """After steps 1, 2, 4, 8, then every 10th."""
    tables = started(QAT(bits=4, period=10))
    owner = tables.attach_optimizer(EmbeddingOptimizerConfig())
    taken, scaled = [], floats(tables)
    for step in range(1, 32):
        scaled = scaled + 1.0
        tables.load_state_dict({**tables.state_dict(), "embedding.item@qat.weight": scaled})
        tables.after_step(owner)
        largest = floats(tables)[1:].abs().max()
        if torch.equal(decoder_of(tables).level[0], largest):
            taken.append(step)
    assert taken == [1, 2, 4, 8, 10, 20, 30]


def test_learned_levels_are_means():
    tables = started(QAT(bits=4, scale="learned"))
    owner = tables.attach_optimizer(EmbeddingOptimizerConfig())
    tables.after_step(owner)
    mean = floats(tables)[1:].abs().mean().item()
    assert decoder_of(tables).level.item() == pytest.approx(mean, rel=1e-5)
    assert decoder_of(tables).steps().item() == pytest.approx(2 * mean / math.sqrt(7), rel=1e-5)


def test_lsq_gradients_by_hand():
    """x = 0.3, -1.6, 9 and -20 in units of the step: slopes -0.3, -0.4, 7 and -8."""
    decoder = BlockQuantized(SPEC, [N - 1], [4], learned=True, period=9)
    decoder.initialize()
    step = decoder.steps().item()
    values = (torch.tensor([[0.3, -1.6, 9.0, -20.0]]) * step).requires_grad_()
    output = decoder([values], torch.tensor([3], dtype=torch.int32))
    torch.testing.assert_close(output / step, torch.tensor([[0.0, -2.0, 7.0, -8.0]]))
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    (output * weight).sum().backward()
    assert values.grad is not None and decoder.log_factor.grad is not None
    assert values.grad.tolist() == [[1.0, 2.0, 0.0, 0.0]]
    slope = -0.3 - 0.8 + 21.0 - 32.0
    expected = slope * step / math.sqrt(4 * 7)
    assert decoder.log_factor.grad.item() == pytest.approx(expected, rel=1e-5)


def test_periodic_gradients_pass_unchanged():
    decoder = BlockQuantized(SPEC, [N - 1], [4], learned=False, period=9)
    decoder.initialize()
    values = torch.tensor([[0.3, -1.6, 9.0, -20.0]], requires_grad=True)
    decoder([values], torch.tensor([3], dtype=torch.int32)).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[1.0, 1.0, 1.0, 1.0]]


def test_gradients_reach_rows_and_factors_per_row():
    tables = started(QAT(bits=4, scale="learned", per="row"))
    before = {k: v.clone() for k, v in tables.state_dict().items()}
    owner = tables.attach_optimizer(EmbeddingOptimizerConfig(learning_rate=0.1))
    (vectors(tables, [3, 9]) * torch.linspace(0.5, 1.7, 8).view(2, 4)).sum().backward()
    owner.step()
    after = tables.state_dict()
    for name in ("embedding.item@qat.weight", "embedding.item@factor.weight"):
        moved = (after[name] != before[name]).any(1).nonzero().flatten().tolist()
        assert moved == [3, 9]


# ------------------------------------------------------------------------------- frozen


@pytest.mark.parametrize("scheme", ALL)
@pytest.mark.parametrize("dim", [4, 3])
def test_frozen_is_the_eval_forward_exactly(scheme, dim):
    """Also for rows that do not end with a byte (3 numbers of 2 or 4 bits)."""
    spec = SPEC.model_copy(update={"embedding_dim": dim})
    tables = started(scheme, spec)
    for _ in range(3):
        owner = tables.attach_optimizer(EmbeddingOptimizerConfig(learning_rate=0.1))
        owner.zero_grad()
        (tables(bag_batch(BAGS, WEIGHTS))["embedding"]["item"] ** 2).sum().backward()
        owner.step()
        tables.after_step(owner)
    served, batch = freeze(tables, "fp32"), bag_batch(BAGS, WEIGHTS)
    with torch.no_grad():
        expected = vectors(tables, range(N))
        assert torch.equal(vectors(served, range(N)), expected) and bool(expected.any())
        got, wanted = (t(batch)["embedding"]["item"] for t in (served, tables))
        assert torch.equal(got, wanted)
    numbers = math.ceil((N - 1) * dim * scheme.bits / 8)
    steps = 2 * (N - 1) if scheme.per == "row" else 4
    other = 7 * D * 4
    assert served.bytes("infer").total - other == numbers + steps
    assert tables.bytes("infer") == served.bytes("infer")
    held = [*served.parameters(), *served.buffers()]
    assert sum(t.untyped_storage().nbytes() for t in held) == numbers + steps + other


def test_a_dtype_below_the_rows_is_refused():
    tables = started(QAT(bits=4))
    with pytest.raises(ConfigError, match=r"`embedding\.item`: frozen in int2: expected at least"):
        freeze(tables, "int2")
    narrow = started(QAT(bits=4), SPEC.model_copy(update={"embedding_dim": 16}))
    assert freeze(narrow, "fp16").bytes().total == 7 * 4 * 2 + (N - 1) * 8 + 4


def test_packing_by_hand():
    assert pack(torch.tensor([[-2, -1, 0, 1], [1, 0, -1, -2]]), 2).tolist() == [
        0 | 1 << 2 | 2 << 4 | 3 << 6,
        3 | 2 << 2 | 1 << 4,
    ]
    assert pack(torch.tensor([-128, 127]), 8).tolist() == [0, 255]
    assert pack(torch.tensor([-32768, 1]), 16).tolist() == [0, 0, 1, 128]


@pytest.mark.parametrize("dim", [1, 3, 8])
def test_blocks_of_all_widths_unpack_to_what_was_packed(dim):
    spec = SPEC.model_copy(update={"embedding_dim": dim})
    layout: tuple[tuple[Bits, int], ...] = ((8, 3), (4, 7), (2, 9), (0, 5), (16, 15))
    grid = Grid(blocks=tuple(Block(bits=bits, rows=rows) for bits, rows in layout))
    generator, widths = torch.Generator().manual_seed(0), [0] * N
    start = 1
    for block, rows in zip(grid.blocks, (3, 7, 9, 5, 15)):
        widths[start : start + rows] = [block.bits] * rows
        start += rows
    half = torch.tensor([0 if b == 0 else 1 << (b - 1) for b in widths]).unsqueeze(1)
    codes = (torch.rand(N, dim, generator=generator) * 2 * half).long() - half
    tables = make_tables(grid, spec)
    decoder = tables.decoders["embedding/item"]
    assert isinstance(decoder, GridRows)
    steps = torch.tensor([0.5, 0.25, 2.0, 1.0, 0.125])
    packed = pack_blocks(grid.blocks, spec, lambda indices: codes[indices])
    decoder.load_state_dict({"codes": packed, "steps": steps})
    block = torch.tensor([0, *[i for i, r in enumerate((3, 7, 9, 5, 15)) for _ in range(r)]])
    expected = codes * steps[block].unsqueeze(1)
    expected[0] = 0
    assert torch.equal(vectors(tables, range(N)), expected)
    size = math.ceil(3 * dim) + math.ceil(7 * dim / 2) + math.ceil(9 * dim / 4) + 30 * dim
    assert tables.bytes("infer").tables - 7 * D * 4 == size + 5 * 4


def test_blocks_must_cover_the_table():
    with pytest.raises(ConfigError, match="blocks have 12 indices, expected 39"):
        make_tables(Grid(blocks=(Block(bits=8, rows=12),)), SPEC)


def test_a_frozen_table_is_exported():
    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = freeze(started(QAT(bits=4)))

        def forward(self, values: Tensor) -> Tensor:
            batch = bag_batch([[2, 3], [], [5]])
            batch = type(batch)(
                batch.dense, values, batch.lengths, batch.labels, batch.keys, batch.value_counts
            )
            return self.tables(batch)["embedding"].values

    flat, values = Flat(), bag_batch([[2, 3], [], [5]]).values
    program = torch.export.export(flat, (values,))
    torch.testing.assert_close(program.module()(values), flat(values))


# ------------------------------------------------------------------------------- plan, training


def test_plan():
    tables = [
        SPEC.model_copy(
            update={"name": n, "num_embeddings": r, "embedding_dim": 8, "feature_names": (n,)}
        )
        for n, r in (("a", 1000), ("b", 100))
    ]
    full, numbers = 1100 * 8 * 4, 1098 * 8
    for ratio, bits in ((0.25, 8), (0.2, 4), (0.126, 4), (0.1, 2)):
        plan = compress(tables, QAT(scale="learned"), ratio=ratio)
        assert plan["a"].model_dump()["bits"] == bits
        assert planned_bytes(tables, plan) == numbers * bits // 8 + 8 <= ratio * full
    with pytest.raises(BudgetInfeasible) as error:
        compress(tables, QAT(), ratio=0.1)
    assert error.value.min_bytes == numbers // 2 + 8
    assert compress(tables, QAT())["a"] == QAT(bits=8)
    assert compress(tables, QAT(per="row"), ratio=0.4)["a"] == QAT(bits=8, per="row")
    narrow = SPEC.model_copy(update={"embedding_dim": 1})
    assert QAT(per="row", bits=4).plan([narrow], 30)["item"] == QAT(bits=4)
    tiny = SPEC.model_copy(update={"num_embeddings": 2, "embedding_dim": 1})
    assert QAT().plan([tiny], None)["item"] == QAT(bits=8)  # 1 + 4 bytes, fp32: 2 * 4
    tiny = tiny.model_copy(update={"num_embeddings": 1})
    assert QAT().plan([tiny], None)["item"] == Full()
    assert TypeAdapter(AnyScheme).validate_json(ALL[5].model_dump_json()) == ALL[5]


def test_two_bits_need_learned_steps():
    with pytest.raises((ValidationError, ConfigError), match="Set scale=learned"):
        QAT(bits=2)


@pytest.mark.parametrize("scheme", ALL)
def test_training_from_usual_start_values_lowers_the_loss(scheme):
    spec = SPEC.model_copy(update={"init": Init(std=1e-4)})
    losses = train(started(scheme, spec), 200, rate=0.05)
    allowed = {8: 0.02, 4: 0.1, 2: 0.6}[scheme.bits]
    assert losses[-1] < allowed * losses[0]


def test_resume_is_exact():
    scheme = QAT(bits=4, scale="learned", period=8)
    tables, other = started(scheme), started(scheme, seed=4)
    train(tables, 3)
    other.load_state_dict({k: v.clone() for k, v in tables.state_dict().items()})
    train(tables, 8)
    train(other, 8)
    for name, value in tables.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
