"""One table for all features, against lookups written out with plain indexing."""

from __future__ import annotations

import pytest
import torch

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.budget import full_bytes, planned_bytes
from recsys.embeddings.compression.plan import compress
from recsys.embeddings.compression.unified import UnifiedEmbedding
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Full
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.schema import Init
from recsys.testing.table import SPEC, TableConformance, bag_batch
from recsys.types import Batch
from tests.embeddings.compression.test_hashing import reference
from tests.embeddings.compression.toy import check_bags, made, regress, round_trip, table

M = 60


def rows_of(index: int, probes: int, name: str = "item") -> list[int]:
    return [reference(index, f"{name}#{k}", 0, M) for k in range(probes)]


class TestUnifiedEmbedding(TableConformance):
    scheme = UnifiedEmbedding(chunk=2, num_buckets=M)
    probes = 2

    def expected_bytes(self) -> int:
        return 4 * (M + 1) * 2 + 8 * self.probes

    def sharing(self, index: int) -> set[int]:
        mine = set(rows_of(index, self.probes))
        return {i for i in range(1, 40) if mine & set(rows_of(i, self.probes))}


class TestMean(TestUnifiedEmbedding):
    spec = SPEC.model_copy(update={"pooling": "mean"})


class TestHead(TestUnifiedEmbedding):
    """Width 5 of 3 probes of 2 columns."""

    spec = SPEC.model_copy(update={"embedding_dim": 5})
    probes = 3


class TestProjection(TestUnifiedEmbedding):
    scheme = UnifiedEmbedding(chunk=2, num_buckets=M, probes={"item": 3})
    probes = 3

    def expected_bytes(self) -> int:
        return super().expected_bytes() + 4 * 6 * 4


class TestTinyStart(TestUnifiedEmbedding):
    """The start values of models by default."""

    spec = SPEC.model_copy(update={"init": Init(std=1e-4)})


