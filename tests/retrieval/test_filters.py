import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from recsys.errors import DataError
from recsys.retrieval.filters import AllOf, Allowed, Items, allowed_rows, hidden_rows

META = pa.table({"price": [1, 5, None, 2, 9]})


def items(alive=None):
    ids = np.array([10, 11, 12, 13, 14])
    live = [True] * 5 if alive is None else alive
    places = {int(i): row for row, i in enumerate(ids) if live[row]}
    return Items(ids, places, None if alive is None else torch.tensor(alive), META)


def rows(where, num_queries=1, alive=None, unknown="error"):
    return [a.rows().tolist() for a in allowed_rows(where, num_queries, items(alive), unknown)]


def test_rows_of_deleted_items_are_in_no_filter():
    alive = [True, False, True, True, False]
    assert rows(None, alive=alive) == [[0, 2, 3]]
    assert rows(pc.field("price") >= 2, alive=alive) == [[3]]
    assert rows([10, 13], alive=alive) == [[0, 3]]
    assert rows(np.array([True, False, True]), alive=alive) == [[0, 3]]  # a mask over live items
    with pytest.raises(DataError, match="the first is 11"):
        rows([11], alive=alive)
    assert rows([11, 10], alive=alive, unknown="ignore") == [[0]]


def test_a_missing_value_passes_no_expression():
    assert rows(pc.field("price") < 100) == [[0, 1, 3, 4]]
    assert rows(pc.field("price").is_null()) == [[2]]


def test_equal_forms_of_an_allowed_set():
    mask = torch.tensor([True, False, True])
    one, two = Allowed(3, mask=mask), Allowed(3, rows=torch.tensor([0, 2]))
    assert one.count == two.count == 2 and not one.everything
    assert one.rows().tolist() == two.rows().tolist()
    assert one.mask().tolist() == two.mask().tolist() == mask.tolist()
    assert Allowed(3).everything and Allowed(3).rows().tolist() == [0, 1, 2]


def test_all_of_several_filters_must_hold():
    cheap, mask = pc.field("price") < 6, np.array([False, True, True, True, True])
    assert rows(AllOf(cheap, [10, 11, 14])) == [[0, 1]]
    assert rows(AllOf([10, 11, 14], mask, cheap)) == [[1]]
    assert rows(AllOf(AllOf(cheap), None)) == [[0, 1, 3]] and rows(AllOf()) == [[0, 1, 2, 3, 4]]
    assert rows([AllOf(cheap, []), None], 2) == [[], [0, 1, 2, 3, 4]]
    alive = [True, False, True, True, False]
    assert rows(AllOf(cheap, [10, 13]), alive=alive) == [[0, 3]] and rows(AllOf(), alive=alive) == [
        [0, 2, 3]
    ]
    assert rows(AllOf(cheap, [10, 99]), unknown="ignore") == [[0]]
    with pytest.raises(DataError, match="the first is 99"):
        rows(AllOf(cheap, [10, 99]))


def test_queries_with_one_filter_share_it():
    shared = pc.field("price") < 3
    found = allowed_rows([shared, None, shared, None], 4, items(), "error")
    assert found[0] is found[2] and found[1] is found[3] and found[0] is not found[1]


def test_hidden_rows_know_their_queries():
    found = hidden_rows([[13, 10, 10], [], None, [99, 14]], 4, items())
    assert list(zip(found.queries.tolist(), found.rows.tolist())) == [(0, 0), (0, 3), (3, 4)]
    every = hidden_rows({12}, 2, items())
    assert sorted(zip(every.queries.tolist(), every.rows.tolist())) == [(0, 2), (1, 2)]
    assert hidden_rows(None, 2, items()) is None
