"""The CPU placer and the choice of backend."""

from __future__ import annotations

import importlib.util
import re

import pytest

from recsys.embeddings.backend import resolve_backend, torchrec_module
from recsys.embeddings.host_memory import free_memory
from recsys.embeddings.sharding import ShardingConfig, place
from recsys.embeddings.store import PhysicalTable
from recsys.errors import ShardingError
from tests.embeddings.conftest import spec


def tables(*rows: int) -> list[PhysicalTable]:
    return [PhysicalTable("g", spec(f"t{i}", n, 4, (f"f{i}",), "sum")) for i, n in enumerate(rows)]


def test_big_tables_by_rows_the_rest_greedily():
    found = tables(100, 10, 30, 20)
    plan = place(found, [1000, 100, 300, 200], world_size=2)
    kinds = {item.table: (item.kind, item.ranks) for item in plan.placements}
    assert kinds == {
        "g.t0": ("row_wise", (0, 1)),
        "g.t2": ("table_wise", (0,)),
        "g.t3": ("table_wise", (1,)),
        "g.t1": ("table_wise", (1,)),
    }
    assert plan.rank_bytes() == [800, 800]
    assert "g.t0   row_wise    0-1    1_000    62%" in str(plan)


def test_one_rank_holds_everything_whole():
    plan = place(tables(100, 10), [1000, 100], world_size=1)
    assert {item.kind for item in plan.placements} == {"table_wise"}


def test_too_few_rows_for_row_wise():
    with pytest.raises(ShardingError, match="has 2 rows, fewer than the 3 ranks"):
        place(tables(2), [8], world_size=3, config=ShardingConfig(placement="row_wise"))


@pytest.mark.parametrize(
    ("requested", "device", "ranks", "expected"),
    [
        ("auto", "cpu", 1, "local"),
        ("auto", "cpu", 2, "torchrec"),
        ("auto", "cuda", 1, "torchrec"),
        ("local", "cuda", 1, "local"),
        ("torchrec", "cpu", 1, "torchrec"),
    ],
)
def test_auto_rule(monkeypatch, requested, device, ranks, expected):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert resolve_backend(requested, device, ranks) == expected


def test_backend_errors(monkeypatch):
    with pytest.raises(ShardingError, match="holds tables in one process, got 2 ranks"):
        resolve_backend("local", "cpu", 2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ShardingError, match=r"pip install ./packaging/fbgemm-gpu torchrec==1\.8\.0"
    ):
        resolve_backend("auto", "cuda", 1)
    with pytest.raises(ShardingError, match="needs torchrec"):
        torchrec_module()


def rules(**by_table) -> ShardingConfig:
    return ShardingConfig.model_validate({"tables": by_table})


def test_rules_come_first_and_the_rest_fills_up():
    found = tables(100, 10, 30, 20)
    config = rules(t0={"kind": "table_wise", "ranks": [1]}, **{"g.t1": {"kind": "data_parallel"}})
    plan = place(found, [1000, 100, 300, 200], 2, config)
    kinds = {item.table: (item.kind, item.ranks) for item in plan.placements}
    assert kinds == {
        "g.t0": ("table_wise", (1,)),
        "g.t1": ("data_parallel", (0, 1)),
        "g.t2": ("table_wise", (0,)),
        "g.t3": ("table_wise", (0,)),
    }
    assert plan.rank_bytes() == [100 + 300 + 200, 100 + 1000]


def test_a_rule_for_a_logical_table_holds_for_all_it_is_made_of():
    one = spec("t", 40, 4, ("a",), "sum")
    parts = [
        PhysicalTable("g", one.model_copy(update={"name": name}))
        for name in ("t@means", "t@rest", "u")
    ]
    config = rules(t={"kind": "row_wise"}, **{"t@rest": {"kind": "table_wise", "ranks": [1]}})
    plan = place(parts, [10, 10, 1000], 2, config)
    assert [item.kind for item in plan.placements] == ["row_wise", "table_wise", "row_wise"]


