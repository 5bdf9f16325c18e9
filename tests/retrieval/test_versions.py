import numpy as np
import pytest

from recsys.errors import DataError
from recsys.retrieval.index import Index
from recsys.retrieval.versions import VersionedIndex


def test_every_query_goes_to_its_version_and_keeps_its_place():
    random = np.random.default_rng(0)
    old = Index(random.normal(size=(30, 3)), range(30), version="v1")
    new = Index(random.normal(size=(20, 5)), range(20), version="v2", prior=range(20))
    both = VersionedIndex([old, new])
    versions = ["v2", "v1", "v2", "v1", "v2"]
    asked = [random.normal(size=5 if v == "v2" else 3) for v in versions]
    asked[4] = np.zeros(5)
    found = both.search_each(asked, 4, versions=versions, exclude=[3, 4])
    for hits, query, version in zip(found, asked, versions):
        alone = (new if version == "v2" else old).search(query, 4, exclude=[3, 4])[0]
        assert hits.ids.tolist() == alone.ids.tolist() and hits.plan == alone.plan
        assert hits.scores.tolist() == alone.scores.tolist() and hits.fallback == alone.fallback
    assert found.fallback.tolist() == [False] * 4 + [True]


def test_versions_come_and_go():
    both = VersionedIndex([Index(np.eye(2), [1, 2], version="v1")])
    both.put(Index(2 * np.eye(2), [1, 2], version="v2"))
    both.put(Index(3 * np.eye(2), [1, 2], version="v2"))
    assert both.versions == ("v1", "v2")
    assert both.search([1, 0], 1, version="v2").scores.tolist() == [3.0]
    both.retire("v1")
    with pytest.raises(DataError, match="no index of model version 'v1'"):
        both.search([1, 0], 1, version="v1")
    with pytest.raises(DataError, match="no index of model version"):
        both.retire("v1")
    with pytest.raises(DataError, match="needs one"):
        both.put(Index(np.eye(2), [1, 2]))
    with pytest.raises(DataError, match="expected a version for each of 2"):
        both.search_each([[1, 0], [1, 0]], 1, versions=["v2"])
    twice = Index(np.eye(2), [1, 2], version="v1")
    with pytest.raises(DataError, match="two indexes"):
        VersionedIndex([twice, twice])
