import numpy as np
import pytest

from recsys.errors import CheckpointError, DataError
from recsys.retrieval.index import Index
from recsys.retrieval.scalar_codes import ScalarCodes
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


def two(tmp_path):
    random = np.random.default_rng(0)
    old = Index(random.normal(size=(30, 3)), range(30), version="v1")
    new = Index(random.normal(size=(40, 5)), range(40), version="v2", codes=ScalarCodes(8))
    both = VersionedIndex([old, new])
    return both, both.save(tmp_path / "both")


def test_a_loaded_one_answers_each_version_from_its_index(tmp_path):
    both, folder = two(tmp_path)
    again = VersionedIndex.load(folder)
    assert again.versions == ("v1", "v2")
    for version, width in (("v1", 3), ("v2", 5)):
        query = np.arange(1.0, width + 1)
        wanted, found = (one.search(query, 6, version=version) for one in (both, again))
        assert found.ids.tolist() == wanted.ids.tolist() and found.plans == wanted.plans
        assert found.scores.tobytes() == wanted.scores.tobytes()
    again.retire("v1")
    assert VersionedIndex.load(again.save(folder)).versions == ("v2",)
    assert [path.name for path in tmp_path.iterdir()] == ["both"]
    again.retire("v2")
    with pytest.raises(DataError, match="at least one version, got none"):
        again.save(folder)
    assert VersionedIndex.load(folder).versions == ("v2",)


def test_a_save_that_fails_leaves_the_old_folder(tmp_path, monkeypatch):
    both, folder = two(tmp_path)

    def fail(self, directory):
        raise OSError("disk full")

    both.put(Index(np.eye(2), [1, 2], version="v3"))
    monkeypatch.setattr(Index, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        both.save(folder)
    assert VersionedIndex.load(folder).versions == ("v1", "v2")
    assert [path.name for path in tmp_path.iterdir()] == ["both"]


def test_damaged_and_exchanged_indexes_are_refused(tmp_path):
    _, folder = two(tmp_path)
    (folder / "0").rename(folder / "2")
    with pytest.raises(CheckpointError, match=r"0/index\.json is missing"):
        VersionedIndex.load(folder)
    (folder / "1").rename(folder / "0")
    (folder / "2").rename(folder / "1")
    with pytest.raises(CheckpointError, match="is damaged"):
        VersionedIndex.load(folder)
    with pytest.raises(CheckpointError, match=r"has no versions\.json\. Give a folder that Vers"):
        VersionedIndex.load(tmp_path)
    with pytest.raises(CheckpointError, match="holds other files and is not overwritten"):
        Index(np.eye(2), [1, 2]).save(folder)
