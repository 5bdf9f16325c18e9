"""Deduplication: which blocks are merged, what is kept, what it takes."""

from __future__ import annotations

import pytest
import torch

from recsys.embeddings.compression import merging
from recsys.embeddings.compression.budget import full_bytes, planned_bytes
from recsys.embeddings.compression.dedup import BlockEncoder, Dedup
from recsys.embeddings.compression.merging import merge
from recsys.embeddings.scheme import Phase, SearchContext
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.testing.table import SPEC, TableConformance, make_tables, vectors
from tests.embeddings.compression.successors import advanced, collection_of, frozen, item_of
from tests.embeddings.compression.toy import check_bags, made, regress, round_trip, table

MERGED = Dedup(block_rows=4, kept_blocks=3, merged=True)
BEFORE = Dedup(block_rows=4, kept_blocks=3)


class TestMerged(TableConformance):
    scheme = MERGED
    std_tolerance = 0.15  # twelve rows

    def expected_bytes(self) -> int:
        return 4 * 4 * (3 * 4 + 1) + 4 * 10  # 39 rows are 10 blocks

    def sharing(self, index: int) -> set[int]:
        return {i for i in range(1, 40) if (i - 1) % 12 == (index - 1) % 12}


class TestBefore(TableConformance):
    """All ten blocks are kept, so that freezing before the second phase changes nothing."""

    scheme = Dedup(block_rows=4, kept_blocks=10)

    def expected_bytes(self) -> int:
        return 40 * 4 * 4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_merge_by_hand():
    blocks = torch.tensor([[0.0], [10.0], [0.1], [30.0], [10.3], [30.2]])
    # .1 from 0 and .2 between the last two and .3 between 10 and 10.3, in this order
    assert merge(blocks, 5, seeded()).tolist() == [0, 1, 0, 3, 4, 5]
    assert merge(blocks, 4, seeded()).tolist() == [0, 1, 0, 3, 4, 3]
    assert merge(blocks, 3, seeded()).tolist() == [0, 1, 0, 3, 1, 3]
    assert merge(blocks, 2, seeded()).tolist() == [0, 0, 0, 3, 0, 3]
    assert merge(blocks, 1, seeded()).tolist() == [0] * 6
    assert merge(blocks, 6, seeded()).tolist() == list(range(6))


def test_merge_stops_at_the_distance():
    blocks = torch.tensor([[0.0], [10.0], [0.1], [30.0], [10.3], [30.2]])
    assert merge(blocks, 1, seeded(), most=0.2**2 + 1e-6).tolist() == [0, 1, 0, 3, 4, 3]
    assert merge(blocks, 1, seeded(), most=0.0).tolist() == list(range(6))


def test_a_large_group_is_dear_to_move():
    # 1.0 stands for three blocks: moving it to 0.8 costs 3 * .04, moving 3.2 to 2.9 costs .09.
    blocks = torch.tensor([[0.8], [1.0], [1.0], [1.0], [2.9], [3.2]])
    assert merge(blocks, 3, seeded()).tolist() == [0, 1, 1, 1, 4, 4]


@pytest.mark.parametrize("exact", [True, False])
def test_merge_finds_copies(exact, monkeypatch):
    """Each of 400 blocks five times, with a little noise."""
    if not exact:
        monkeypatch.setattr(merging, "_EXACT", 8)
    once = torch.randn(400, 24, generator=seeded(1))
    kind = torch.arange(2000) % 400
    blocks = once[kind] + 1e-3 * torch.randn(2000, 24, generator=seeded(2))
    owner = merge(blocks, 400, seeded())
    assert len(owner.unique()) == 400
    assert torch.equal(owner[owner], owner) and (owner <= torch.arange(2000)).all()
    assert (kind[owner] == kind).float().mean() > 0.99
    assert torch.equal(owner, merge(blocks, 400, seeded()))


def test_merge_of_equal_blocks_is_quick():
    owner = merge(torch.zeros(3000, 2), 7, seeded())
    assert len(owner.unique()) == 7


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_values_are_those_of_the_block(pooling):
    spec = SPEC.model_copy(update={"pooling": pooling})
    tables = made(MERGED, spec)
    encoder = tables.encoders["embedding/item"]
    assert isinstance(encoder, BlockEncoder)
    blocks = [0, 1, 2, 1, 1, 0, 2, 2, 0, 1]
    encoder.map.copy_(torch.tensor(blocks))
    stored = tables.state_dict()["embedding.item@dedup.weight"]
    rows = [torch.zeros(4)]
    for x in range(1, 40):
        block, place = divmod(x - 1, 4)
        rows.append(stored[1 + 4 * blocks[block] + place])
    check_bags(tables, torch.stack(rows))


def test_merging_a_trained_table_by_hand():
    tables = made(BEFORE, SPEC)
    weight = tables.state_dict()["embedding.item.weight"].clone()
    base = weight[1:13].clone()  # blocks 0, 1, 2; all others are near copies
    source = [0, 1, 2, 1, 1, 0, 2, 2, 0, 1]
    for block, of in enumerate(source[3:], start=3):
        rows = base[4 * of : 4 * of + 4] + 0.01 * torch.randn(4, 4, generator=seeded(block))
        first = 1 + 4 * block
        weight[first : first + 4] = rows[: 40 - first]
    tables.load_state_dict({**tables.state_dict(), "embedding.item.weight": weight})
    after = advanced(tables, "train", SPEC)
    assert item_of(after).scheme == MERGED
    state = after.state_dict()
    assert state["encoders.embedding/item.map"].tolist() == source
    assert torch.equal(state["embedding.item@dedup.weight"][1:], base)
    served = frozen(tables, SPEC)  # without the second phase
    assert torch.equal(vectors(served, range(40)), vectors(after, range(40)))
    again = frozen(after, SPEC)
    assert torch.equal(vectors(again, range(40)), vectors(after, range(40)))


