"""ROBE against reads of one flat array, position by position."""

from __future__ import annotations

import itertools

import pytest
import torch
import xxhash

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.budget import full_bytes, planned_bytes
from recsys.embeddings.compression.robe import ROBE, Signs
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Full
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.schema import Init
from recsys.testing.table import SPEC, TableConformance, bag_batch, vectors
from tests.embeddings.compression.test_hashing import WORD, reference
from tests.embeddings.compression.toy import check_bags, made, regress, round_trip, table

R, Z = 25, 2
FORMS = list(itertools.product([True, False], [True, False]))  # aligned, sign


def positions(index: int, dim: int, block: int, count: int, aligned: bool) -> list[int]:
    """Where the array is read for every column."""
    found = []
    for i in range(dim):
        length = count if aligned else count * block
        offset = reference(index, f"item#{i // block}", 0, length) - 1
        found.append(((offset * block if aligned else offset) + i % block) % (count * block))
    return found


def sign(index: int, i: int) -> int:
    x = index * (xxhash.xxh3_64_intdigest(f"item#sign{i // 64}".encode(), 0) | 1)
    x = (x + 0x9E3779B97F4A7C15) & WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    x ^= x >> 31
    return 2 * (x >> i % 64 & 1) - 1


class TestAligned(TableConformance):
    scheme = ROBE(block=Z, num_blocks=R, sign=False)

    def expected_bytes(self) -> int:
        return 4 * (R + 1) * Z + 8 * 2

    def sharing(self, index: int) -> set[int]:
        aligned = self.scheme.aligned
        mine = set(positions(index, 4, Z, R, aligned))
        return {i for i in range(1, 40) if mine & set(positions(i, 4, Z, R, aligned))}


class TestSigned(TestAligned):
    scheme = ROBE(block=Z, num_blocks=R)

    def expected_bytes(self) -> int:
        return super().expected_bytes() + 8


class TestSignedMean(TestSigned):
    spec = SPEC.model_copy(update={"pooling": "mean", "init": Init(std=1e-4)})


class TestUnaligned(TestAligned):
    scheme = ROBE(block=Z, num_blocks=R, aligned=False, multiplex=False)

    def expected_bytes(self) -> int:
        return 4 * (R + 1) * Z + 8 * (2 + 2 + 1)


class TestUnalignedMean(TestUnaligned):
    spec = SPEC.model_copy(update={"pooling": "mean"})


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize(("dim", "block"), [(4, 2), (5, 2), (7, 3), (1, 1), (4, 4), (70, 8)])
@pytest.mark.parametrize(("aligned", "signed"), FORMS)
def test_values_are_the_definition(aligned, signed, dim, block, pooling):
    spec = SPEC.model_copy(update={"pooling": pooling, "embedding_dim": dim})
    tables = made(ROBE(block=block, num_blocks=R, aligned=aligned, sign=signed), spec)
    array = tables.state_dict()[f"embedding.shared@robe{block}.weight"][1:].flatten()
    dense = torch.zeros(40, dim)
    for index in range(1, 40):
        where = positions(index, dim, block, R, aligned)
        signs = [sign(index, i) if signed else 1 for i in range(dim)]
        dense[index] = array[where] * torch.tensor(signs)
    check_bags(tables, dense)


@pytest.mark.parametrize("mode", ["sparse", "dense"])
@pytest.mark.parametrize(("aligned", "signed"), FORMS)
def test_gradients_reach_the_positions_read(aligned, signed, mode):
    tables = made(ROBE(block=2, num_blocks=3, aligned=aligned, sign=signed), SPEC)
    shared = "embedding.shared@robe2.weight"
    before = tables.state_dict()[shared].clone()
    config = EmbeddingOptimizerConfig(kind="sgd", learning_rate=1.0, mode=mode)
    owner = tables.attach_optimizer(config)
    indices = list(range(2, 9))
    tables(bag_batch([indices]))["embedding"]["item"].sum().backward()
    owner.step()
    expected = torch.zeros(6)
    for index in indices:
        for i, where in enumerate(positions(index, 4, 2, 3, aligned)):
            expected[where] += sign(index, i) if signed else 1
    change = (before - tables.state_dict()[shared])[1:].flatten()
    torch.testing.assert_close(change, expected, atol=1e-5, rtol=0)


def test_signs_are_even():
    signs = Signs("item", 100, 0)
    signs.initialize()
    drawn = signs(torch.arange(1, 20_001, dtype=torch.int32))
    assert drawn.shape == (20_000, 100)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert drawn.mean(0).abs().max() < 5 / 20_000**0.5
    between = (drawn.T @ drawn / 20_000).fill_diagonal_(0)
    assert between.abs().max() < 5 / 20_000**0.5