@pytest.mark.parametrize(
    ("rule", "match"),
    [
        ({"nobody": {"kind": "row_wise"}}, r"no table `nobody`"),
        ({"t0": {"kind": "grid_shard"}}, r"CPU ranks know data_parallel, table_wise"),
        ({"t0": {"kind": "row_wise", "ranks": [0]}}, r"spread over all ranks, got ranks=\[0\]"),
        ({"t0": {"kind": "table_wise", "ranks": [0, 1]}}, r"wants one rank, got \[0, 1\]"),
        ({"t0": {"kind": "table_wise", "ranks": [2]}}, r"different ranks of 0 to 1, got \[2\]"),
        ({"t0": {"kind": "column_wise", "ranks": [0, 0]}}, r"different ranks of 0 to 1"),
        ({"t0": {"kind": "column_wise"}}, r"width 4 cannot be cut into 2 parts of a multiple of 4"),
        ({"t1": {"kind": "row_wise"}}, r"`g.t1` has 1 rows, fewer than the 2 ranks"),
    ],
)
def test_rules_that_cannot_be_kept(rule, match):
    with pytest.raises(ShardingError, match=match):
        place(tables(100, 1), [1000, 10], 2, rules(**rule))


def test_memory_decides_where_bytes_alone_would_not():
    found = tables(100, 100, 100)
    plan = place(found, [300, 290, 280], 2, rank_memory=[1000, 1000])
    assert plan.rank_bytes() == [300 // 2 + 290 // 2 + 280 // 2] * 2
    lopsided = place(tables(*[100] * 6), [100] * 6, 2, rank_memory=[500, 100])
    assert lopsided.rank_bytes() == [500, 100]


def test_what_fits_no_rank_whole_is_cut():
    plan = place(tables(*[100] * 5), [100] * 5, 2, rank_memory=[250, 250])
    assert plan.rank_bytes() == [250, 250]
    assert [item.kind for item in plan.placements] == ["table_wise"] * 4 + ["row_wise"]


def test_everything_is_cut_before_giving_up():
    found = tables(*[100] * 8)  # whole ones leave no room for the halves of the first
    config = rules(t7={"kind": "table_wise", "ranks": [0]})
    plan = place(found, [100] * 8, 2, config, rank_memory=[460, 360])
    assert plan.rank_bytes() == [450, 350]


def test_what_does_not_fit_says_what_would():
    found, sizes = tables(1000, 200, 10), [20_000, 4_000, 200]
    with pytest.raises(ShardingError) as caught:
        place(found, sizes, 2, None, [6_000, 6_000], {"kind=rowwise_adagrad": 11_000})
    text = str(caught.value)
    assert "they take 24,200 bytes, and 2 ranks have 12,000 for them" in text
    assert "would hold 12,100 bytes and has 6,000: 6,100 are missing" in text
    assert "`g.t0` 20,000 (row_wise), `g.t1` 4,000 (row_wise)" in text
    assert "embedding.kind=rowwise_adagrad: 11,000 bytes" in text
    ratio = float(re.search(r"ratio: ([\d.]+)", text)[1])
    assert 0.3 < ratio < 12_000 / 24_200
    place(found, [int(ratio * size) for size in sizes], 2, None, [6_000, 6_000])
    ranks = int(re.search(r"(\d+) ranks of this size", text)[1])
    assert ranks == 5
    place(found, sizes, ranks, None, [6_000] * ranks)


def test_free_memory_is_what_the_kernel_or_the_container_leaves(tmp_path):
    assert free_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    5000 kB\n")
    assert free_memory(tmp_path) == 5000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000000\n")
    assert free_memory(tmp_path) == 5000 * 1024
    (group / "memory.max").write_text("3000000\n")
    (group / "memory.stat").write_text("anon 5\ninactive_file 500000\n")
    assert free_memory(tmp_path) == 2_500_000
