"""Quotient-remainder tables against the paper's pairs, one index at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.embeddings.compression.budget import full_bytes, planned_bytes
from recsys.embeddings.compression.quotient_remainder import QuotientRemainder
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Full
from recsys.errors import ConfigError
from recsys.schema import Init
from recsys.testing.table import SPEC, TableConformance, bag_batch, make_tables, vectors
from tests.embeddings.compression.hashed import (
    RATIOS,
    TABLES,
    check_floor,
    check_plan,
    check_whole_budget,
    collection,
)
from tests.embeddings.compression.toy import check_bags, made, regress, round_trip, table

COMBINES = ("mul", "sum", "concat")


class TestMul(TableConformance):
    # 39 ids, 4 collisions: 10 remainders, 4 quotients.
    scheme = QuotientRemainder(collisions=4)

    def expected_bytes(self) -> int:
        return 4 * (11 + 5) * 4

    def sharing(self, index: int) -> set[int]:
        q, r = divmod(index - 1, 10)
        return {other for other in range(1, 40) if q == (other - 1) // 10 or r == (other - 1) % 10}


class TestMean(TestMul):
    spec = SPEC.model_copy(update={"pooling": "mean"})


class TestSum(TestMul):
    scheme = QuotientRemainder(collisions=4, combine="sum")


class TestConcat(TestMul):
    scheme = QuotientRemainder(collisions=4, combine="concat")

    def expected_bytes(self) -> int:
        return 4 * (11 + 5) * 2


class TestMultiplexed(TestMul):
    scheme = QuotientRemainder(collisions=4, multiplex=True, total=39)


def dense(remainders: Tensor, quotients: Tensor, rows: int, offset: int, combine: str) -> Tensor:
    """The definition. PAD has a row of zeros."""
    found = []
    for number in range(offset, offset + rows - 1):
        q, r = divmod(number, remainders.shape[0] - 1)
        pair = (remainders[1 + r], quotients[1 + q])
        joined = {
            "mul": lambda a, b: a * b,
            "sum": lambda a, b: a + b,
            "concat": lambda a, b: torch.cat([a, b]),
        }
        found.append(joined[combine](*pair))
    return torch.stack([torch.zeros_like(found[0]), *found])


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("dim", [4, 5])
def test_values_equal_the_definition(pooling, combine, dim):
    spec = SPEC.model_copy(update={"pooling": pooling, "embedding_dim": dim})
    tables = make_tables(QuotientRemainder(collisions=4, combine=combine), spec)
    tables.reset_parameters(1)
    state = tables.state_dict()
    remainders, quotients = (
        state[f"embedding.item@{role}.weight"] for role in ("remainder", "quotient")
    )
    assert (remainders.shape[0], quotients.shape[0]) == (11, 5)
    if combine == "concat":
        assert (remainders.shape[1], quotients.shape[1]) == {4: (2, 2), 5: (3, 2)}[dim]
    if dim == 4:
        check_bags(tables, dense(remainders, quotients, 40, 0, combine))
    rows = tables.all_rows("embedding", "item")
    torch.testing.assert_close(rows, dense(remainders, quotients, 40, 0, combine))


def test_a_bag_is_the_sum_of_products_not_the_product_of_sums():
    """facebookresearch/dlrm#366."""
    tables = made(QuotientRemainder(collisions=4), SPEC)
    state = {name: tensor.clone() for name, tensor in tables.state_dict().items()}
    state["embedding.item@remainder.weight"][[3, 4]] = torch.tensor([[2.0], [3.0]])  # ids 3, 14
    state["embedding.item@quotient.weight"][[1, 2]] = torch.tensor([[5.0], [7.0]])
    tables.load_state_dict(state)
    bag = tables(bag_batch([[3, 14]]))["embedding"]["item"]
    assert bag.tolist() == [[2.0 * 5 + 3 * 7] * 4]  # (2 + 3) (5 + 7) = 60 would be wrong


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(2, 400), min_size=1, max_size=3),
    st.floats(1.0, 50.0),
    st.booleans(),
)
def test_every_id_has_a_pair_of_its_own(sizes, collisions, multiplex):
    tables = [table(f"t{number}", rows, 4) for number, rows in enumerate(sizes)]
    scheme = QuotientRemainder(collisions=collisions, multiplex=multiplex)
    plan = scheme.plan(tables, None)
    seen: set[tuple[object, ...]] = set()
    for spec in tables:
        if isinstance(plan[spec.name], Full):
            continue
        part = plan[spec.name].part(spec)
        indices = torch.arange(spec.num_embeddings, dtype=torch.int32)
        rows = part.encoder(indices)
        for probe, found in zip(part.probes, rows):
            assert found.dtype == torch.int32 and found[0] == 0
            assert found[1:].min() >= 1 and found.max() < probe.num_embeddings
        owner = "" if multiplex else spec.name
        pairs = {(owner, *pair) for pair in zip(*(found[1:].tolist() for found in rows))}
        assert len(pairs) == spec.num_embeddings - 1 and not pairs & seen
        seen |= pairs


