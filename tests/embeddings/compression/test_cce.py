"""Clustered compositional embeddings against sums of rows and a clustering done by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsys.embeddings.collection import EmbeddingCollection
from recsys.embeddings.compression.budget import full_bytes, planned_bytes
from recsys.embeddings.compression.cce import CCE, ClusterEncoder, Clustering
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.embeddings.scheme import Full
from recsys.errors import BudgetInfeasible, ConfigError
from recsys.testing.table import SPEC, TableConformance, make_tables, vectors
from tests.embeddings.compression.toy import check_bags, made, regress, round_trip, table

SCHEME = CCE(chunks=2, num_clusters=5)


def encoder_of(tables: EmbeddingCollection) -> ClusterEncoder:
    encoder = tables.encoders["embedding/item"]
    assert isinstance(encoder, ClusterEncoder)
    return encoder


def adapter_of(tables: EmbeddingCollection) -> Clustering:
    adapter = tables.trained()["embedding.item"].part.adapter
    assert isinstance(adapter, Clustering)
    return adapter


class TestCCE(TableConformance):
    scheme = SCHEME
    std_tolerance = 0.2  # ten rows a chunk make all

    def expected_bytes(self) -> int:
        codes, tables, salts, progress = 2 * 40, 2 * (2 * 5 + 1) * 2 * 4, 2 * 8, 2 * 8
        return codes + tables + salts + progress

    def sharing(self, index: int) -> set[int]:
        rows = encoder_of(self.tables())(torch.arange(40, dtype=torch.int32))
        return {i for i in range(1, 40) if any(row[i] == row[index] for row in rows)}


class TestOneChunk(TestCCE):
    scheme = CCE(chunks=1, num_clusters=300)
    spec = SPEC.model_copy(update={"pooling": "mean"})
    std_tolerance = 0.1

    def expected_bytes(self) -> int:
        return 2 * 40 + 2 * 301 * 4 * 4 + 8 + 16


def dense(tables: EmbeddingCollection) -> Tensor:
    """T0[code] + T1[hash] by loops over ids and chunks."""
    state, encoder = tables.state_dict(), encoder_of(tables)
    means, rest = (state[f"embedding.item@{role}.weight"] for role in ("means", "rest"))
    size, chunks = encoder.num_clusters, encoder.chunks
    rows = [torch.zeros(chunks * means.shape[1])]
    for x in range(1, encoder.codes.shape[1]):
        parts = []
        for c in range(chunks):
            h = int(encoder.hashes_of(c, torch.tensor([x])))
            code = int(encoder.codes[c, x]) % (1 << 16)
            parts.append(means[1 + c * size + code] + rest[1 + c * size + h])
        rows.append(torch.cat(parts))
    return torch.stack(rows)


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_values_are_sums_of_rows(pooling):
    tables = made(SCHEME, SPEC.model_copy(update={"pooling": pooling}))
    check_bags(tables, dense(tables))


def test_pad_row_is_never_read_by_others():
    for row in encoder_of(made(SCHEME, SPEC))(torch.arange(40, dtype=torch.int32)):
        assert row[0] == 0 and (row[1:] > 0).all()
    rows = encoder_of(made(SCHEME, SPEC))(torch.arange(40, dtype=torch.int32))
    assert [(int(row[1:].min()) - 1) // 5 for row in rows] == [0, 1, 0, 1]
    assert [(int(row.max()) - 1) // 5 for row in rows] == [0, 1, 0, 1]


@pytest.mark.parametrize("size", [200, 1 << 8, 300, 1 << 16, 70_000])
def test_codes_keep_every_cluster(size):
    encoder = ClusterEncoder("item", 4, 1, size, 0)
    encoder.initialize()
    encoder.set_codes(0, torch.tensor([0, size - 1, size // 2, 40_000 % size]))
    values = torch.arange(4)
    assert encoder.codes_of(0, values).tolist() == [0, size - 1, size // 2, 40_000 % size]
    width = {200: 1, 256: 1, 300: 2, 65_536: 2, 70_000: 4}[size]
    assert encoder.codes.element_size() == width


def test_clustering_by_hand():
    tables = made(SCHEME, SPEC)
    tables.load_state_dict({k: v.clone() for k, v in tables.state_dict().items()})
    before, old = dense(tables), encoder_of(tables).salts.clone()
    tables.attach_optimizer(EmbeddingOptimizerConfig(kind="sgd", learning_rate=0.1))
    for _ in range(200):  # the first clustering is at step 200
        tables.after_step()
    encoder, state = encoder_of(tables), tables.state_dict()
    assert encoder.progress.tolist() == [200, 1] and not torch.equal(encoder.salts, old)
    for c in range(2):
        points = before[1:, 2 * c : 2 * c + 2]
        code = encoder.codes[c, 1:].long()
        h = encoder.hashes_of(c, torch.arange(1, 40))
        for k in range(5):
            row = state["embedding.item@means.weight"][1 + 5 * c + k]
            mine = points[code == k]
            torch.testing.assert_close(row, mine.mean(0) if len(mine) else torch.zeros(2))
        left = points - state["embedding.item@means.weight"][1 + 5 * c + code]
        for k in range(5):
            row = state["embedding.item@rest.weight"][1 + 5 * c + k]
            mine = left[h == k]
            torch.testing.assert_close(row, mine.mean(0) if len(mine) else torch.zeros(2))
    after = dense(tables)
    assert (after - before).square().mean() < 0.5 * before[1:].var()
    torch.testing.assert_close(tables.all_rows("embedding", "item"), after)


def test_clusters_are_found():
    """Four kinds of ids: clusterings tell them apart, which a fixed hash cannot."""
    spec = table("item", 200, 8, 0.01)
    kinds = torch.arange(199) % 4
    centers = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    targets = centers[kinds].repeat(1, 4)
    scheme = CCE(chunks=1, num_clusters=20, cluster_every=60, cluster_growth=1, cluster_times=0)
    never = regress(made(scheme, spec), targets, steps=60)[-1]
    tables = made(scheme.model_copy(update={"cluster_times": 12}), spec)
    losses = regress(tables, targets, steps=800)
    assert all(losses[i + 59] < losses[i - 1] for i in range(60, 720, 60))
    assert losses[-1] < 0.3 * never
    codes = encoder_of(tables).codes[0, 1:]
    kinds_of = [len(set(kinds[codes == k].tolist())) for k in codes.unique().tolist()]
    assert sum(kinds_of) / len(kinds_of) < 2  # 4 at the start


def test_schedule():
    tables = made(CCE(chunks=1, num_clusters=4, cluster_every=3, cluster_times=3), SPEC)
    done = []
    for _ in range(40):
        tables.after_step()
        done.append(encoder_of(tables).progress[1].item())
    assert [done.index(k) + 1 for k in (1, 2, 3)] == [3, 9, 21]
    even = CCE(chunks=1, num_clusters=4, cluster_every=3, cluster_growth=1.0, cluster_times=2)
    tables = made(even, SPEC)
    done = [(tables.after_step(), encoder_of(tables).progress[1].item())[1] for _ in range(9)]
    assert done == [0, 0, 1, 1, 1, 2, 2, 2, 2]


def test_clustering_starts_optimizer_states_anew():
    tables = made(CCE(chunks=2, num_clusters=5, cluster_every=2), SPEC)
    optimizer = tables.attach_optimizer(EmbeddingOptimizerConfig(kind="adagrad", learning_rate=0.1))
    for step in range(2):
        optimizer.zero_grad()
        vectors(tables, range(1, 40)).square().sum().backward()
        optimizer.step()
        tables.after_step(optimizer)
        state = optimizer.state_dict()
        sums = [v for k, v in flatten(state) if "item" in k and isinstance(v, Tensor)]
        assert sums
        assert any(value.any() for value in sums) == (step == 0)


def flatten(state: object, name: str = "") -> list[tuple[str, object]]:
    if isinstance(state, dict):
        return [pair for k, v in state.items() for pair in flatten(v, f"{name}/{k}")]
    return [(name, state)]


def test_resume_is_exact():
    scheme = CCE(chunks=2, num_clusters=5, cluster_every=3)
    targets = torch.randn(39, 4, generator=torch.Generator().manual_seed(1))
    first = made(scheme, SPEC)
    regress(first, targets, steps=5)
    other = made(scheme, SPEC, seed=9)
    other.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    assert torch.equal(vectors(other, range(40)), vectors(first, range(40)))
    assert encoder_of(other).progress.tolist() == [5, 1]
    losses = [regress(tables, targets, steps=4) for tables in (first, other)]
    assert losses[0] == losses[1]  # a clustering at step 9 included
    assert torch.equal(encoder_of(first).codes, encoder_of(other).codes)


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.25, 0.5, 0.8])
def test_plan_fits_and_uses_the_budget(ratio):
    tables = [table("a", 70_000, 32), table("b", 9_000, 32)]
    budget = int(ratio * full_bytes(tables))
    plan = CCE().plan(tables, budget)
    assert 0.9 * budget <= planned_bytes(tables, plan) <= budget
    assert round_trip(plan["a"]) == plan["a"]


def test_codes_decide_the_floor():
    tables = [table("a", 10_000)]
    one = 10_000 + 8 * 16 * 1 + 8 * 16 // 1 + 8 + 16
    assert CCE().plan(tables, one)["a"] == CCE(chunks=1, num_clusters=1)
    with pytest.raises(BudgetInfeasible, match="cce") as error:
        CCE().plan(tables, one - 1)
    assert error.value.min_bytes == one
    with pytest.raises(BudgetInfeasible) as error:
        CCE(chunks=4).plan(tables, one)
    assert error.value.min_bytes == 40_000 + 8 * 16 + 8 * 4 + 32 + 16


def test_chunks_are_fewer_where_codes_are_too_many():
    n = 10_000
    tables = [table("a", n)]
    found = [CCE().plan(tables, int(r * n * 64))["a"].chunks for r in (0.02, 0.04, 0.5)]
    assert found == [1, 2, 4]


def test_small_tables_and_odd_widths():
    plan = CCE().plan([table("a", 3, 6), table("b", 10_000, 6)], 80_000)
    assert plan["a"] == Full()
    assert plan["b"].chunks in (1, 2)
    assert CCE(num_clusters=9).plan([table("b", 10_000, 6)], None)["b"].chunks == 2
    with pytest.raises(ConfigError, match="divide its width 6, got 4"):
        make_tables(CCE(chunks=4, num_clusters=9), table("item", 40, 6))
    with pytest.raises(ConfigError, match="num_clusters"):
        CCE().plan([SPEC], None)


@pytest.mark.parametrize("std", [1e-4, 0.5])
def test_training_lowers_the_loss_and_reaches_both_tables(std):
    tables = made(CCE(chunks=4, num_clusters=12), table("item", 40, 8, std))
    before = {name: tensor.clone() for name, tensor in tables.state_dict().items()}
    losses = regress(tables, torch.randn(39, 8, generator=torch.Generator().manual_seed(0)), 300)
    assert losses[-1] < 0.5 * losses[0]
    after = tables.state_dict()
    for role in ("means", "rest"):
        name = f"embedding.item@{role}.weight"
        assert (before[name][1:] != after[name][1:]).any(1).float().mean() > 0.9
