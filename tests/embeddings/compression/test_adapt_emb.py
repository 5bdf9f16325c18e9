"""AdaptEmb: frequent ids alone, the others by hash, in one table."""

from __future__ import annotations

import pytest
import torch

from recsys.embeddings.compression.adapt_emb import AdaptEmb
from recsys.embeddings.compression.budget import planned_bytes
from recsys.embeddings.scheme import Full
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.testing.table import SPEC, TableConformance
from tests.embeddings.compression import hashed
from tests.embeddings.compression.toy import check_bags, made, regress, round_trip, table

HOT, SHARED = 6, 9
SCHEME = AdaptEmb(hot_rows=HOT, num_buckets=SHARED)
MEAN = SPEC.model_copy(update={"pooling": "mean"})


def row(index: int) -> int:
    return index if index <= HOT else HOT + hashed.row(index, "item", SHARED)


class TestAdaptEmb(TableConformance):
    scheme = SCHEME

    def expected_bytes(self):
        return (1 + HOT + SHARED) * 4 * 4 + 8

    def sharing(self, index):
        return {other for other in self.indices if row(other) == row(index)}


class TestMean(TestAdaptEmb):
    spec = MEAN


@pytest.mark.parametrize("spec", [SPEC, MEAN])
def test_values_and_bags(spec):
    tables = made(SCHEME, spec)
    weight = tables.state_dict()["embedding.item@adapt.weight"]
    check_bags(tables, torch.stack([weight[row(index)] for index in range(40)]))


def test_frequent_ids_share_with_nobody():
    rows = [row(index) for index in range(1, 40)]
    assert rows[:HOT] == [1, 2, 3, 4, 5, 6]
    assert min(rows[HOT:]) > HOT and max(rows) == HOT + SHARED


def test_no_hot_rows_is_a_hash_and_pad_stays():
    (rows,) = (
        made(AdaptEmb(hot_rows=0, num_buckets=3), SPEC)
        .trained()["embedding.item"]
        .part.encoder(torch.tensor([0, 1, 2, 3], dtype=torch.int32))
    )
    assert rows[0] == 0 and rows[1:].min() >= 1 and rows.max() <= 3


@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.01, 1e-3, 1e-4])
def test_plan_uses_the_budget(ratio):
    tables = [table("big", 300_000), table("small", 2_000)]
    budget = int(ratio * 302_000 * 64)
    plan = AdaptEmb().plan(tables, budget)
    assert 0.9 * budget <= planned_bytes(tables, plan) <= budget


def test_frequent_ids_get_more_of_a_smaller_budget():
    shares = []
    for ratio in (0.5, 0.1, 0.001):
        found = AdaptEmb().plan([table("big", 300_000)], int(ratio * 300_000 * 64))["big"]
        assert isinstance(found, AdaptEmb) and found.hot_rows and found.num_buckets
        shares.append(found.hot_rows / (found.hot_rows + found.num_buckets))
    assert shares == pytest.approx([0.3, 0.5, 0.8], abs=0.01)


def test_stated_sizes_are_kept():
    plan = AdaptEmb(hot_rows=10).plan([table("big", 3000)], 64 * 100)["big"]
    assert plan == AdaptEmb(hot_rows=10, num_buckets=88)
    plan = AdaptEmb(num_buckets=10).plan([table("big", 3000)], 64 * 100)["big"]
    assert plan == AdaptEmb(hot_rows=88, num_buckets=10)


def test_infeasible_and_full():
    with pytest.raises(BudgetInfeasible, match="smallest size is 136 bytes") as error:
        AdaptEmb().plan([table("big", 3000)], 135)
    assert error.value.min_bytes == 136
    assert AdaptEmb().plan([table("tiny", 4)], 4 * 64)["tiny"] == Full()
    with pytest.raises(ConfigError, match="num_buckets"):
        AdaptEmb(hot_rows=3).plan([table("big", 3000)], None)


def test_round_trip():
    assert round_trip(SCHEME) == SCHEME


def test_training_lowers_the_loss():
    targets = torch.randn(39, 4, generator=torch.Generator().manual_seed(0))
    losses = regress(made(SCHEME, SPEC), targets, steps=60)
    assert losses[-1] < 0.7 * losses[0]
