import numpy as np
import pytest

from recsys.retrieval.index import Index


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
