"""Searched bits of frequency groups."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.budget import planned_bytes
from recsys.embeddings.compression.fake_quantization import BlockQuantized
from recsys.embeddings.compression.grid import Block, packed_bytes
from recsys.embeddings.compression.measured_widths import Measured
from recsys.embeddings.compression.mixed_precision import (
    MixedPrecision,
    allocate,
    group_rows,
)
from recsys.embeddings.compression.plan import compress
from recsys.embeddings.compression.schemes import AnyScheme
from recsys.embeddings.freeze import freeze
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Scheme, Successor
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.schema import Init
from recsys.testing.table import SPEC, TableConformance, bag_batch, make_tables, vectors
from tests.embeddings.compression.successors import CONTEXT, collection_of, item_of

N, D = SPEC.num_embeddings, SPEC.embedding_dim
BAGS = [[3, 4, 3], [], [5], [39, 0, 3]]
WEIGHTS = [0.5, 2.0, -1.0, 1.5, 1.0, 0.25, 2.0]
BLOCKS = (Block(bits=8, rows=5), Block(bits=4, rows=14), Block(bits=2, rows=10), Block(bits=0))
PLANNED = MixedPrecision(groups=3, bits=3).plan([SPEC], None)["item"]


class TestSearch(TableConformance):
    scheme = MixedPrecision(groups=3, candidates=(4, 8), blocks=(Block(bits=8),))

    def expected_bytes(self) -> int:
        return 4 * N * D + 3 * 4 + 8 + 2 * 3 * 2 * 4  # rows, levels, step counter, both tables

    def test_frozen_is_the_eval_forward(self) -> None:
        """The search has nothing to serve; `test_search_retrain_freeze` freezes what follows."""
        with pytest.raises(ConfigError, match=r"table `item`: the search .* Train all phases"):
            freeze(self.tables())


class TestRetrain(TableConformance):
    scheme = MixedPrecision(blocks=(Block(bits=8, rows=9), Block(bits=4, rows=30)), searched=True)

    def expected_bytes(self) -> int:
        return 4 * N * D + 2 * 4 + 8 + 2 * 4


def started(scheme: Scheme, spec=SPEC, seed: int = 1) -> EmbeddingCollection:
    tables = make_tables(scheme, spec)
    tables.reset_parameters(seed)
    return tables


def measured_of(tables: EmbeddingCollection) -> Measured:
    decoder = tables.decoders["embedding/item"]
    assert isinstance(decoder, Measured)
    return decoder


TARGET = torch.randn(N - 1, D, generator=torch.Generator().manual_seed(0)) * 0.3


def train(tables: EmbeddingCollection, steps: int, every: int = 0, rate: float = 1.0) -> list:
    """Frequent ids count much more. Every so many steps train the logits alone."""
    counts = 1 / torch.arange(1.0, N) ** 2
    owner = tables.attach_optimizer(EmbeddingOptimizerConfig(learning_rate=0.05))
    apart = {id(p) for p in tables.architecture_parameters()}
    dense = [p for p in tables.decoders.parameters() if id(p) not in apart]
    adam, losses = torch.optim.Adam(dense, lr=0.01), []
    for step in range(steps):
        owner.zero_grad()
        adam.zero_grad()
        error = ((vectors(tables, range(1, N)) - TARGET) ** 2).mean(1)
        loss = (error * counts).sum() / counts.sum()
        measures = bool(every) and step % every == 0
        if measures:  # as a step that trains the architecture does it
            tables.trains_tables = False
            error = ((vectors(tables, range(1, N)) - TARGET) ** 2).mean(1)
            loss = (error * counts).sum() / counts.sum()
        loss.backward()
        tables.trains_tables = True
        if measures:
            with torch.no_grad():
                for p in tables.architecture_parameters():
                    assert p.grad is not None
                    p.sub_(rate * p.grad)
                    p.grad = None
        else:
            adam.step()
            owner.step()
            tables.after_step(owner)
        losses.append(loss.item())
    return losses


# ------------------------------------------------------------------------------- values


def quantized(w: np.ndarray, step: float, bits: int) -> np.ndarray:
    if bits == 0:
        return np.zeros_like(w)
    return np.clip(np.round(w / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step


def group_of(index: int, sizes: list[int]) -> int:
    return next(g for g, end in enumerate(itertools.accumulate(sizes)) if index <= end)


def in_widths(tables: EmbeddingCollection, index: int) -> np.ndarray:
    """A row in every candidate width, (4, D)."""
    measured, sizes = measured_of(tables), group_rows(N - 1, 3)
    w = tables.state_dict()["embedding.item@mpe.weight"].detach().double().numpy()
    g, found = group_of(max(1, index), sizes), []
    level = np.mean([np.abs(w[i]).mean() for i in range(1, N) if group_of(i, sizes) == g])
    for j, bits in enumerate((0, 2, 4, 8)):
        high = max(1, 2 ** (bits - 1) - 1) if bits else 1
        step = level * 2 / math.sqrt(high) * math.exp(measured.log_factor[g, j].item())
        found.append(quantized(w[index], step, bits))
    return np.array(found)


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_the_search_has_the_widest_rows(pooling):
    spec = SPEC.model_copy(update={"pooling": pooling})
    tables = started(PLANNED, spec)
    with torch.no_grad():
        log_factor = measured_of(tables).log_factor
        log_factor.copy_(torch.randn(3, 4, generator=torch.Generator().manual_seed(2)) * 0.5)
    tables.after_step()
    expected, weights = np.zeros((4, D)), iter(WEIGHTS)
    for row, bag in enumerate(BAGS):
        for index in bag:
            expected[row] += next(weights) * (index != 0) * in_widths(tables, index)[3]
        if pooling == "mean" and bag:
            expected[row] /= len(bag)
    got = tables(bag_batch(BAGS, WEIGHTS))["embedding"]["item"].detach().double().numpy()
    np.testing.assert_allclose(got, expected, atol=3e-6)
    assert np.abs(expected).max() > 0.1


def test_costs_are_half_the_square_of_gradient_times_change():
    tables = started(PLANNED)
    tables.after_step()
    slopes = torch.randn(5, D, generator=torch.Generator().manual_seed(4))
    indices, sizes = [1, 9, 39, 38, 1], group_rows(N - 1, 3)
    tables.trains_tables = False
    (vectors(tables, indices) * slopes).sum().backward()
    expected = np.zeros((3, 4))
    for index, slope in zip(indices, slopes.double().numpy()):
        options = in_widths(tables, index)
        expected[group_of(index, sizes)] += ((options - options[3]) @ slope) ** 2 / 2
    measured = measured_of(tables)
    assert measured.alpha.grad is not None and measured.log_factor.grad is not None
    np.testing.assert_allclose(measured.alpha.grad.numpy(), expected, atol=1e-5, rtol=1e-4)
    assert expected[:, 0].min() > expected[:, 2].max() > 0 and not expected[:, 3].any()


def test_gradients_reach_rows_and_factors_or_costs():
    tables = started(PLANNED)
    vectors(tables, [1, 9, 39]).square().sum().backward()
    measured = measured_of(tables)
    assert measured.alpha.grad is None and measured.log_factor.grad is not None
    assert (measured.log_factor.grad[:, 3] != 0).all()
    assert any(p.grad is not None and p.grad.any() for p in tables.table_parameters())
    assert tables.architecture_parameters() == [measured.alpha]
    assert not any(p is measured.alpha for p in tables.table_parameters())


def test_older_costs_count_less():
    tables = started(PLANNED)
    with torch.no_grad():
        measured_of(tables).alpha.fill_(-1.0)
    tables.after_step()
    assert measured_of(tables).alpha[0, 0].item() == pytest.approx(-(1 - 1 / PLANNED.period))


# ------------------------------------------------------------------------------- allocation


def test_group_ends_are_geometric():
    assert group_rows(10_000, 4) == [10, 90, 900, 9000]
    assert sum(group_rows(38, 12)) == 38 and min(group_rows(38, 12)) >= 1
    assert group_rows(1, 3) == [1]


def test_allocation_by_hand():
    """Groups of 2, 10 and 100 rows of 8 numbers; 4 * 4 bytes are for steps."""
    sizes = (2, 10, 100)
    sure = [[0.0, -9, -9, -9], [-9.0, 0, -9, -9], [-9.0, -9, 0, -9]]
    # 0, 2 and 4 bits: 0 + 20 + 400 bytes.
    assert allocate(sizes, 8, (0, 2, 4, 8), sure, 420 + 16) == [(0, 2, 0), (1, 10, 2), (2, 100, 4)]
    # 120 bytes too many: the large group loses least a byte (9 / 200 against 9 / 20); then 80
    # bytes of room. Growing costs it -9 / 200 a byte, the others 9 / 4 and 9 / 20: so it grows
    # again, for as many rows as fit.
    assert allocate(sizes, 8, (0, 2, 4, 8), sure, 300 + 16) == [
        (0, 2, 0),
        (1, 10, 2),
        (2, 40, 4),
        (2, 60, 2),
    ]
    # Without preferences the most frequent are served first.
    even = [[0.0] * 4] * 3
    expected = [(0, 2, 4), (1, 10, 0), (2, 100, 0)]
    assert allocate(sizes, 8, (0, 2, 4, 8), even, 16 + 10) == expected


@pytest.mark.parametrize("dim", [1, 3, 16])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 1.0])
def test_allocation_fits_and_uses_the_budget(dim, share):
    generator = torch.Generator().manual_seed(0)
    sizes = group_rows(5000, 12)
    budget = int(share * sum(packed_bytes(rows, dim, 8) for rows in sizes)) + 4 * 13
    for _ in range(5):
        scores = (torch.randn(12, 4, generator=generator) * 3).log_softmax(1).tolist()
        found = allocate(sizes, dim, (0, 2, 4, 8), scores, budget)
        size = sum(packed_bytes(rows, dim, bits) for _, rows, bits in found) + 4 * len(found)
        assert 0.98 * budget - 4 * dim < size <= budget
        for group, rows in enumerate(sizes):
            assert sum(r for g, r, _ in found if g == group) == rows


def test_plan():
    tables = [
        SPEC.model_copy(
            update={"name": n, "num_embeddings": r, "embedding_dim": 16, "feature_names": (n,)}
        )
        for n, r in (("a", 5000), ("b", 200))
    ]
    full = 5200 * 64
    for ratio in (0.2, 0.1, 0.01):
        plan = compress(tables, MixedPrecision(), ratio=ratio)
        size = planned_bytes(tables, plan)
        assert 0.9 * ratio * full <= size <= ratio * full
        assert (
            TypeAdapter(dict[str, AnyScheme]).validate_python(
                {name: scheme.model_dump() for name, scheme in plan.items()}
            )
            == plan
        )
    largest = planned_bytes(tables, compress(tables, MixedPrecision(), ratio=0.9))
    assert 5198 * 16 < largest < 5198 * 16 + 200
    with pytest.raises(BudgetInfeasible) as error:
        compress(tables, MixedPrecision(), bytes=50)
    least = error.value.min_bytes
    assert planned_bytes(tables, compress(tables, MixedPrecision(), bytes=least)) == least < 120
    tiny = tables[1].model_copy(update={"num_embeddings": 2, "embedding_dim": 1})
    assert MixedPrecision(bits=8).plan([tiny], None)["b"].model_dump() == {"kind": "full"}
    with pytest.raises(ConfigError, match="bits"):
        MixedPrecision().plan(tables, None)


# ------------------------------------------------------------------------------- phases


def retrained(tables: EmbeddingCollection) -> tuple[EmbeddingCollection, Successor]:
    item = item_of(tables)
    after = item.scheme.advance("search", {"embedding.item": item}, CONTEXT)["embedding.item"]
    return collection_of(after, SPEC), after


def test_search_retrain_freeze():
    scheme = MixedPrecision(groups=3).plan([SPEC], 80)["item"]
    assert [phase.name for phase in scheme.phases()] == ["search", "retrain"]
    tables = started(scheme, SPEC.model_copy(update={"init": Init(std=0.01)}))
    losses = train(tables, 150, every=5)
    assert losses[-1] < 0.3 * losses[0]
    after, successor = retrained(tables)
    found = successor.scheme
    assert isinstance(found, MixedPrecision) and found.blocks is not None and found.searched
    assert [phase.name for phase in found.phases()] == ["train"]
    # The rows go on where they were, and each block starts with its group's steps.
    decoder, measured = after.decoders["embedding/item"], measured_of(tables)
    assert isinstance(decoder, BlockQuantized)
    assert torch.equal(
        after.state_dict()["embedding.item@mpe.weight"],
        tables.state_dict()["embedding.item@mpe.weight"],
    )
    ends = list(itertools.accumulate(group_rows(N - 1, 3)))
    first = 1
    for number, block in enumerate(found.blocks):
        group = next(g for g, end in enumerate(ends) if first <= end)
        place = found.candidates.index(block.bits)
        assert decoder.steps()[number] == measured.steps()[group, place]
        first += block.rows or 0
    train(after, 50)
    served = freeze(after, "fp32")
    assert torch.equal(vectors(served, range(N)), vectors(after, range(N)))
    assert served.bytes("infer").total - 7 * D * 4 <= 80
    assert after.bytes("infer") == served.bytes("infer")
    # Before the search the size is known up to a step and a cut row.
    assert 0 <= tables.bytes("infer").total - served.bytes("infer").total <= 8


def test_frequent_ids_get_more_bits():
    """Loss falls with frequency squared: the search finds that the tail matters less."""
    scheme = MixedPrecision(groups=3).plan([SPEC], 80)["item"]
    tables = started(scheme, SPEC.model_copy(update={"init": Init(std=0.01)}))
    train(tables, 400, every=5)
    item, costs = item_of(tables), -measured_of(tables).alpha.detach()
    per_row = costs / torch.tensor(group_rows(N - 1, 3)).unsqueeze(1)
    assert (per_row[0, :3] > 10 * per_row[2, :3]).all()
    assert (costs[:, 0] > costs[:, 1]).all() and (costs[:, 1] > costs[:, 2]).all()
    found = item.scheme.advance("search", {"embedding.item": item}, CONTEXT)["embedding.item"]
    assert isinstance(found.scheme, MixedPrecision) and found.scheme.blocks is not None
    assert found.scheme.blocks[0].bits > found.scheme.blocks[-1].bits


def test_rows_without_bits_are_zero():
    scheme = MixedPrecision(blocks=BLOCKS, searched=True)
    tables = started(scheme)
    assert not vectors(tables, range(30, N)).any() and bool(vectors(tables, range(1, 30)).any())
    served = freeze(tables)
    assert torch.equal(vectors(served, range(N)), vectors(tables, range(N)))
    assert served.bytes("infer").total - 7 * D * 4 == 5 * 4 + 14 * 2 + 10 + 4 * 4


def test_a_table_that_is_not_searched_stays_as_it_is():
    scheme = MixedPrecision(blocks=BLOCKS, searched=True)
    item = item_of(started(scheme))
    found = scheme.advance("search", {"embedding.item": item}, CONTEXT)
    assert found["embedding.item"].scheme == scheme


def test_resume_is_exact():
    tables, other = started(PLANNED), started(PLANNED, seed=3)
    train(tables, 3, every=2)
    other.load_state_dict({k: v.clone() for k, v in tables.state_dict().items()})
    train(tables, 6, every=2)
    train(other, 6, every=2)
    for name, value in tables.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