def dense_table(tables: EmbeddingCollection, scheme: UnifiedEmbedding, dim: int) -> torch.Tensor:
    state = tables.state_dict()
    shared = state[f"embedding.shared@unified{scheme.chunk}.weight"]
    probes = scheme.probes.get("item", -(-dim // scheme.chunk))
    wide = torch.stack(
        [torch.cat([shared[row] for row in rows_of(index, probes)]) for index in range(40)]
    )
    if "item" in scheme.probes:
        return wide @ state["decoders.embedding/item.weight"]
    return wide[:, :dim]


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("dim", [4, 5, 1])
@pytest.mark.parametrize("probes", [{}, {"item": 1}, {"item": 4}])
def test_values_are_the_definition(pooling, dim, probes):
    if dim == 1 and probes:
        return
    scheme = UnifiedEmbedding(chunk=2 if dim > 1 else 1, num_buckets=M, probes=probes)
    spec = SPEC.model_copy(update={"pooling": pooling, "embedding_dim": dim})
    tables = made(scheme, spec)
    check_bags(tables, dense_table(tables, scheme, dim))


def pair(dims: tuple[int, int] = (4, 4)) -> tuple[EmbeddingCollection, UnifiedEmbedding]:
    scheme = UnifiedEmbedding(chunk=2, num_buckets=M)
    specs = [table(name, 50, dim) for name, dim in zip(("item", "user"), dims)]
    schemes = {f"embedding.{spec.name}": scheme for spec in specs}
    return EmbeddingCollection({"embedding": specs}, ("item", "user"), schemes=schemes), scheme


def both(item: int, user: int) -> Batch:
    return Batch(
        torch.zeros(1, 0),
        torch.tensor([item, user], dtype=torch.int32),
        torch.ones(2, dtype=torch.int32),
        torch.zeros(1, 1),
        ("item", "user"),
        (1, 1),
    )


def test_features_share_rows_with_hashes_of_their_own():
    tables, _ = pair((4, 7))
    shared = tables.state_dict()["embedding.shared@unified2.weight"]
    assert list(tables.state_dict()) == [
        "embedding.shared@unified2.weight",
        "encoders.embedding/item.salts",
        "encoders.embedding/user.salts",
    ]
    got = tables(both(3, 3))["embedding"]
    assert torch.equal(got["item"][0], torch.cat([shared[r] for r in rows_of(3, 2, "item")]))
    wide = torch.cat([shared[r] for r in rows_of(3, 4, "user")])
    assert torch.equal(got["user"][0], wide[:7])


@pytest.mark.parametrize("mode", ["sparse", "dense"])
def test_gradients_of_all_features_meet_in_a_row(mode):
    tables, _ = pair()
    shared = "embedding.shared@unified2.weight"
    before = tables.state_dict()[shared].clone()
    config = EmbeddingOptimizerConfig(kind="sgd", learning_rate=1.0, mode=mode)
    owner = tables.attach_optimizer(config)
    item, user = next(
        (a, b)
        for a in range(1, 50)
        for b in range(1, 50)
        if rows_of(a, 2, "item")[0] == rows_of(b, 2, "user")[1]
    )
    tables(both(item, user))["embedding"].values.sum().backward()
    owner.step()
    hits = torch.zeros(M + 1)
    for row in rows_of(item, 2, "item") + rows_of(user, 2, "user"):
        hits[row] += 1
    assert hits.max() >= 2
    change = before - tables.state_dict()[shared]
    torch.testing.assert_close(change, hits.unsqueeze(1).expand(-1, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.01, 0.001])
def test_plan_fills_the_budget_with_any_widths(ratio):
    tables = [table("a", 40_000), table("b", 100, 10), table("c", 900, 64), table("d", 70, 1)]
    budget = int(ratio * full_bytes(tables))
    plan = UnifiedEmbedding().plan(tables, budget)
    size = planned_bytes(tables, plan)
    assert budget - 4 * 32 < size <= budget
    assert {scheme.chunk for scheme in plan.values()} == {32}
    assert len({scheme.num_buckets for scheme in plan.values()}) == 1


def test_plan_counts_projections():
    tables = [table("a", 4000), table("b", 4000)]
    plan = UnifiedEmbedding(probes={"a": 4}).plan(tables, 20_000)
    assert plan["a"].num_buckets == (20_000 - 6 * 8 - 4 * 16 * 32) // 32 - 1


def test_tables_that_start_differently_get_tables_of_their_own():
    tables = [table("a", 3000), table("b", 1000, std=0.1), table("c", 1000, std=0.1)]
    plan = UnifiedEmbedding().plan(tables, 32_000)
    names = {name: plan[name].part(t).probes[0].name for name, t in zip("abc", tables)}
    assert names == {"a": "shared@unified8", "b": "shared@unified8-1", "c": "shared@unified8-1"}
    assert plan["a"].num_buckets == pytest.approx(600, abs=6)
    assert plan["b"].num_buckets == pytest.approx(400, abs=6)
    assert 31_900 < planned_bytes(tables, plan) <= 32_000


def test_budget_that_holds_everything_keeps_everything():
    tables = [table("a", 100), table("b", 100)]
    assert UnifiedEmbedding().plan(tables, full_bytes(tables)) == {"a": Full(), "b": Full()}
    assert UnifiedEmbedding().plan(tables, full_bytes(tables) - 1)["a"].num_buckets == 397


def test_budget_below_one_row_is_refused():
    tables = [table("a", 100), table("b", 100)]
    with pytest.raises(BudgetInfeasible) as error:
        UnifiedEmbedding().plan(tables, 95)
    assert error.value.min_bytes == 2 * 32 + 4 * 8
    assert UnifiedEmbedding().plan(tables, 96)["a"].num_buckets == 1


def test_stated_size_is_kept_and_checked():
    tables = [table("a", 100), table("b", 100, 4)]
    scheme = UnifiedEmbedding(num_buckets=9)
    assert scheme.plan(tables, None)["b"] == scheme.model_copy(update={"chunk": 8})
    with pytest.raises(BudgetInfeasible):
        scheme.plan(tables, 300)
    with pytest.raises(ConfigError, match="num_buckets"):
        UnifiedEmbedding().plan(tables, None)


def test_first_order_weights_and_small_vocabularies():
    tables = [table("a", 1000, 1), table("b", 1000, 1), table("sex", 4, 1)]
    plan = compress(tables, UnifiedEmbedding(chunk=8, probes={"a": 3}), ratio=0.1)
    assert plan["sex"] == Full()
    assert (plan["a"].chunk, len(plan["a"].part(tables[0]).probes)) == (1, 1)


def test_json_round_trip():
    scheme = UnifiedEmbedding(chunk=4, num_buckets=M, probes={"item": 3}, pool=1, salt=2)
    assert round_trip(scheme) == scheme


@pytest.mark.parametrize("probes", [{}, {"item": 3}])
def test_training_lowers_a_loss(probes):
    scheme = UnifiedEmbedding(chunk=2, num_buckets=M, probes=probes)
    targets = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    losses = regress(made(scheme, SPEC), targets)
    assert losses[-1] < 0.1 * losses[0]


def test_empty_batch_has_the_right_shape():
    tables = made(UnifiedEmbedding(chunk=2, num_buckets=M), SPEC)
    assert not tables(bag_batch([[], []]))["embedding"]["item"].any()
