"""Own rows for some ids: what every table gets of a budget."""

from __future__ import annotations

import pytest
import torch

from recsys.embeddings.compression.adapt_emb import AdaptEmb
from recsys.embeddings.compression.budget import full_bytes, planned_bytes
from recsys.embeddings.compression.cafe import CAFE
from recsys.embeddings.compression.hot_rows import HotRows, level
from recsys.embeddings.scheme import Full
from tests.embeddings.compression import hashed
from tests.embeddings.compression.toy import table

TABLES = [table("big", 300_000), table("middle", 2_000), table("tiny", 12)]


def test_level_gives_all_away_to_those_who_can_use_it():
    assert level({"a": 3, "b": 100, "c": 10}, 43) == {"a": 3, "b": 30, "c": 10}
    assert level({"a": 3, "b": 4}, 100) == {"a": 3, "b": 4}
    assert level({"a": 3, "b": 4}, 0) == {"a": 0, "b": 0}


@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.01, 1e-3])
@pytest.mark.parametrize("scheme", [AdaptEmb(multiplex=True), CAFE(multiplex=True)])
def test_multiplexed_plan(scheme, ratio):
    budget = int(ratio * full_bytes(TABLES))
    plan = scheme.plan(TABLES, budget)
    assert 0.98 * budget < planned_bytes(TABLES, plan) <= budget
    assert plan["tiny"] == Full()
    held = {name: found for name, found in plan.items() if isinstance(found, HotRows)}
    sizes = [found.sizes() for found in held.values()]
    # One after the other, as many each, then the shared ones.
    own = [hot for hot, *_ in sizes]
    assert max(own) - min(own) <= 1
    assert [start for _, _, start, _ in sizes] == [sum(own[:i]) for i in range(len(own))]
    assert {before for *_, before in sizes} == {sum(own)}
    if ratio <= 0.01:
        assert set(held) == {"big", "middle"}


def test_where_multiplexed_indices_go():
    plan = AdaptEmb(hot_rows=3, num_buckets=5, multiplex=True).plan(TABLES[:2], None)
    for start, spec in zip((0, 3), TABLES):
        encoder = plan[spec.name].part(spec).encoder
        encoder.initialize()
        (rows,) = encoder(torch.arange(10))
        shared = [6 + hashed.row(index, spec.name, 5) for index in range(4, 10)]
        assert rows.tolist() == [0, start + 1, start + 2, start + 3, *shared]


def test_everything_in_full_where_it_fits():
    for scheme in (AdaptEmb(), CAFE(), AdaptEmb(multiplex=True)):
        plan = scheme.plan(TABLES, full_bytes(TABLES))
        assert all(found == Full() for found in plan.values())
