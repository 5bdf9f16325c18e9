"""The CPU placer and the choice of backend."""

from __future__ import annotations

import importlib.util

import pytest

from recsys.embeddings.backend import resolve_backend, torchrec_module
from recsys.embeddings.sharding import place
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
        place(tables(2), [8], world_size=3, force="row_wise")


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