def test_advance_says_what_was_merged_and_keeps_frequent_rows():
    spec, lines = table("item", 4001, 8), []
    tables = made(Dedup(block_rows=2, kept_blocks=500), spec)
    item = item_of(tables)
    context = SearchContext(validate=lambda: 0.5, say=lines.append, seed=3)
    after = item.scheme.advance("train", {"embedding.item": item}, context)["embedding.item"]
    assert lines == ["embedding.item: 4,001 rows share 500 blocks of 2"]
    merged = collection_of(after, spec)
    full, shared = vectors(tables, range(4001)), vectors(merged, range(4001))
    same = (full == shared).all(dim=1)
    assert same[1:3].all() and same[1:].sum() == 1000
    assert same[1:2001].sum() > same[2001:].sum()


def test_threshold_decides_without_a_budget():
    spec = table("item", 41, 4)
    scheme = Dedup(block_rows=1, threshold=0.0)
    assert scheme.plan([spec], None)["item"] == scheme
    tables = made(scheme, spec)
    weight = tables.state_dict()["embedding.item.weight"].clone()
    weight[21:41] = weight[1:21]
    tables.load_state_dict({**tables.state_dict(), "embedding.item.weight": weight})
    after = item_of(advanced(tables, "train", spec))
    assert after.scheme.kept_blocks == 20
    assert after.part.encoder.state_dict()["map"].tolist() == [*range(20), *range(20)]
    with pytest.raises(ConfigError, match="budget or a `threshold`"):
        scheme.plan([spec], 1000)


def test_phases():
    train, finetune = Dedup(finetune_epochs=0.25).phases()
    assert train == Phase("train") and finetune == Phase("finetune", epochs=0.25)
    assert finetune.start == "inherit"


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5, 0.9])
def test_plan_fits_and_uses_the_budget(ratio):
    tables = [table("a", 70_000, 32), table("b", 9_000, 16), table("c", 900, 16)]
    budget = int(ratio * full_bytes(tables))
    plan = Dedup().plan(tables, budget)
    assert 0.9 * budget <= planned_bytes(tables, plan) <= budget
    rows = plan["a"].block_rows
    assert 4 * (70_000 + 9_000 + 900) / rows <= 1.1 * budget / 4
    assert round_trip(plan["a"]) == plan["a"] and not plan["a"].merged
    made_bytes = planned_bytes(tables[:1], {"a": plan["a"]})
    kept, blocks = plan["a"].kept_blocks, -(-69_999 // rows)
    assert made_bytes == 4 * 32 * (kept * rows + 1) + 4 * blocks


def test_floor():
    tables = [table("a", 1001)]
    # One block of B rows and a map of 1000 / B: least at B = 8.
    least = 4 * 16 * 9 + 4 * 125
    assert Dedup().plan(tables, least)["a"] == Dedup(block_rows=8, kept_blocks=1)
    with pytest.raises(BudgetInfeasible, match="dedup") as error:
        Dedup().plan(tables, least - 1)
    assert error.value.min_bytes == least
    with pytest.raises(BudgetInfeasible) as error:
        Dedup(block_rows=100).plan(tables, least)
    assert error.value.min_bytes == 4 * 16 * 101 + 4 * 10


def test_small_table_stays_full_and_other_errors():
    plan = Dedup(block_rows=8, kept_blocks=3).plan([table("a", 9), table("b", 999)], None)
    assert plan["a"].kind == "full" and plan["b"].kept_blocks == 3
    with pytest.raises(ConfigError, match="kept_blocks"):
        Dedup(block_rows=8).plan([SPEC], None)
    with pytest.raises(ConfigError, match="block_rows"):
        make_tables(Dedup(merged=True, kept_blocks=3), SPEC)


def test_training_memory_is_full_and_served_memory_is_not():
    tables = made(BEFORE, SPEC)
    other = 7 * 4 * 4
    assert tables.bytes("train").total == 40 * 4 * 4 + other
    assert tables.bytes("infer").total == 4 * 4 * 13 + 4 * 10 + other


def test_both_phases_learn():
    """Ids of ten rows in a row have one target: blocks of one target are merged."""
    spec = table("item", 121, 8, 0.01)
    targets = torch.randn(3, 8, generator=seeded(5))[torch.arange(120) // 10 % 3]
    tables = made(Dedup(block_rows=10, kept_blocks=3), spec)
    first = regress(tables, targets, steps=100)
    assert first[-1] < 0.1 * first[0]
    shared = advanced(tables, "train", spec)
    assert shared.state_dict()["encoders.embedding/item.map"].tolist() == [0, 1, 2] * 4
    second = regress(shared, targets, steps=100)
    assert second[0] < 1.5 * first[-1] + 1e-3 and second[-1] < second[0]
    copy = make_tables(item_of(shared).scheme, spec)
    copy.load_state_dict({k: v.clone() for k, v in shared.state_dict().items()})
    assert torch.equal(vectors(copy, range(121)), vectors(shared, range(121)))
