"""Sums and concatenations of several hashed rows, against the hash in plain Python."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsys.embeddings.compression.double_hash import DoubleHash
from recsys.embeddings.scheme import Concat
from recsys.errors import ConfigError
from recsys.schema import TableSpec
from recsys.testing.table import SPEC, TableConformance, bag_batch, make_tables
from tests.embeddings.compression.hashed import (
    RATIOS,
    check_floor,
    check_plan,
    check_whole_budget,
    collection,
    row,
)
from tests.embeddings.compression.toy import check_bags, made, regress, round_trip, table


def hashes(index: int, buckets: int, count: int = 2, name: str = "item") -> list[int]:
    return [row(index, f"{name}#{k}", buckets) for k in range(count)]


class TestSum(TableConformance):
    scheme = DoubleHash(num_buckets=20)
    std_tolerance = 0.15  # 20 rows, added in pairs

    def expected_bytes(self) -> int:
        return 4 * 21 * 4 + 2 * 8

    def sharing(self, index: int) -> set[int]:
        mine = set(hashes(index, 20))
        return {other for other in range(1, 40) if mine & set(hashes(other, 20))}


class TestMultiplexed(TestSum):
    scheme = DoubleHash(num_buckets=20, multiplex=True)


class TestMean(TestSum):
    spec = SPEC.model_copy(update={"pooling": "mean"})


class TestConcat(TestSum):
    scheme = DoubleHash(num_buckets=20, combine="concat")

    def expected_bytes(self) -> int:
        return 4 * 21 * 2 + 2 * 8


class TestFourChunks(TestConcat):
    scheme = DoubleHash(num_buckets=20, combine="concat", num_hashes=4, multiplex=True)

    def expected_bytes(self) -> int:
        return 4 * 21 * 1 + 4 * 8

    def sharing(self, index: int) -> set[int]:
        mine = set(hashes(index, 20, 4))
        return {other for other in range(1, 40) if mine & set(hashes(other, 20, 4))}


def dense(rows: Tensor, spec: TableSpec, count: int, combine: str) -> Tensor:
    """The definition, one index and one hash at a time."""
    table = torch.zeros(spec.num_embeddings, spec.embedding_dim)
    for index in range(1, spec.num_embeddings):
        picked = [rows[r] for r in hashes(index, rows.shape[0] - 1, count, spec.name)]
        table[index] = sum(picked) if combine == "sum" else torch.cat(picked)
    return table


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize(("combine", "count"), [("sum", 2), ("sum", 3), ("concat", 2)])
def test_values_equal_the_definition(pooling, combine, count):
    spec = SPEC.model_copy(update={"pooling": pooling})
    tables = made(DoubleHash(num_buckets=9, num_hashes=count, combine=combine), spec)
    rows = tables.state_dict()["embedding.item@double_hash.weight"]
    assert rows.shape == (10, 4 if combine == "sum" else 2) and not rows[0].any()
    check_bags(tables, dense(rows, spec, count, combine))


def test_multiplexed_tables_share_rows_under_their_own_hashes():
    tables = [table("a", 50, 4), table("b", 70, 4)]
    plan = DoubleHash(multiplex=True).plan(tables, 1000)
    together = collection(tables, plan)
    together.reset_parameters(3)
    rows = together.state_dict()["g.shared@double_hash4.weight"]
    assert together.bytes("infer").total == 4 * rows.numel() + 4 * 8 <= 1000
    for spec in tables:
        expected = dense(rows, spec, 2, "sum")
        torch.testing.assert_close(together.all_rows("g", spec.name), expected)


def test_two_ids_seldom_share_both_rows():
    # 2000 ids in 100 rows: 20 a row with one hash. Of 2e6 pairs about 1 in 1e4 agrees in both.
    pairs = {tuple(hashes(index, 100)) for index in range(1, 2001)}
    assert 1750 < len(pairs) <= 2000
    assert len({first for first, _ in pairs}) == 100


def test_width_one_is_summed():
    spec = SPEC.model_copy(update={"embedding_dim": 1})
    tables = made(DoubleHash(num_buckets=9, combine="concat"), spec)
    rows = tables.state_dict()["embedding.item@double_hash.weight"]
    check_bags(tables, dense(rows, spec, 2, "sum"))


def test_a_width_that_cannot_be_cut_is_refused():
    scheme = DoubleHash(num_buckets=9, num_hashes=3, combine="concat")
    with pytest.raises(ConfigError, match=r"table `item`.*num_hashes=3.*embedding_dim=4"):
        make_tables(scheme, SPEC)
    with pytest.raises(ConfigError, match="embedding_dim=4"):
        DoubleHash(num_hashes=3, combine="concat").plan([SPEC], 300)


@pytest.mark.parametrize("multiplex", [False, True])
@pytest.mark.parametrize("combine", ["sum", "concat"])
@pytest.mark.parametrize("ratio", RATIOS)
def test_plan(ratio, combine, multiplex):
    check_plan(DoubleHash(combine=combine, multiplex=multiplex), ratio)


def test_floor():
    check_floor(DoubleHash(), 3 * (4 * 2 * 16 + 16))
    check_floor(DoubleHash(multiplex=True, num_hashes=3), 4 * 2 * 16 + 3 * 24)
    check_floor(DoubleHash(combine="concat"), 3 * (4 * 2 * 8 + 16))


def test_full_where_it_is_smaller():
    check_whole_budget(DoubleHash())
    check_whole_budget(DoubleHash(multiplex=True))
    fixed = DoubleHash(num_buckets=100).plan([table("a", 5), table("b", 5_000)], None)
    assert [fixed[name].kind for name in "ab"] == ["full", "double_hash"]


def test_unresolved_is_refused():
    with pytest.raises(ConfigError, match="num_buckets"):
        DoubleHash().plan([SPEC], None)
    with pytest.raises(ConfigError, match="num_buckets"):
        make_tables(DoubleHash(), SPEC)


def test_round_trip():
    scheme = DoubleHash(num_buckets=5, num_hashes=3, combine="concat", multiplex=True, salt=3)
    assert round_trip(scheme) == scheme


def test_sums_pool_first():
    tables = made(DoubleHash(num_buckets=9), SPEC)
    part = tables.trained()["embedding.item"].part
    assert part.decoder.linear and not part.decoder.side_by_side
    cut = made(DoubleHash(num_buckets=9, combine="concat"), SPEC).trained()["embedding.item"].part
    assert isinstance(cut.decoder, Concat)


def test_every_row_of_a_bag_gets_its_gradient():
    tables = made(DoubleHash(num_buckets=9), SPEC)
    weight = tables.table_parameters()
    tables(bag_batch([[3, 5]], [2.0, 1.0]))["embedding"]["item"].sum().backward()
    expected = torch.zeros(10)
    for index, times in ((3, 2.0), (5, 1.0)):
        for r in hashes(index, 9):
            expected[r] += times
    got = next(p for p in weight if p.grad is not None).grad.reshape(-1, 4)[-10:, 0]
    assert torch.equal(got, expected)


def test_training_beats_one_hash():
    """With half a row an id, sums of two rows fit more than one row can."""
    targets = torch.randn(39, 8, generator=torch.Generator().manual_seed(0))
    losses = regress(made(DoubleHash(num_buckets=20), table("item", 40, 8)), targets, 400)
    one = torch.tensor([row(index, "item", 20) for index in range(1, 40)])
    best = torch.stack([targets[one == r].mean(0) for r in one])
    assert losses[-1] < ((best - targets) ** 2).mean().item()
    assert losses[-1] < 0.6 * losses[0]


def test_state_restores_exactly():
    trained = made(DoubleHash(num_buckets=20), table("item", 40, 8))
    regress(trained, torch.ones(39, 8), 3)
    fresh = made(DoubleHash(num_buckets=20), table("item", 40, 8), 2)
    fresh.load_state_dict(trained.state_dict())
    rows = trained.all_rows("embedding", "item")
    assert torch.equal(fresh.all_rows("embedding", "item"), rows)
