"""Hashed product quantization against lookups written out with plain indexing."""

from __future__ import annotations

import pytest
import torch

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.budget import full_bytes, planned_bytes
from recsys.embeddings.compression.product_hash import ProductHash
from recsys.embeddings.scheme import Full
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.schema import Init
from recsys.testing.table import SPEC, TableConformance
from tests.embeddings.compression.test_hashing import reference
from tests.embeddings.compression.toy import check_bags, made, regress, round_trip, table

M = 12


def rows_of(index: int, parts: int, name: str = "item") -> list[int]:
    return [reference(index, f"{name}#{j}", 0, M) for j in range(parts)]


class TestProductHash(TableConformance):
    scheme = ProductHash(parts=2, num_buckets=M)

    def expected_bytes(self) -> int:
        return 4 * (M + 1) * self.spec.embedding_dim + 8 * 2

    def sharing(self, index: int) -> set[int]:
        mine = rows_of(index, 2)
        return {i for i in range(1, 40) if any(a == b for a, b in zip(mine, rows_of(i, 2)))}


class TestMean(TestProductHash):
    spec = SPEC.model_copy(update={"pooling": "mean"})


class TestUneven(TestProductHash):
    """Pieces of 3 and 2 columns, the start values of models by default."""

    spec = SPEC.model_copy(update={"embedding_dim": 5, "init": Init(std=1e-4)})


class TestMultiplexed(TestProductHash):
    scheme = ProductHash(parts=2, num_buckets=M, multiplex=True)


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("multiplex", [False, True])
@pytest.mark.parametrize(
    ("dim", "widths"), [(4, (2, 1, 1)), (6, (2, 2, 2)), (2, (1, 1)), (1, (1,))]
)
def test_values_are_the_definition(pooling, multiplex, dim, widths):
    spec = SPEC.model_copy(update={"pooling": pooling, "embedding_dim": dim})
    tables = made(ProductHash(parts=3, num_buckets=M, multiplex=multiplex), spec)
    state, parts = tables.state_dict(), len(widths)
    owner = f"shared@product_hash{dim}-" if multiplex else "item@product_hash"
    books = [state[f"embedding.{owner}{j}.weight"] for j in range(parts)]
    assert tuple(book.shape[1] for book in books) == widths
    dense = torch.stack(
        [torch.cat([b[r] for b, r in zip(books, rows_of(i, parts))]) for i in range(40)]
    )
    check_bags(tables, dense)


def test_multiplexed_tables_share_codebooks_of_their_width():
    scheme = ProductHash(parts=2, num_buckets=M, multiplex=True)
    specs = [table("a", 50, 4), table("b", 50, 4), table("c", 50, 8)]
    tables = EmbeddingCollection(
        {"g": specs}, ("a", "b", "c"), schemes={f"g.{name}": scheme for name in "abc"}
    )
    names = [name for name in tables.state_dict() if name.endswith("weight")]
    assert names == [f"g.shared@product_hash{dim}-{j}.weight" for dim in (4, 8) for j in (0, 1)]
    book = tables.state_dict()[names[0]]
    for name in "ab":
        got = tables.all_rows("g", name)[7, :2]
        assert torch.equal(got, book[rows_of(7, 2, name)[0]])
    assert rows_of(7, 2, "a") != rows_of(7, 2, "b")


@pytest.mark.parametrize("multiplex", [False, True])
@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.01])
def test_plan_fills_the_budget(multiplex, ratio):
    tables = [table("a", 40_000), table("b", 30), table("c", 9000, 10)]
    budget = int(ratio * full_bytes(tables))
    plan = ProductHash(multiplex=multiplex).plan(tables, budget)
    assert 0.98 * budget < planned_bytes(tables, plan) <= budget
    alone = ProductHash(num_buckets=5, multiplex=multiplex).plan(tables, None)
    assert planned_bytes(tables, alone) < budget


def test_a_table_that_would_grow_stays_full():
    tables = [table("a", 40_000), table("tiny", 2)]
    plan = ProductHash().plan(tables, 100_000)
    assert plan["tiny"] == Full()
    assert plan["a"].num_buckets == (100_000 - 128 - 32) // 64 - 1
    assert ProductHash(multiplex=True).plan(tables, 100_000)["tiny"].kind == "product_hash"


def test_budget_below_the_floor_is_refused():
    tables = [table("a", 400), table("b", 400)]
    with pytest.raises(BudgetInfeasible) as error:
        ProductHash().plan(tables, 319)
    assert error.value.min_bytes == 2 * (2 * 64 + 32)
    with pytest.raises(BudgetInfeasible) as error:
        ProductHash(multiplex=True).plan(tables, 191)
    assert error.value.min_bytes == 2 * 64 + 64
    with pytest.raises(ConfigError, match="num_buckets"):
        ProductHash().plan(tables, None)


def test_json_round_trip():
    scheme = ProductHash(parts=2, num_buckets=M, multiplex=True, salt=2)
    assert round_trip(scheme) == scheme


@pytest.mark.parametrize("multiplex", [False, True])
def test_training_lowers_a_loss(multiplex):
    targets = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    tables = made(ProductHash(parts=2, num_buckets=997, multiplex=multiplex), SPEC)
    losses = regress(tables, targets)
    assert losses[-1] < 0.1 * losses[0]
