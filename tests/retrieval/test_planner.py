import numpy as np
import pytest
import torch

from recsys.errors import DataError
from recsys.retrieval.filters import Allowed
from recsys.retrieval.planner import groups, plan_queries
from recsys.retrieval.rows import Rows
from recsys.retrieval.state import State


def state(num_rows, prior=None):
    ids = np.arange(num_rows)
    return State(Rows(torch.zeros(num_rows, 4)), ids, None, None, prior, {})


def some(count, num_rows):
    return Allowed(num_rows, rows=torch.arange(count))


def test_few_rows_are_copied_and_many_masked():
    num_rows = 1 << 20
    allowed = [
        Allowed(num_rows),
        some(0, num_rows),
        some(num_rows // 8, num_rows),
        some(num_rows // 8 + 1, num_rows),
    ]
    queries = torch.ones(4, 4)
    plain = plan_queries(queries, allowed, state(num_rows), False, 100)
    assert plain == ["exact", "empty", "subset", "masked"]
    coded = plan_queries(queries, allowed, state(num_rows), True, 100)
    assert coded == ["codes", "empty", "subset", "codes masked"]
    wide = plan_queries(torch.ones(1, 4096), [allowed[2]], state(num_rows), True, 100)
    assert wide == ["codes masked"]  # too much to read from a disk
    few = plan_queries(torch.ones(1, 4096), [some(90, 200)], state(200), True, 100)
    assert few == ["subset"]  # no more than the candidates


def test_a_query_of_zeros_needs_a_prior():
    queries = torch.tensor([[0.0, 1], [0, 0]])
    allowed = [Allowed(5), Allowed(5)]
    assert plan_queries(queries, allowed, state(5, torch.ones(5)), True, 9) == ["codes", "prior"]
    with pytest.raises(DataError, match="query 2 of 2 is all zeros"):
        plan_queries(queries, allowed, state(5), True, 9)


def test_subsets_are_grouped_by_filter_and_others_by_plan():
    one, two = some(2, 9), some(3, 9)
    plans = ["subset", "exact", "subset", "masked", "subset", "empty", "masked"]
    found = groups(plans, [one, one, two, one, one, one, two])
    assert [(plan, queries.tolist()) for plan, queries in found] == [
        ("subset", [0, 4]), ("exact", [1]), ("subset", [2]), ("masked", [3, 6]),
    ]  # fmt: skip