@pytest.mark.parametrize("aligned", [False, True])
def test_features_share_the_array(aligned):
    scheme = ROBE(block=2, num_blocks=R, aligned=aligned)
    specs = [table("item", 50, 4), table("user", 50, 7)]
    schemes = {f"embedding.{spec.name}": scheme for spec in specs}
    tables = EmbeddingCollection({"embedding": specs}, ("item", "user"), schemes=schemes)
    names = [name for name in tables.state_dict() if name.endswith("weight")]
    assert names == ["embedding.shared@robe2.weight"]
    assert not torch.equal(
        tables.all_rows("embedding", "item")[3], tables.all_rows("embedding", "user")[3, :4]
    )


@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("multiplex", [False, True])
@pytest.mark.parametrize("aligned", [False, True])
def test_plan_fills_the_budget_with_any_widths(aligned, multiplex, ratio):
    tables = [table("a", 40_000), table("b", 2000, 10), table("c", 900, 64), table("d", 700, 1)]
    budget = int(ratio * full_bytes(tables))
    plan = ROBE(aligned=aligned, multiplex=multiplex).plan(tables, budget)
    assert 0.9 * budget < planned_bytes(tables, plan) <= budget
    if multiplex:
        assert len({(scheme.block, scheme.num_blocks) for scheme in plan.values()}) == 1


def test_tables_that_start_differently_get_arrays_of_their_own():
    tables = [table("a", 3000), table("b", 1000, std=0.1)]
    plan = ROBE().plan(tables, 32_000)
    names = {name: plan[name].part(t).probes[0].name for name, t in zip("ab", tables)}
    assert names == {"a": "shared@robe8", "b": "shared@robe8-1"}
    alone = ROBE(multiplex=False).plan(tables, 32_000)
    assert alone["b"].part(tables[1]).probes[0].name == "b@robe"


def test_full_where_that_is_smaller():
    tables = [table("a", 9000), table("tiny", 2, 4)]
    assert set(ROBE().plan(tables, full_bytes(tables)).values()) == {Full()}
    assert ROBE(multiplex=False).plan(tables, 50_000)["tiny"] == Full()


def test_budget_below_the_floor_is_refused():
    tables = [table("a", 100), table("b", 100)]
    with pytest.raises(BudgetInfeasible) as error:
        ROBE().plan(tables, 111)
    assert error.value.min_bytes == 2 * 32 + 2 * 8 * 3
    with pytest.raises(BudgetInfeasible) as error:
        ROBE(aligned=False, sign=False, multiplex=False).plan(tables, 111)
    assert error.value.min_bytes == 2 * (2 * 32 + 8 * 4)
    with pytest.raises(ConfigError, match="num_blocks"):
        ROBE().plan(tables, None)


def test_an_array_too_long_is_refused():
    with pytest.raises(ConfigError, match="Lower `num_blocks`"):
        ROBE(block=8, num_blocks=1 << 28).part(table("a", 100))


def test_json_round_trip():
    scheme = ROBE(block=4, num_blocks=R, aligned=False, sign=False, multiplex=False, salt=2)
    assert round_trip(scheme) == scheme


@pytest.mark.parametrize(("aligned", "signed"), FORMS)
def test_training_lowers_a_loss(aligned, signed):
    tables = made(ROBE(block=2, num_blocks=4999, aligned=aligned, sign=signed), SPEC)
    targets = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    losses = regress(tables, targets)
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("aligned", [False, True])
def test_traced_form_agrees(aligned):
    decoder = ROBE(block=2, num_blocks=R, aligned=aligned).part(SPEC).decoder
    for module in decoder.modules():
        if hasattr(module, "initialize"):
            module.initialize()

    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder = decoder

        def forward(self, rows, indices):
            return self.decoder(
                [rows, rows + 1, rows + 2, rows + 3][: 2 if aligned else 4], indices
            )

    indices, rows = torch.arange(30, dtype=torch.int32), torch.randn(30, 2)
    auto = {0: torch.export.Dim.AUTO}
    program = torch.export.export(Flat(), (rows[:9], indices[:9]), dynamic_shapes=(auto, auto))
    assert torch.equal(program.module()(rows, indices), Flat()(rows, indices))


def test_pad_is_masked():
    tables = made(ROBE(block=2, num_blocks=R, aligned=False), SPEC)
    assert not vectors(tables, [0]).any()
