"""Weighted hashed rows against the paper's sum, one index at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.hash_embedding import HashEmbedding
from recsys.errors import ConfigError
from recsys.testing.table import SPEC, TableConformance, bag_batch, make_tables
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

EXACT = HashEmbedding(num_buckets=20, num_importance=39, importance_offset=0)
HASHED = HashEmbedding(num_buckets=20, num_importance=15)


def rows_of(index: int, name: str = "item", buckets: int = 20, count: int = 2) -> list[int]:
    return [row(index, f"{name}#{k}", buckets) for k in range(count)]


class TestExact(TableConformance):
    scheme = EXACT
    std_tolerance = 0.15  # 20 rows, added in pairs

    def expected_bytes(self) -> int:
        return 4 * 21 * 4 + 4 * 40 * 2 + 2 * 8

    def sharing(self, index: int) -> set[int]:
        mine = set(rows_of(index))
        return {other for other in range(1, 40) if mine & set(rows_of(other))}


class TestHashed(TestExact):
    scheme = HASHED

    def expected_bytes(self) -> int:
        return 4 * 21 * 4 + 4 * 16 * 2 + 3 * 8

    def sharing(self, index: int) -> set[int]:
        mine = row(index, "item#p", 15)
        same = {other for other in range(1, 40) if row(other, "item#p", 15) == mine}
        return super().sharing(index) | same


class TestMultiplexed(TestHashed):
    scheme = HASHED.model_copy(update={"multiplex": True})


class TestMean(TestExact):
    spec = SPEC.model_copy(update={"pooling": "mean"})


def shaken(tables: EmbeddingCollection) -> dict[str, Tensor]:
    """Importance that is not 1 everywhere, as after training."""
    state = {name: tensor.clone() for name, tensor in tables.state_dict().items()}
    generator = torch.Generator().manual_seed(5)
    for name, tensor in state.items():
        if "@importance" in name:
            assert not tensor.any()
            tensor[1:] = torch.randn(tensor[1:].shape, generator=generator)
    tables.load_state_dict(state)
    return state


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize(("scheme", "count"), [(EXACT, 2), (HASHED, 2), (HASHED, 3)])
def test_values_equal_the_definition(pooling, scheme, count):
    scheme, exact = scheme.model_copy(update={"num_hashes": count}), scheme is EXACT
    tables = made(scheme, SPEC.model_copy(update={"pooling": pooling}))
    state = shaken(tables)
    shared = state["embedding.item@hash_embedding.weight"]
    importance = 1 + state["embedding.item@importance.weight"]
    dense = torch.zeros(40, 4)
    for index in range(1, 40):
        p = importance[index if exact else row(index, "item#p", 15)]
        for k, r in enumerate(rows_of(index, count=count)):
            dense[index] += p[k] * shared[r]
    check_bags(tables, dense)


def test_starts_as_a_plain_sum():
    tables = made(EXACT, SPEC)
    shared = tables.state_dict()["embedding.item@hash_embedding.weight"]
    expected = torch.stack([shared[rows_of(index)].sum(0) for index in range(1, 40)])
    torch.testing.assert_close(tables.all_rows("embedding", "item")[1:], expected)


def test_gradients_reach_importance_and_rows():
    tables = made(EXACT, SPEC)
    state = shaken(tables)
    shared = state["embedding.item@hash_embedding.weight"]
    importance = 1 + state["embedding.item@importance.weight"]
    tables(bag_batch([[3, 3, 5]], [2.0, 1.0, -1.0]))["embedding"]["item"].sum().backward()
    expected_importance, expected_rows = torch.zeros(40, 2), torch.zeros(21, 4)
    for index, weight in ((3, 3.0), (5, -1.0)):
        for k, r in enumerate(rows_of(index)):
            expected_importance[index, k] = weight * shared[r].sum()
            expected_rows[r] += weight * importance[index, k]
    grads = [p.grad for p in tables.table_parameters() if p.grad is not None]
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    for expected in (expected_importance, expected_rows):
        width, count = expected.shape[1], expected.shape[0]
        grad = next(g for g in grads if g.shape[-1] == width).reshape(-1, width)[-count:]
        torch.testing.assert_close(grad, expected, atol=1e-6, rtol=1e-5)
    total = expected_importance.sum() + expected_rows.sum()
    torch.testing.assert_close(flat.sum(), total, atol=1e-5, rtol=1e-5)


def test_multiplexed_importance_is_exact_over_all_tables():
    tables = [table("a", 50, 4), table("b", 70, 4)]
    plan = HashEmbedding(num_buckets=20, multiplex=True).plan(tables, None)
    assert [plan[n].importance_offset for n in "ab"] == [0, 49]
    assert {plan[n].num_importance for n in "ab"} == {118}
    together = collection(tables, plan)
    together.reset_parameters(3)
    state = shaken(together)
    shared, importance = (
        state[f"g.shared@{role}4.weight"] for role in ("hash_embedding", "importance")
    )
    assert importance.shape == (119, 2)
    for spec, offset in zip(tables, (0, 49)):
        dense = torch.zeros(spec.num_embeddings, 4)
        for index in range(1, spec.num_embeddings):
            for k, r in enumerate(rows_of(index, spec.name)):
                dense[index] += (1 + importance[offset + index, k]) * shared[r]
        torch.testing.assert_close(together.all_rows("g", spec.name), dense, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("multiplex", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
def test_plan(ratio, multiplex):
    check_plan(HashEmbedding(multiplex=multiplex), ratio)


def test_importance_is_exact_while_its_share_allows():
    whole = 4 * 16 * 60_000
    tables = [table("c", 60_000)]
    # Exact importance takes 2 / 16 of the full table: half of a budget of 1/4.
    for ratio, offset in ((0.26, 0), (0.24, None)):
        found = HashEmbedding().plan(tables, int(ratio * whole))["c"]
        assert found.importance_offset == offset
        assert (found.num_importance == 59_999) == (offset == 0)
    found = HashEmbedding(importance_share=0.2).plan(tables, int(0.1 * whole))["c"]
    assert 8 * found.num_importance == pytest.approx(0.02 * whole, rel=0.01)
    assert 64 * found.num_buckets == pytest.approx(0.08 * whole, rel=0.01)
    found = HashEmbedding(num_importance=1_000).plan(tables, int(0.1 * whole))["c"]
    assert found.num_importance == 1_000 and found.importance_offset is None
    assert 64 * found.num_buckets == pytest.approx(0.1 * whole - 8_000, rel=0.01)
    found = HashEmbedding(num_buckets=1_000).plan(tables, int(0.1 * whole))["c"]
    assert found.num_buckets == 1_000
    assert 8 * found.num_importance == pytest.approx(0.1 * whole - 64_000, rel=0.01)


def test_floor():
    check_floor(HashEmbedding(), 3 * (4 * 2 * 16 + 4 * 2 * 2 + 24))
    check_floor(HashEmbedding(multiplex=True), 4 * 2 * 16 + 4 * 2 * 2 + 3 * 24)


def test_full_where_it_is_smaller():
    check_whole_budget(HashEmbedding())
    check_whole_budget(HashEmbedding(multiplex=True))
    fixed = HashEmbedding(num_buckets=100).plan([table("a", 5), table("b", 5_000)], None)
    assert [fixed[name].kind for name in "ab"] == ["full", "hash_embedding"]
    assert fixed["b"].num_importance == 4_999


def test_unresolved_is_refused():
    with pytest.raises(ConfigError, match="num_buckets"):
        HashEmbedding(num_importance=3).plan(TABLES, None)
    with pytest.raises(ConfigError, match="num_importance"):
        make_tables(HashEmbedding(num_buckets=3), SPEC)


@pytest.mark.parametrize("scheme", [EXACT, HASHED, HashEmbedding(multiplex=True, salt=2)])
def test_round_trip(scheme):
    assert round_trip(scheme) == scheme


@pytest.mark.parametrize("std", [1e-4, 0.5])
def test_importance_separates_ids_that_share_rows(std):
    """Targets along one direction: one row is enough for all ids, if their weights differ."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(39, 1, generator=generator) * torch.randn(1, 8, generator=generator)
    spec = table("item", 40, 8, std)
    few = EXACT.model_copy(update={"num_buckets": 2})
    losses = regress(made(few, spec), targets, 400)
    assert losses[-1] < 0.05 * losses[0]
    hashed = regress(made(HashEmbedding(num_buckets=2, num_importance=1), spec), targets, 400)
    assert hashed[-1] > 0.5 * hashed[0]


def test_state_restores_exactly():
    trained = made(HASHED, table("item", 40, 8))
    before = trained.state_dict()["embedding.item@importance.weight"].clone()
    regress(trained, torch.ones(39, 8), 3)
    assert not torch.equal(trained.state_dict()["embedding.item@importance.weight"], before)
    fresh = made(HASHED, table("item", 40, 8), 2)
    fresh.load_state_dict(trained.state_dict())
    rows = trained.all_rows("embedding", "item")
    assert torch.equal(fresh.all_rows("embedding", "item"), rows)
