"""A ranker behind an index of two versions: candidates of the model that made the query."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys.errors import ConfigError
from recsys.retrieval.index import Index
from recsys.retrieval.set_index import SetIndex
from recsys.retrieval.versions import VersionedIndex
from recsys.serving.predictor import Predictor
from recsys.serving.service import Service
from recsys.serving.service_folder import save_service
from recsys.serving.two_stage import TwoStage, VersionedStages
from recsys.serving.vectors import Vectors

META = pa.table({"hour": [12, 7, 12, 7], "age": [40.0, 30.0, 20.0, 60.0]})
ROW = {"user_id": "ann", "tags": ""}


def indexes() -> list[Index]:
    old = Index([[1, 0], [2, 0], [0, 3], [0, 1]], list("abcd"), META, version="v1")
    new = Index([[0, 9, 0], [0, 8, 0], [7, 0, 0]], list("bdc"), META.take([1, 3, 2]), version="v2")
    return [old, new]


def users(version: str | None, width: int) -> Vectors:
    values = np.eye(2, width, dtype=np.float32)
    return Vectors(np.array(["ann", "bob"], object), values, version=version)


def test_each_version_has_its_candidates(tmp_path: Path, artefact: Path) -> None:
    several = VersionedIndex(indexes()).save(tmp_path / "index")
    queries = [users("v2", 3), users("v1", 2)]
    save_service(tmp_path / "served", artefact, index=several, queries=queries)
    alone = [TwoStage(Predictor.load(artefact), index) for index in indexes()]
    with Service() as service:
        service.load(tmp_path / "served")

        def ask(**more) -> list:
            body = {"row": ROW, "k": 2, "candidates": 2, **more}
            answer = service.answer("rank", json.dumps(body).encode())
            assert answer.status == 200, answer
            (found,) = json.loads(answer.body)["lists"]
            return [found["items"], found["scores"]]

        def expected(number: int, query: list[float]) -> list:
            (found,) = alone[number].rank([query], [ROW], k=2, candidates=2)
            return [found.ids.tolist(), found.probabilities.tolist()]

        assert sorted(expected(0, [1, 0])[0]) == ["a", "b"]
        assert sorted(expected(1, [0, 1, 0])[0]) == ["b", "d"]
        assert (
            ask(query=[1, 0], version="v1") == ask(user="ann", version="v1") == expected(0, [1, 0])
        )
        assert ask(query=[0, 1, 0], version="v2") == expected(1, [0, 1, 0])
        assert ask(user="bob", version="v2") == expected(1, [0, 1, 0])
        assert ask(items=["c", "b"])[0] == ask(items=["c", "b"], version="v1")[0] == ["b", "c"]
        for wrong, text in (({"query": [1, 0]}, "got none. Known: v1, v2"),
                            ({"query": [1, 0], "version": "v3"}, "got 'v3'"),
                            ({"query": [1, 0], "version": "v2"}, "3 values"),
                            ({"items": ["a"], "version": "v2"}, "'a'"),
                            ({"items": ["a"]}, "'a'")):  # fmt: skip
            answer = service.answer("rank", json.dumps({"row": ROW, "k": 1, **wrong}).encode())
            assert answer.status == 422 and text in answer.body.decode(), answer


def test_one_version_refuses_another(tmp_path: Path, artefact: Path) -> None:
    indexes()[0].save(tmp_path / "index")
    save_service(tmp_path / "served", artefact, index=tmp_path / "index", queries=users("v1", 2))
    with Service() as service:
        service.load(tmp_path / "served")
        for version, status in (("v1", 200), ("v2", 422)):
            body = {"row": ROW, "items": ["a"], "version": version}
            assert service.answer("rank", json.dumps(body).encode()).status == status


def test_vectors_that_fit_no_version(tmp_path: Path, artefact: Path) -> None:
    ranker, both = Predictor.load(artefact), VersionedIndex(indexes())
    stages = VersionedStages(ranker, both, queries=[users("v2", 3)])
    assert stages.of("v1").queries is None and stages.of("v2").queries is not None
    assert stages.newest is stages.of("v2")
    for wrong in ([users("v3", 3)], [users(None, 2)], [users("v1", 2), users("v1", 2)]):
        with pytest.raises(ConfigError, match=r"different versions of the index \(v1, v2\)"):
            VersionedStages(ranker, both, queries=wrong)
    with pytest.raises(ConfigError, match="have 3 values, those of the items 2"):
        VersionedStages(ranker, both, queries=[users("v1", 3)])
    indexes()[0].save(tmp_path / "index")
    with pytest.raises(ConfigError, match="of one version beside an index of one, got 2"):
        save_service(tmp_path / "none", artefact, index=tmp_path / "index",
                     queries=[users("v1", 2), users("v1", 2)])  # fmt: skip
    SetIndex([np.eye(2)], ["a"]).save(tmp_path / "sets")
    with pytest.raises(ConfigError, match="beside a ranker, got a SetIndex"):
        save_service(tmp_path / "none", artefact, index=tmp_path / "sets")
    assert not (tmp_path / "none").exists()
