"""Mixed dimensions against the paper's rule and a dense product."""

from __future__ import annotations

import pytest
import torch

from recsys.embeddings.compression.budget import full_bytes, planned_bytes
from recsys.embeddings.compression.mixed_dimension import MixedDimension
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.testing.table import SPEC, TableConformance, make_tables
from tests.embeddings.compression.toy import check_bags, made, regress, round_trip, table


class TestMixedDimension(TableConformance):
    scheme = MixedDimension(dim=2)
    std_tolerance = 0.15  # 39 ids x 2 numbers

    def expected_bytes(self) -> int:
        return 4 * (40 * 2 + 2 * 4)


class TestMean(TestMixedDimension):
    spec = SPEC.model_copy(update={"pooling": "mean"})


class TestFullWidth(TableConformance):
    scheme = MixedDimension(dim=4)
    std_tolerance = 0.15

    def expected_bytes(self) -> int:
        return 4 * 40 * 4

    def test_start_values(self) -> None:
        """Width 64 would be projected; the same without a matrix is tested by `Full`."""
        assert "decoders" not in "".join(self.tables().state_dict())


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_values_are_narrow_rows_times_the_matrix(pooling):
    tables = made(MixedDimension(dim=2), SPEC.model_copy(update={"pooling": pooling}))
    state = tables.state_dict()
    narrow = state["embedding.item@mixed_dimension.weight"]
    matrix = state["decoders.embedding/item.weight"]
    assert narrow.shape == (40, 2) and matrix.shape == (2, 4)
    dense = (narrow[:, :, None] * matrix[None]).sum(1)
    check_bags(tables, dense)


def test_widths_follow_the_rule():
    # 16 (100 / n)^0.5 = 8, 1.6, 0.5; rounded to 8, 2, 1 (at least 1); then to powers of two.
    tables = [table("a", 100), table("b", 400), table("c", 10_000), table("d", 100_000)]
    plan = MixedDimension(alpha=0.5).plan(tables, None)
    assert [plan[name].kind for name in "abcd"] == ["full"] + 3 * ["mixed_dimension"]
    assert [plan[name].dim for name in "bcd"] == [8, 2, 1]
    # 16 (1 / 9)^0.5 = 5.33: 4 or 5
    tables = [table("a", 100), table("b", 900)]
    assert MixedDimension(alpha=0.5).plan(tables, None)["b"].dim == 4
    assert MixedDimension(alpha=0.5, power_of_two=False).plan(tables, None)["b"].dim == 5


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("power_of_two", [True, False])
def test_plan_fits(ratio, power_of_two):
    tables = [table(name, rows, 64) for name, rows in (("a", 90), ("b", 5_000), ("c", 80_000))]
    budget = int(ratio * full_bytes(tables))
    plan = MixedDimension(power_of_two=power_of_two).plan(tables, budget)
    used = planned_bytes(tables, plan)
    assert used <= budget
    if not power_of_two:  # one width more does not fit
        assert budget - used < 4 * sum(t.num_embeddings + t.embedding_dim for t in tables)
        assert used >= 0.85 * budget
    assert round_trip(plan["c"]) == plan["c"]


def test_tables_of_one_size_get_one_width():
    tables = [table("a", 1000), table("b", 1000)]
    plan = MixedDimension().plan(tables, 2 * 4 * (1000 * 8 + 8 * 16))
    assert plan["a"].dim == plan["b"].dim == 8


def test_floor():
    tables = [table("a", 1000), table("b", 30_000)]
    least = 4 * (1000 + 16) + 4 * (30_000 + 16)
    plan = MixedDimension().plan(tables, least)
    assert plan["a"].dim == plan["b"].dim == 1
    with pytest.raises(BudgetInfeasible, match="mixed_dimension") as error:
        MixedDimension().plan(tables, least - 1)
    assert error.value.min_bytes == least


def test_small_table_stays_full():
    # 3 * 1 + 1 * 16 words are more than 2 * 8.
    plan = MixedDimension().plan([table("a", 2, 8), table("b", 10_000, 8)], 60_000)
    assert plan["a"].kind == "full" and plan["b"].kind == "mixed_dimension"


def test_unresolved_and_too_wide_are_refused():
    with pytest.raises(ConfigError, match="alpha"):
        MixedDimension().plan([SPEC], None)
    with pytest.raises(ConfigError, match="dim"):
        make_tables(MixedDimension(), SPEC)
    with pytest.raises(ConfigError, match="width 4, got 5"):
        make_tables(MixedDimension(dim=5), SPEC)


@pytest.mark.parametrize("std", [1e-4, 0.5])
@pytest.mark.parametrize("dim", [1, 4])
def test_training_learns_rows_and_matrix(std, dim):
    tables = made(MixedDimension(dim=dim), table("item", 40, 8, std))
    before = {name: tensor.clone() for name, tensor in tables.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(39, 1, generator=generator) * torch.randn(1, 8, generator=generator)
    losses = regress(tables, targets)
    assert losses[-1] < 0.05 * losses[0]
    after = tables.state_dict()
    for name in before:
        assert torch.equal(before[name], after[name]) == ("other" in name), name
