"""The hashing trick, alone and multiplexed, against the hash in plain Python."""

from __future__ import annotations

import pytest
import torch

from recsys.embeddings.compression.hash import Hash
from recsys.embeddings.compression.multiplex import spans
from recsys.errors import ConfigError, SchemaError
from recsys.testing.table import SPEC, TableConformance, make_tables
from tests.embeddings.compression.hashed import (
    RATIOS,
    TABLES,
    check_floor,
    check_plan,
    check_whole_budget,
    collection,
    row,
)
from tests.embeddings.compression.toy import check_bags, made, regress, round_trip, table


class TestHash(TableConformance):
    scheme = Hash(num_buckets=10)

    def expected_bytes(self) -> int:
        return 4 * 11 * 4 + 8

    def sharing(self, index: int) -> set[int]:
        mine = row(index, "item", 10)
        return {other for other in range(1, 40) if row(other, "item", 10) == mine}


class TestMultiplexed(TestHash):
    scheme = Hash(num_buckets=10, multiplex=True)


class TestMean(TestHash):
    spec = SPEC.model_copy(update={"pooling": "mean"})


class TestNarrow(TestHash):
    spec = SPEC.model_copy(update={"embedding_dim": 1})

    def expected_bytes(self) -> int:
        return 4 * 11 + 8


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("salt", [0, 7])
def test_values_are_hashed_rows(pooling, salt):
    scheme = Hash(num_buckets=10, salt=salt)
    tables = made(scheme, SPEC.model_copy(update={"pooling": pooling}))
    rows = tables.state_dict()["embedding.item@hash.weight"]
    assert rows.shape == (11, 4) and not rows[0].any()
    check_bags(tables, rows[[row(index, "item", 10, salt) for index in range(40)]])


def test_multiplexed_tables_share_rows_under_their_own_hashes():
    tables = [table("a", 50, 4), table("b", 70, 4), table("c", 70, 8)]
    plan = {t.name: Hash(num_buckets=20, multiplex=True) for t in tables}
    together = collection(tables, plan)
    together.reset_parameters(3)
    state = together.state_dict()
    assert {key: tuple(v.shape) for key, v in state.items() if "weight" in key} == {
        "g.shared@hash4.weight": (21, 4),
        "g.shared@hash8.weight": (21, 8),
    }
    assert together.bytes("infer").total == 4 * 21 * (4 + 8) + 3 * 8
    for t in tables:
        rows = state[f"g.shared@hash{t.embedding_dim}.weight"]
        expected = rows[[row(index, t.name, 20) for index in range(t.num_embeddings)]]
        assert torch.equal(together.all_rows("g", t.name), expected)
    assert not torch.equal(together.all_rows("g", "a")[1:], together.all_rows("g", "b")[1:50])


def test_multiplexed_tables_of_another_plan_are_refused():
    plan = {name: Hash(num_buckets=rows, multiplex=True) for name, rows in (("a", 20), ("b", 21))}
    with pytest.raises(SchemaError, match="shared@hash4"):
        collection([table("a", 50, 4), table("b", 70, 4)], plan)


@pytest.mark.parametrize("multiplex", [False, True])
@pytest.mark.parametrize("ratio", [0.001, *RATIOS])
def test_plan(ratio, multiplex):
    check_plan(Hash(multiplex=multiplex), ratio, uses=0.95)


def test_plan_is_proportional():
    plan = Hash().plan(TABLES, 4 * 16 * 6509)
    shares = [plan[t.name].num_buckets / (t.num_embeddings - 1) for t in TABLES]
    assert shares == pytest.approx([0.1] * 3, rel=0.02)
    together = Hash(multiplex=True).plan(TABLES, 4 * 16 * 6509)
    assert {found.num_buckets for found in together.values()} == {6507}  # a row for 3 salts


def test_floor():
    check_floor(Hash(), 3 * (4 * 2 * 16 + 8))
    check_floor(Hash(multiplex=True), 4 * 2 * 16 + 3 * 8)


def test_full_where_it_is_smaller():
    check_whole_budget(Hash())
    check_whole_budget(Hash(multiplex=True))
    small = [table("a", 5), table("b", 5_000)]
    fixed = Hash(num_buckets=100).plan(small, None)
    assert [fixed[name].kind for name in "ab"] == ["full", "hash"]
    shared = Hash(num_buckets=100, multiplex=True).plan(small, None)
    assert [shared[name].kind for name in "ab"] == ["hash", "hash"]


def test_spans_put_tables_of_a_width_one_after_the_other():
    tables = [table("a", 11, 4), table("b", 21, 8), table("c", 31, 4)]
    assert spans(tables, True) == {"a": (0, 40), "b": (0, 20), "c": (10, 40)}
    assert spans([table("a", 1, 4)], False) == {"a": (0, 1)}


def test_unresolved_is_refused():
    with pytest.raises(ConfigError, match="num_buckets"):
        Hash().plan([SPEC], None)
    with pytest.raises(ConfigError, match="num_buckets"):
        make_tables(Hash(multiplex=True), SPEC)


def test_round_trip():
    scheme = Hash(num_buckets=5, multiplex=True, salt=3)
    assert round_trip(scheme) == scheme


def test_state_restores_the_hash():
    trained, fresh = made(Hash(num_buckets=10, salt=5), SPEC), made(Hash(num_buckets=10), SPEC, 2)
    fresh.load_state_dict(trained.state_dict())
    rows = trained.all_rows("embedding", "item")
    assert torch.equal(fresh.all_rows("embedding", "item"), rows)


@pytest.mark.parametrize("multiplex", [False, True])
def test_training_learns_the_mean_of_a_row(multiplex):
    tables = made(Hash(num_buckets=10, multiplex=multiplex), table("item", 40, 8))
    targets = torch.randn(39, 8, generator=torch.Generator().manual_seed(0))
    losses = regress(tables, targets)
    mine = torch.tensor([row(index, "item", 10) for index in range(1, 40)])
    best = targets.clone()
    for bucket in mine.unique():
        best[mine == bucket] = targets[mine == bucket].mean(0)
    assert losses[-1] == pytest.approx(((best - targets) ** 2).mean().item(), rel=0.02)
    assert losses[-1] < 0.9 * losses[0]
