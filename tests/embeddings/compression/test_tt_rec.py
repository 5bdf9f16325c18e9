"""Tensor trains against the contraction of whole tensors."""

from __future__ import annotations

import pytest
import torch

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.budget import full_bytes, planned_bytes
from recsys.embeddings.compression.tt_rec import TTRec, split_rows, split_width
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Full
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.schema import Init
from recsys.testing.table import SPEC, TableConformance, bag_batch, make_tables, vectors
from tests.embeddings.compression.toy import check_bags, made, regress, round_trip, table

RANK = 3
ROWS, WIDTHS = (3, 3, 5), (1, 2, 2)  # 39 rows without PAD, width 4


class TestTTRec(TableConformance):
    scheme = TTRec(rank=RANK)
    std_tolerance = 0.2  # few numbers make all rows

    def expected_bytes(self) -> int:
        return 4 * RANK * (3 * 1 + 3 * 2 * RANK + 5 * 2)

    def sharing(self, index: int) -> set[int]:
        mine = digits(index)
        return {i for i in range(1, 40) if any(a == b for a, b in zip(mine, digits(i)))}

    def step(self, tables, indices) -> None:
        """The cores belong to the dense optimizer."""
        cores = torch.optim.SGD(tables.decoders.parameters(), lr=0.1)
        owner = tables.attach_optimizer(EmbeddingOptimizerConfig(kind="sgd", learning_rate=0.1))
        cores.zero_grad()
        owner.zero_grad()
        vectors(tables, indices).sum().backward()
        owner.step()
        cores.step()


class TestMean(TestTTRec):
    spec = SPEC.model_copy(update={"pooling": "mean"})


def digits(index: int) -> tuple[int, int, int]:
    return (index - 1) // 15, (index - 1) // 5 % 3, (index - 1) % 5


def contracted(tables: EmbeddingCollection) -> torch.Tensor:
    """The whole table by one einsum over whole cores, row 0 zero."""
    cores = tables.decoders["embedding/item"].cores
    first = cores[0].view(3, 1, RANK)
    second = cores[1].view(3, RANK, 2, RANK)
    third = cores[2].view(5, RANK, 2)
    whole = torch.einsum("iar,jrbs,ksc->ijkabc", first, second, third).reshape(45, 4)
    return torch.cat([torch.zeros(1, 4), whole[:39]]).detach()


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_values_are_the_contraction(pooling):
    tables = made(TTRec(rank=RANK), SPEC.model_copy(update={"pooling": pooling}))
    check_bags(tables, contracted(tables))


def test_traced_form_agrees():
    tables = made(TTRec(rank=RANK), SPEC)
    decoder, indices = tables.decoders["embedding/item"], torch.arange(40, dtype=torch.int32)

    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder = decoder

        def forward(self, indices):
            return self.decoder((), indices)

    program = torch.export.export(
        Flat(), (indices,), dynamic_shapes=({0: torch.export.Dim.AUTO},)
    ).module()
    torch.testing.assert_close(program(indices)[1:], contracted(tables)[1:])


def test_splits():
    for rows in [*range(1, 200), 12_345, 2_000_000]:
        sizes = split_rows(rows)
        assert rows <= torch.tensor(sizes).prod() <= 2 * rows
        assert sizes == tuple(sorted(sizes))
    for width in range(1, 130):
        a, b, c = split_width(width)
        assert a * b * c == width and a <= b <= c


def test_gradient_is_that_of_the_contraction():
    tables, bags = made(TTRec(rank=RANK), SPEC), [[3, 3, 17], [], [39, 0]]
    scale = torch.arange(1.0, 13.0).view(3, 4)
    (tables(bag_batch(bags))["embedding"]["item"] * scale).sum().backward()
    cores = tables.decoders["embedding/item"].cores
    got = [core.grad.clone() for core in cores]
    for core in cores:
        core.grad = None
    loss = torch.zeros(())
    for row, bag in enumerate(bags):
        for index in (index for index in bag if index):
            i, j, k = digits(index)
            first, second = cores[0].view(3, 1, 3)[i], cores[1].view(3, 3, 2, 3)[j]
            vector = torch.einsum("ar,rbs,sc->abc", first, second, cores[2].view(5, 3, 2)[k])
            loss = loss + (vector.reshape(4) * scale[row]).sum()
    loss.backward()
    for mine, core in zip(got, cores):
        torch.testing.assert_close(mine, core.grad)


def test_pad_trains_nothing():
    tables = made(TTRec(rank=RANK), SPEC)
    vectors(tables, [0, 0]).sum().backward()
    assert all(not core.grad.any() for core in tables.decoders["embedding/item"].cores)


@pytest.mark.parametrize("rank", [1, 8, 60])
@pytest.mark.parametrize("std", [1e-4, 0.5])
def test_start_values_have_the_deviation(rank, std):
    tables = made(TTRec(rank=rank), table("item", 8000, 16, std))
    rows = vectors(tables, range(1, 8000))
    assert rows.std().item() == pytest.approx(std, rel=0.1)
    assert abs(rows.mean().item()) < 0.1 * std
    smallest = min(core.abs().min().item() for core in tables.decoders.parameters())
    assert smallest > 0.8 * (std / rank) ** (1 / 3)  # 2 / 2.397


def test_zero_start_can_learn():
    spec = table("item", 40, 8).model_copy(update={"init": Init(kind="zeros")})
    tables = made(TTRec(rank=4), spec)
    assert not vectors(tables, range(40)).any()
    losses = regress(tables, torch.ones(39, 8))
    assert losses[-1] < 0.01 * losses[0]


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5])
def test_plan_fits_and_uses_the_budget(ratio):
    tables = [table("a", 300_000, 32), table("b", 60_000, 16)]
    budget = int(ratio * full_bytes(tables))
    plan = TTRec().plan(tables, budget)
    assert 0.9 * budget <= planned_bytes(tables, plan) <= budget
    assert round_trip(plan["a"]) == plan["a"]


def test_floor_is_rank_one():
    tables = [table("a", 1001)]
    least = 4 * (10 * 2 + 10 * 2 + 10 * 4)
    assert TTRec().plan(tables, least)["a"] == TTRec(rank=1)
    with pytest.raises(BudgetInfeasible) as error:
        TTRec().plan(tables, least - 1)
    assert error.value.min_bytes == least


def test_small_table_stays_full_and_other_errors():
    plan = TTRec(rank=4).plan([table("a", 6), table("b", 5000)], None)
    assert plan["a"] == Full() and plan["b"].kind == "tt_rec"
    with pytest.raises(ConfigError, match="rank"):
        make_tables(TTRec(), SPEC)
    with pytest.raises(ConfigError, match="fp32, got int8"):
        TTRec(rank=2).check_dtype("int8")


def test_cores_count_as_tables():
    held = made(TTRec(rank=RANK), SPEC).bytes("train")
    assert held.decoders == held.indices == 0
    assert held.tables == 4 * RANK * (3 + 6 * RANK + 10) + 7 * 4 * 4


def test_training_lowers_the_loss():
    tables = made(TTRec(rank=6), table("item", 40, 8, 1e-4))
    before = [core.detach().clone() for core in tables.decoders.parameters()]
    teacher = made(TTRec(rank=2), table("item", 40, 8, 1.0), seed=3)
    losses = regress(tables, vectors(teacher, range(1, 40)).detach(), steps=300)
    assert losses[-1] < 0.05 * losses[0]
    assert all((a != b).all() for a, b in zip(before, tables.decoders.parameters()))
