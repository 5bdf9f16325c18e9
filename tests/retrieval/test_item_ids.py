import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys.errors import DataError
from recsys.retrieval.item_ids import as_ids, check_distinct, same_kind


@pytest.mark.parametrize("form", [list, tuple, np.array, torch.tensor, pa.array, pa.chunked_array])
def test_integers_of_every_form(form):
    given = form([[3, 1]]) if form is pa.chunked_array else form([3, 1])
    assert as_ids(given).tolist() == [3, 1] and as_ids(given).dtype == np.int64


@pytest.mark.parametrize("form", [list, np.array, pa.array])
def test_strings_of_every_form(form):
    ids = as_ids(form(["b", "a"]))
    assert ids.tolist() == ["b", "a"] and ids.dtype == object


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("abc", "must be a list"),
        (7, "must be a list"),
        ([1, "a"], "integer, string"),
        ([1, None], "NoneType"),
        ([True], "bool"),
        ([1.5], "float"),
        ([2**70], "64 bits"),
        (np.zeros((2, 2)), "list"),
    ],
)
def test_other_ids_are_refused(given, text):
    with pytest.raises(DataError, match=text):
        as_ids(given)


def test_kinds_and_repeats():
    with pytest.raises(DataError, match="7 comes again in row 3"):
        check_distinct(as_ids([7, 8, 7]))
    with pytest.raises(DataError, match="must be integers like the ids"):
        same_kind(as_ids([1]), as_ids(["1"]), "where")
    same_kind(as_ids([1]), as_ids([]), "where")
