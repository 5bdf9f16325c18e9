import numpy as np
import pytest

from recsys.errors import DataError
from recsys.retrieval.index import Index
from recsys.retrieval.results import Hits, SearchResult


def test_lists_keep_their_lengths_in_every_form():
    found = Index(np.diag([1.0, 2, 3]), list("abc")).search(
        np.ones((3, 3)), 2, where=[None, ["a"], []]
    )
    assert [hits.ids.tolist() for hits in found] == [["c", "b"], ["a"], []]
    assert found[-1].plan == "empty" and found[1].scores.tolist() == [1.0]
    table = found.to_arrow()
    assert table["id"].to_pylist() == [["c", "b"], ["a"], []]
    assert table["score"].to_pylist() == [[3.0, 2.0], [1.0], []]
    assert table["plan"].to_pylist() == ["exact", "subset", "empty"]
    with pytest.raises(IndexError):
        found[3]


def test_lists_found_one_by_one_are_put_together():
    some = Hits(np.array(["a", "b"], object), np.array([2, 1], np.float32), None, "exact", False)
    none = Hits(np.zeros(0, np.int64), np.zeros(0, np.float32), None, "empty", False)
    sure = some._replace(probabilities=np.array([0.5, 0.25], np.float32), plan="masked")
    found = SearchResult.of([some, none, sure])
    assert [hits.ids.tolist() for hits in found] == [["a", "b"], [], ["a", "b"]]
    assert found.plans == ("exact", "empty", "masked") and found.scores.tolist() == [2, 1, 2, 1]
    assert np.isnan(found.probabilities[:2]).all() and found[2].probabilities.tolist() == [
        0.5,
        0.25,
    ]
    assert len(SearchResult.of([])) == 0
    with pytest.raises(DataError, match="of some lists are integers"):
        SearchResult.of([some, some._replace(ids=np.array([1, 2]))])