def test_frequent_ids_do_not_share_a_remainder():
    rows, _ = QuotientRemainder(collisions=10).part(table("a", 1001)).encoder(torch.arange(1, 101))
    assert rows.tolist() == list(range(1, 101))


def test_indices_beyond_32_bits():
    scheme = QuotientRemainder(
        collisions=1e5, multiplex=True, offset=3_000_000_000, total=4 * 10**9
    )
    remainder, quotient = scheme.part(table("a", 10)).encoder(torch.tensor([0, 7]).int())
    assert remainder.tolist() == [0, 3_000_000_006 % 40_000 + 1]
    assert quotient.tolist() == [0, 3_000_000_006 // 40_000 + 1]


def test_multiplexed_tables_lie_one_after_the_other():
    tables = [table("a", 50, 4), table("b", 70, 4), table("c", 30, 8)]
    plan = QuotientRemainder(collisions=4, multiplex=True).plan(tables, None)
    assert [(plan[n].offset, plan[n].total) for n in "abc"] == [(0, 118), (49, 118), (0, 29)]
    together = collection(tables, plan)
    together.reset_parameters(3)
    state = together.state_dict()
    remainders, quotients = (
        state[f"g.shared@{role}4.weight"] for role in ("remainder", "quotient")
    )
    assert (remainders.shape[0], quotients.shape[0]) == (31, 5)  # 118 / 4, 118 / 30
    for spec, offset in ((tables[0], 0), (tables[1], 49)):
        expected = dense(remainders, quotients, spec.num_embeddings, offset, "mul")
        torch.testing.assert_close(together.all_rows("g", spec.name), expected)


@pytest.mark.parametrize("multiplex", [False, True])
@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("ratio", RATIOS)
def test_plan(ratio, combine, multiplex):
    if ratio < 0.5 or combine != "concat":
        check_plan(QuotientRemainder(combine=combine, multiplex=multiplex), ratio)
    else:  # side by side, half of the full table is all it can use
        plan = QuotientRemainder(combine=combine, multiplex=multiplex).plan(
            TABLES, int(ratio * full_bytes(TABLES))
        )
        assert planned_bytes(TABLES, plan) == pytest.approx(0.5 * full_bytes(TABLES), rel=0.02)


def test_one_number_of_collisions_for_all_tables():
    plan = QuotientRemainder().plan(TABLES, int(0.05 * full_bytes(TABLES)))
    large = plan["c"].collisions
    assert large > math.sqrt(89)
    assert plan["a"].collisions == math.sqrt(89)  # its smallest
    assert plan["b"].collisions == large == pytest.approx(20, rel=0.1)


@pytest.mark.parametrize("ids", [1, 2, 3, 12, 90, 1000, 1023, 1024, 4567])
def test_floor_is_the_least_number_of_rows(ids):
    part = QuotientRemainder(collisions=math.sqrt(ids)).part(table("a", ids + 1))
    least = min(m + math.ceil(ids / m) for m in range(1, ids + 1))
    assert sum(probe.num_embeddings - 1 for probe in part.probes) == least


def test_floor():
    rows = sum(2 + m + math.ceil(n / m) for n, m in ((89, 10), (4_999, 71), (59_999, 245)))
    check_floor(QuotientRemainder(), 4 * 16 * rows)
    total = 89 + 4_999 + 59_999
    check_floor(QuotientRemainder(multiplex=True), 4 * 16 * (2 + 256 + math.ceil(total / 256)))
    check_floor(QuotientRemainder(combine="concat"), 4 * 8 * rows)


def test_full_where_it_is_smaller():
    check_whole_budget(QuotientRemainder())
    check_whole_budget(QuotientRemainder(multiplex=True))
    fixed = QuotientRemainder(collisions=2).plan([table("a", 5), table("b", 5_000)], None)
    assert [fixed[name].kind for name in "ab"] == ["full", "quotient_remainder"]


def test_unresolved_is_refused():
    with pytest.raises(ConfigError, match="collisions"):
        QuotientRemainder().plan(TABLES, None)
    with pytest.raises(ConfigError, match="collisions"):
        make_tables(QuotientRemainder(), SPEC)
    with pytest.raises(ConfigError, match="total"):
        make_tables(QuotientRemainder(collisions=2, multiplex=True), SPEC)


@pytest.mark.parametrize("combine", COMBINES)
def test_round_trip(combine):
    scheme = QuotientRemainder(
        collisions=10 / 3, combine=combine, multiplex=True, offset=3, total=90
    )
    assert round_trip(scheme) == scheme


@pytest.mark.parametrize("kind", ["zeros", "uniform"])
def test_a_product_can_start_at_zero(kind):
    init = Init(kind=kind, std=0.5)
    tables = made(QuotientRemainder(collisions=4), SPEC.model_copy(update={"init": init}))
    state = tables.state_dict()
    assert state["embedding.item@remainder.weight"].any() == (kind != "zeros")
    assert state["embedding.item@quotient.weight"][1:].std() == pytest.approx(1.0, rel=0.3)


def test_gradients_of_the_product():
    tables = made(QuotientRemainder(collisions=4), SPEC)
    state = {name: tensor.clone() for name, tensor in tables.state_dict().items()}
    tables(bag_batch([[3, 14, 3]], [2.0, 1.0, 0.5]))["embedding"]["item"].sum().backward()
    remainders, quotients = (
        state[f"embedding.item@{role}.weight"] for role in ("remainder", "quotient")
    )
    expected = torch.zeros(16, 4)  # 11 remainders, 5 quotients
    expected[3], expected[4] = 2.5 * quotients[1], quotients[2]
    expected[11 + 1], expected[11 + 2] = 2.5 * remainders[3], remainders[4]
    (grad,) = [p.grad for p in tables.table_parameters() if p.grad is not None]
    torch.testing.assert_close(grad.reshape(-1, 4)[-16:], expected)


@pytest.mark.parametrize("combine", COMBINES)
def test_a_step_moves_tiny_vectors_as_far_as_a_plain_table(combine):
    """At std 1e-4, where equal factors of 1e-2 would move 5000 times less."""
    moved = []
    for scheme in (QuotientRemainder(collisions=4, combine=combine), Full()):
        tables = made(scheme, table("item", 40, 64, 1e-4))
        before = vectors(tables, [5]).detach().clone()
        rows = tables.attach_optimizer(EmbeddingOptimizerConfig(kind="sgd", learning_rate=0.1))
        vectors(tables, [5]).sum().backward()
        rows.step()
        moved.append((before - vectors(tables, [5])).mean().item())
    assert 0.5 < moved[0] / moved[1] < 2.1


@pytest.mark.parametrize("std", [1e-4, 0.5])
@pytest.mark.parametrize("combine", COMBINES)
def test_training_learns_what_pairs_can_hold(combine, std):
    """Targets made from pairs by the same rule are learned, at any start."""
    generator = torch.Generator().manual_seed(0)
    widths = (4, 4) if combine == "concat" else (8, 8)
    pairs = [torch.randn(11, widths[0], generator=generator)]
    pairs.append(torch.randn(5, widths[1], generator=generator))
    targets = dense(*pairs, 40, 0, combine)[1:]
    scheme = QuotientRemainder(collisions=4, combine=combine)
    losses = regress(made(scheme, table("item", 40, 8, std)), targets, 600)
    assert losses[-1] < 0.02 * losses[0]


def test_state_restores_exactly():
    trained = made(QuotientRemainder(collisions=4), table("item", 40, 8))
    regress(trained, torch.ones(39, 8), 3)
    fresh = made(QuotientRemainder(collisions=4), table("item", 40, 8), 2)
    fresh.load_state_dict(trained.state_dict())
    rows = trained.all_rows("embedding", "item")
    assert torch.equal(fresh.all_rows("embedding", "item"), rows)
