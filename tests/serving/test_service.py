"""Requests to a service give what one computes by hand; bad ones are told, and change nothing."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.errors import CheckpointError, ConfigError, DataError
from recsys.retrieval.adapter import CosineAdapter
from recsys.retrieval.index import Index
from recsys.retrieval.set_index import SetIndex
from recsys.retrieval.versions import VersionedIndex
from recsys.serving.artefact import save_artefact
from recsys.serving.batcher import Batcher, Overloaded
from recsys.serving.limits import ServingLimits
from recsys.serving.metrics import Metrics
from recsys.serving.predictor import Predictor
from recsys.serving.requests import PredictRequest
from recsys.serving.service import Busy, Service
from recsys.serving.service_folder import fingerprint_of, inside, load_parts, save_service
from recsys.serving.two_stage import TwoStage
from recsys.serving.vectors import Vectors
from recsys.serving.watcher import Watcher
from tests.serving.conftest import LOGITS, toy_encoder, toy_model


@pytest.fixture
def index() -> Index:
    """Hour of day and age are the item's; so is its id, which the ranker does not read."""
    meta = pa.table({"hour": [12, 7, 12, 7], "age": [40.0, 30.0, 20.0, 60.0]})
    return Index([[1, 0], [2, 0], [0, 3], [0, 1]], ["a", "b", "c", "d"], meta)


@pytest.fixture
def folder(tmp_path: Path, artefact: Path, index: Index) -> Path:
    index.save(tmp_path / "index")
    users = Vectors(np.array(["ann", "bob"], object), np.array([[1, 0.5], [0, 1]], np.float32))
    return save_service(tmp_path / "served", artefact, index=tmp_path / "index", queries=users)


@pytest.fixture
def service(folder: Path):
    with Service(limits=ServingLimits(max_rows=5, max_k=12, max_candidates=600)) as service:
        service.load(folder)
        yield service


def asked(service: Service, name: str, **request) -> dict:
    answer = service.answer(name, json.dumps(request).encode())
    assert answer.status == 200, answer
    return json.loads(answer.body)


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


# --------------------------------------------------------------------------------------- answers


def test_predictions_by_hand(service: Service, rows: list[dict], expected) -> None:
    found = asked(service, "predict", rows=rows)
    assert found["tasks"] == ["click"]
    np.testing.assert_allclose(found["predictions"], expected, rtol=1e-6)
    assert found["artefact"] == service.artefact and service.artefact.startswith("served@")
    assert service.operations == ("predict", "search", "rank")


def test_search_with_conditions(service: Service) -> None:
    found = asked(service, "search", queries=[[1, 0.5]], k=4, where={"age": {"lt": 50, "gt": 20}})
    assert found["lists"] == [{"items": ["b", "a"], "scores": [2.0, 1.0], "by_popularity": False}]
    found = asked(service, "search", queries=[[1, 0.5]], k=4, where={"hour": {"in": [12]}})
    assert found["lists"][0]["items"] == ["c", "a"]
    found = asked(service, "search", queries=[[1, 0.5], [0, 1]], k=1, exclude=["c"])
    assert [one["items"] for one in found["lists"]] == [["b"], ["d"]]


def test_conditions_and_ids_must_both_hold(service: Service) -> None:
    """Scores are a 1, b 2, c 1.5, d 0.5; hours 12, 7, 12, 7."""
    ask = {"queries": [[1, 0.5]], "k": 4}
    both = {**ask, "where": {"hour": {"eq": 12}}, "only": ["a", "b", "d"]}
    assert asked(service, "search", **both)["lists"][0]["items"] == ["a"]
    assert asked(service, "search", **both, exclude=["a"])["lists"][0]["items"] == []
    strange = {**both, "only": ["c", "a", "new"]}
    answer = service.answer("search", json.dumps(strange).encode())
    told = json.loads(answer.body)["error"]
    assert answer.status == 422 and "the first is 'new'" in told and 'unknown="ignore"' in told
    found = asked(service, "search", **strange, unknown="ignore")
    assert found["lists"][0]["items"] == ["c", "a"]
    row = {"user_id": "ann", "tags": "x"}
    ranked = {"user": "ann", "row": row, "k": 4, "where": both["where"], "only": ["a", "b", "new"]}
    found = asked(service, "rank", **ranked, unknown="ignore")
    assert found["lists"][0]["items"] == ["a"]


def test_cutoff_and_what_is_kept_below_it(tmp_path: Path, artefact: Path, index: Index) -> None:
    """A query of two values with the chances of the index itself, in search and in rank."""
    adapter, random = CosineAdapter(hidden=4), np.random.default_rng(0)
    queries, which = random.normal(size=(40, 2)), np.repeat(np.arange(40), 5)
    scores = random.normal(size=200)
    adapter.fit(queries, which, scores, scores + random.normal(size=200) > 0, epochs=3)
    index.adapter = adapter
    query = [1.0, 0.5]
    whole = index.search(query, 4)[0]
    assert whole.probabilities is not None
    cut = float(np.sort(whole.probabilities)[1:3].mean())  # two of four are above
    kept = [item for item, p in zip(whole.ids.tolist(), whole.probabilities) if p >= cut]
    assert len(kept) == 2
    saved = index.save(tmp_path / "index")
    with Service() as service:
        service.load(save_service(tmp_path / "served", artefact, index=saved))
        ask = {"queries": [query], "k": 4, "cutoff": cut}
        assert asked(service, "search", **ask)["lists"][0]["items"] == kept
        for least, wanted in ((3, 3), (4, 4), (9, 4)):
            found = asked(service, "search", **ask, min_results=least)["lists"][0]["items"]
            assert found == whole.ids[:wanted].tolist()
        row = {"user_id": "ann", "tags": "x"}
        ranked = {"query": query, "row": row, "k": 4, "candidates": 4}
        found = asked(service, "rank", **ranked, cutoff=cut)["lists"][0]["items"]
        assert sorted(found) == sorted(kept)
        assert asked(service, "rank", **ranked, cutoff=1.0)["lists"][0]["items"] == []
        found = asked(service, "rank", **ranked, cutoff=1.0, min_results=1)["lists"][0]
        assert found["items"] == whole.ids[:1].tolist()


def test_a_query_is_answered_by_the_index_of_its_version(tmp_path: Path) -> None:
    """While users move from v1 to v2 both are served; then v1 is retired under the same name."""
    old = Index([[1, 0], [0, 1]], ["a", "b"], pa.table({"x": [1, 2]}), version="v1")
    new = Index([[0, 1, 0], [1, 0, 0]], ["a", "b"], pa.table({"y": [1, 2]}), version="v2")
    folder = VersionedIndex([old]).save(tmp_path / "items")
    with Service() as service, Watcher(service, 1e9) as watcher:
        service.load(folder)
        v1, v2 = {"queries": [[5, 1]], "version": "v1"}, {"queries": [[5, 1, 0]], "version": "v2"}
        assert service.operations == ("search",)
        assert asked(service, "search", **v1)["lists"][0]["items"] == ["a", "b"]
        assert (
            b"no index of model version 'v2'"
            in service.answer("search", json.dumps(v2).encode()).body
        )
        VersionedIndex([old, new]).save(folder)
        assert watcher.look()
        assert asked(service, "search", **v1)["lists"][0]["items"] == ["a", "b"]
        assert asked(service, "search", **v2)["lists"][0]["items"] == ["b", "a"]
        found = asked(service, "search", **v1, where={"x": {"gt": 1}})
        assert found["lists"][0]["items"] == ["b"]
        for wrong, told in (
            ({"queries": [[5, 1]]}, "got none. Known: v1, v2."),
            ({**v1, "version": "v3"}, "no index of model version 'v3'"),
            ({**v1, "version": "v2"}, "must have 3 values each"),
            ({**v2, "where": {"x": {"gt": 1}}}, "the index has no column 'x'"),
        ):
            answer = service.answer("search", json.dumps(wrong).encode())
            assert answer.status == 422 and told in json.loads(answer.body)["error"]
        VersionedIndex([new]).save(folder)
        assert watcher.look()
        assert service.answer("search", json.dumps(v1).encode()).status == 422
        assert asked(service, "search", **v2)["lists"][0]["items"] == ["b", "a"]


def test_sets_are_searched_by_sets(tmp_path: Path) -> None:
    sets = [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0]], [[0.0, 2.0]]]
    meta = pa.table({"price": [3, 9, 4]})
    index = SetIndex(sets, ["both", "one", "two"], meta, prior=[1, 3, 2], version="v1")
    with Service(limits=ServingLimits(max_rows=3)) as service:
        service.load(index.save(tmp_path / "sets"))
        assert service.operations == ("search_sets",)
        ask = {"queries": [[[1.0, 0.0], [0.0, 1.0]], []], "k": 2}
        found = asked(service, "search_sets", **ask, version="v1")["lists"]
        assert [one["items"] for one in found] == [["both", "two"], ["one", "two"]]
        assert found[0]["scores"] == [2.0, 2.0] and found[1]["by_popularity"]
        both = {"where": {"price": {"lt": 5}}, "only": ["one", "two", "new"], "unknown": "ignore"}
        found = asked(service, "search_sets", **ask, **both)["lists"]
        assert [one["items"] for one in found] == [["two"], ["two"]]
        for wrong, told in (
            ({"queries": [[[1.0, 0.0, 0.0]]]}, "2 values in every vector"),
            ({"queries": [[[1.0, 0.0], [1.0]]]}, "must be a matrix"),
            ({"queries": [[[1.0, 0.0]] * 4]}, "vectors of queries: expected at most 3, got 4"),
            ({**ask, "candidates": 1}, "at least k = 2"),
            ({**ask, "cutoff": 0.5}, "no adapter"),
            ({**ask, "version": "v2"}, "version 'v2'"),
            ({"queries": [[1.0, 0.0]]}, "valid array"),
        ):
            answer = service.answer("search_sets", json.dumps(wrong).encode())
            assert answer.status == 422 and told in json.loads(answer.body)["error"], answer
        answer = service.answer("search", b'{"queries": [[1, 2]]}')
        assert answer.status == 404 and b"It can: search_sets" in answer.body


def test_retrieved_then_ranked_by_hand(service: Service) -> None:
    """Candidates of ann are b 2, c 1.5, a 1; the ranker orders them by hour and age."""
    row = {"user_id": "ann", "tags": "x"}
    chance = {
        "a": sigmoid(0.05 + 1 + 0.5 + 2 + 0.3),
        "b": sigmoid(0.05 + 1 + 0.25 + 2),
        "c": sigmoid(0.05 + 1 + 0.5 + 2 - 0.3),
    }
    order = sorted(chance, key=lambda item: -chance[item])
    assert order == ["a", "b", "c"]
    found = asked(service, "rank", user="ann", row=row, k=2, candidates=3)
    assert found["lists"][0]["items"] == ["a", "b"]
    np.testing.assert_allclose(found["lists"][0]["scores"], [chance["a"], chance["b"]], rtol=1e-5)
    by_vector = asked(service, "rank", query=[1, 0.5], row=row, k=2, candidates=3)
    assert by_vector == found
    given_items = asked(service, "rank", items=["c", "b"], row=row, k=4)
    assert given_items["lists"][0]["items"] == ["b", "c"]
    none = asked(service, "rank", user="ann", row=row, k=2, candidates=3, only=[])
    assert none["lists"][0] == {"items": [], "scores": [], "by_popularity": False}


def test_two_stages_without_a_service(artefact: Path, index: Index) -> None:
    stages = TwoStage(Predictor.load(artefact), index)
    assert stages.context == ("user_id", "tags")
    rows = [{"user_id": user, "tags": ""} for user in ("ann", "bob")]
    first, second = stages.rank([[1, 0.5], [0, 1]], rows, k=4, candidates=4)
    assert first.ids.tolist() == ["d", "a", "b", "c"] == second.ids.tolist()
    assert first.scores is not None and first.scores.tolist() == [0.5, 1.0, 2.0, 1.5]
    assert (first.probabilities > second.probabilities).all()
    with pytest.raises(ConfigError, match="1 <= k <= candidates"):
        stages.rank([[1, 0.5]], rows[:1], k=5, candidates=4)
    with pytest.raises(DataError, match="the item's") as error:
        stages.rank([[1, 0.5]], [{**rows[0], "hour": 3}], k=1)
    assert error.value.column == "hour" and error.value.row == 1
    with pytest.raises(DataError, match="'a' twice"):
        stages.rank_items(rows[:1], [["a", "a"]])
    with pytest.raises(DataError, match="no vectors of users"):
        stages.vectors_of(["ann"])
    with pytest.raises(ConfigError, match="one score"):
        TwoStage(Predictor.load(artefact), Index(np.eye(2), ["a", "b"]))


def test_the_items_id_can_be_a_column_of_the_ranker(artefact: Path) -> None:
    index = Index(np.eye(2), ["ann", "bob"])
    stages = TwoStage(Predictor.load(artefact), index, id_column="user_id")
    row = {"hour": 12, "tags": "", "age": None}
    best = stages.rank([[0, 1]], [row], k=2, candidates=2)[0]
    assert best.ids.tolist() == ["ann", "bob"]
    expected = [sigmoid(0.05 + 1 + 0.5), sigmoid(0.05 - 1 + 0.5)]
    np.testing.assert_allclose(best.probabilities, expected, rtol=1e-6)


# ------------------------------------------------------------------------------------ bad requests


@pytest.mark.parametrize(
    ("name", "body", "status", "text"),
    [
        ("predict", b"", 400, "not JSON"),
        ("predict", b"\xff{", 400, "not JSON"),
        ("predict", b"[" * 100_000, 400, "not JSON"),
        ("predict", b'{"rows": []}', 422, "at least 1 item"),
        ("predict", b'{"rows": [{"user_id": "ann"}]}', 422, "columns are missing"),
        ("predict", b'{"rows": [{}, {}, {}, {}, {}, {}]}', 422, "at most 5, got 6"),
        ("predict", b'{"rows": [1]}', 422, "rows.0"),
        ("predict", b'{"row": [{}]}', 422, "Extra inputs"),
        ("search", b'{"queries": [[NaN, 1]]}', 422, "finite"),
        ("search", b'{"queries": [[1e999, 1]]}', 422, "finite"),
        ("search", b'{"queries": [[1, 2, 3]]}', 422, "must have 2 values"),
        ("search", b'{"queries": [[1, 2], [1]]}', 422, "several lengths"),
        ("search", b'{"queries": [[]]}', 422, "queries"),
        ("search", b'{"queries": [[0, 0]]}', 422, "zero"),
        ("search", b'{"queries": [[1, 2]], "k": 0}', 422, "greater than or equal to 1"),
        ("search", b'{"queries": [[1, 2]], "k": 13}', 422, "k: expected at most 12, got 13"),
        ("search", b'{"queries": [[1, 2]], "k": "2"}', 422, "valid integer"),
        ("search", b'{"queries": [[1, 2]], "exclude": [1]}', 422, "exclude"),
        ("search", b'{"queries": [[1, 2]], "exclude": [1, "a"]}', 422, "all integers or all"),
        ("search", b'{"queries": [[1, 2]], "only": ["nobody"]}', 422, "does not have"),
        ("search", b'{"queries": [[1, 2]], "version": "v9"}', 422, "v9"),
        ("search", b'{"queries": [[1, 2]], "cutoff": 0.5}', 422, "no adapter"),
        ("search", b'{"queries": [[1, 2]], "where": {}}', 422, "expected conditions"),
        ("search", b'{"queries": [[1, 2]], "where": {"agee": {"lt": 1}}}', 422, "Did you mean"),
        ("search", b'{"queries": [[1, 2]], "where": {"age": {"lt": "x"}}}', 422, "age"),
        ("search", b'{"queries": [[1, 2]], "where": {"age": {"in": 3}}}', 422, "a list"),
        ("search", b'{"queries": [[1, 2]], "where": {"age": {"or": 3}}}', 422, "age.or"),
        ("rank", b'{"row": {}}', 422, "exactly one of"),
        ("rank", b'{"user": "eve", "row": {}}', 422, "'eve' is not known"),
        ("rank", b'{"user": "ann", "row": {}, "k": 1, "candidates": 4}', 422, "user_id"),
        ("rank", b'{"user": "ann", "k": 3, "candidates": 2}', 422, "k <= candidates"),
        ("rank", b'{"user": "ann", "candidates": 900}', 422, "at most 600, got 900"),
        ("rank", b'{"items": ["a"], "exclude": ["b"]}', 422, "no filters"),
        ("rank", b'{"items": ["a"], "cutoff": 0.5}', 422, "no filters"),
        ("rank", b'{"user": "ann", "cutoff": 0.5}', 422, "no adapter"),
        ("search", b'{"queries": [[1, 2]], "unknown": "skip"}', 422, "unknown"),
        ("search", b'{"queries": [[1, 2]], "min_results": -1}', 422, "min_results"),
        ("rank", b'{"items": ["zz"], "row": {"user_id": "ann", "tags": ""}}', 422, "'zz'"),
        ("recommend", b'{"users": [1]}', 404, "cannot recommend"),
        ("similar", b"{}", 404, "It can: predict, search, rank"),
        ("../etc", b"{}", 404, "there is no"),
    ],
)  # fmt: skip
def test_bad_requests_are_told(service: Service, name, body, status, text) -> None:
    answer = service.answer(name, body)
    told = json.loads(answer.body)
    assert answer.status == status, told
    assert text in answer.body.decode().replace('\\"', '"'), told
    assert set(told) == {"error", "problems"}


def test_errors_name_the_place(service: Service, rows: list[dict]) -> None:
    rows[1]["age"] = "old"
    answer = json.loads(service.answer("predict", json.dumps({"rows": rows}).encode()).body)
    assert answer["problems"][0]["where"] == "rows.1.age"
    assert answer["problems"][0]["got"] == "'old'"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = ["rows", "queries", "k", "only", "exclude", "where", "version", "cutoff", "user", "query",
          "items", "row", "candidates", "unknown", "min_results"]  # fmt: skip
CELLS = st.fixed_dictionaries(dict.fromkeys(("user_id", "hour", "tags", "age"), JSON))


@settings(max_examples=150, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    name=st.sampled_from(["predict", "search", "rank"]),
    request=JSON
    | st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4)
    | st.fixed_dictionaries({"rows": st.lists(CELLS, max_size=3)})
    | st.fixed_dictionaries({"user": st.just("ann"), "row": JSON, "k": st.just(1),
                             "candidates": st.just(2)}),
)  # fmt: skip
def test_no_request_makes_it_fail(service: Service, name, request) -> None:
    answer = service.answer(name, json.dumps(request).encode())
    assert answer.status in (200, 400, 422), (name, request, answer)
    json.loads(answer.body)


# -------------------------------------------------------------------------------------- batches


def test_requests_at_once_are_computed_together() -> None:
    gate, sizes = threading.Event(), []

    def run(asks: list[int]) -> list[int]:
        gate.wait(10)
        sizes.append(len(asks))
        if 13 in asks:
            raise DataError("unlucky")
        return [ask * 10 for ask in asks]

    with Batcher(run, max_weight=4, max_waiting=100) as batcher, ThreadPoolExecutor(9) as pool:
        first = pool.submit(batcher.ask, 0)
        while batcher.batches == 0:  # the first is being computed, alone
            pass
        rest = [pool.submit(batcher.ask, ask) for ask in (1, 2, 13, 4, 5, 6)]
        while len(batcher._queue) < 6:
            pass
        gate.set()
        assert first.result() == 0
        for ask, future in zip((1, 2, 13, 4, 5, 6), rest):
            if ask == 13:
                with pytest.raises(DataError, match="unlucky"):
                    future.result()
            else:
                assert future.result() == ask * 10
    assert batcher.batches == 3 and batcher.asked == 7
    assert sorted(sizes) == [1, 1, 1, 1, 1, 2, 4]  # a failed batch of four, and each alone


def test_too_many_and_too_long_are_refused() -> None:
    gate = threading.Event()

    def run(asks: list[int]) -> list[int]:
        gate.wait(10)
        return asks

    with Batcher(run, max_waiting=1) as batcher, ThreadPoolExecutor(2) as pool:
        first = pool.submit(batcher.ask, 1)
        while batcher.batches == 0:
            pass
        second = pool.submit(batcher.ask, 2)
        while len(batcher._queue) < 1:
            pass
        with pytest.raises(Overloaded, match="wait already"):
            batcher.ask(3)
        gate.set()
        assert (first.result(), second.result()) == (1, 2)
        gate.clear()
        with pytest.raises(Overloaded, match=r"within 0\.01 s"):
            batcher.ask(4, timeout=0.01)
        gate.set()
    with pytest.raises(Overloaded, match="shutting down"):
        batcher.ask(5)


def test_answers_do_not_depend_on_company(service: Service) -> None:
    """12.0 is hour 12 alone; beside 7.5 in one column it would be read as text."""
    rows = [{"user_id": "ann", "hour": hour, "tags": "", "age": 30} for hour in (12.0, 7)]
    alone = [asked(service, "predict", rows=[row])["predictions"][0] for row in rows]
    assert alone == pytest.approx([sigmoid(0.05 + 1 + 0.5), sigmoid(0.05 + 1 + 0.25)])
    odd = {**rows[0], "hour": 7.5}
    with ThreadPoolExecutor(8) as pool:
        bodies = [json.dumps({"rows": [row]}).encode() for row in (rows[0], rows[1], odd)]
        found = list(pool.map(lambda n: service.answer("predict", bodies[n % 3]), range(60)))
    for number, answer in enumerate(found):
        if number % 3 < 2:
            assert json.loads(answer.body)["predictions"] == pytest.approx([alone[number % 3]])


# --------------------------------------------------------------------------------------- reload


def changed_model(tmp_path: Path, bias: float) -> Path:
    encoder = toy_encoder()
    model = toy_model(encoder)
    model.bias.data += bias
    return save_artefact(tmp_path / "run" / "model", model, encoder)


def test_reload_under_load_fails_no_request(tmp_path: Path, artefact: Path, rows) -> None:
    body = json.dumps({"rows": rows[:1]}).encode()
    allowed = {round(sigmoid(LOGITS[0] + bias), 5) for bias in (0.0, 1.0, 2.0)}
    with Service() as service, ThreadPoolExecutor(4) as pool, Watcher(service, 1e9) as watcher:
        service.load(tmp_path / "run")
        assert not watcher.look()
        stop = threading.Event()

        def keep_asking() -> list:
            found = []
            while not stop.is_set():
                found.append(service.answer("predict", body))
            return found

        asking = [pool.submit(keep_asking) for _ in range(3)]
        for bias in (1.0, 2.0):
            changed_model(tmp_path, bias)
            assert watcher.look() and not watcher.look()
        last = json.loads(service.answer("predict", body).body)
        stop.set()
        answers = [answer for future in asking for answer in future.result()]
    assert {answer.status for answer in answers} == {200}
    for answer in answers:
        assert round(json.loads(answer.body)["predictions"][0], 5) in allowed
    assert last["predictions"] == pytest.approx([sigmoid(LOGITS[0] + 2)], abs=1e-5)


def test_what_cannot_be_loaded_leaves_what_is_served(tmp_path: Path, artefact: Path, rows) -> None:
    with Service() as service:
        service.load(artefact)
        before = service.artefact
        manifest = artefact / "model.json"
        manifest.write_text(manifest.read_text().replace("seed", "sead"))
        watcher = Watcher(service, 1e9)
        assert service.changed() and not watcher.look() and not watcher.look()
        assert service.metrics.value("recsys_loads_total", result="failed") == 1
        with pytest.raises(CheckpointError, match=r"has no service\.json"):
            service.load(tmp_path)
        with service._loading, pytest.raises(Busy):
            service.load(artefact)
        assert service.artefact == before
        assert service.answer("predict", json.dumps({"rows": rows}).encode()).status == 200


def test_nothing_loaded_is_503(rows: list[dict]) -> None:
    with Service() as service:
        assert service.answer("predict", b"{}").status == 503
        with pytest.raises(Overloaded, match="nothing is loaded"):
            service.ask("predict", PredictRequest(rows=rows))
        assert service.operations == () and service.changed() is None


# --------------------------------------------------------------------------------------- folders


def test_a_folder_is_one_version(folder: Path, tmp_path: Path, artefact: Path) -> None:
    mark = fingerprint_of(folder)
    parts = load_parts(folder)
    assert parts.artefact == f"served@{mark}" and parts.recommender is None
    assert isinstance(parts.two_stage, TwoStage) and parts.two_stage.queries is not None
    assert load_parts(tmp_path / "index").index is not None
    assert load_parts(tmp_path / "run").ranker is not None
    (folder / "index" / "vectors.npy").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        load_parts(folder)
    with pytest.raises(ConfigError, match="nothing to serve"):
        save_service(tmp_path / "none")
    with pytest.raises(ConfigError, match="need a ranker and an index"):
        save_service(tmp_path / "none", artefact, id_column="user_id")
    with pytest.raises(ConfigError, match="id_column"):
        save_service(tmp_path / "none", artefact, index=tmp_path / "index", id_column="item")
    several = VersionedIndex([Index(np.eye(2), [1, 2], version="v1")]).save(tmp_path / "several")
    with pytest.raises(CheckpointError, match=r"has no index\.json"):
        save_service(tmp_path / "none", index=tmp_path / "run")
    alone = load_parts(save_service(tmp_path / "alone", index=several))
    assert isinstance(alone.index, VersionedIndex) and alone.two_stage is None
    assert not (tmp_path / "none").exists()


def test_nothing_is_loaded_from_outside_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path)
    assert inside(root, "a") == root / "a" and inside(root, "./a/../a") == root / "a"
    for name in ("", ".", "..", "../root/../x", "/etc", str(root / "a"), "link", "link/root/../x",
                 "a\0b", "x" * 5000):  # fmt: skip
        with pytest.raises(ConfigError, match="below the root"):
            inside(root, name)


def test_metrics_by_hand(service: Service, rows: list[dict]) -> None:
    asked(service, "predict", rows=rows)
    service.answer("predict", b"{")
    value = service.metrics.value
    assert value("recsys_requests_total", operation="predict", status=200) == 1
    assert value("recsys_requests_total", operation="predict", status=400) == 1
    assert value("recsys_batches_total", operation="predict") == 1
    metrics = Metrics()
    for seconds in (0.001, 0.002, 0.3, 99.0):
        metrics.time("t_seconds", "Times.", seconds, kind='a"b')
    lines = metrics.text().splitlines()
    assert 't_seconds_bucket{kind="a\\"b",le="0.001"} 1' in lines
    assert 't_seconds_bucket{kind="a\\"b",le="0.25"} 2' in lines
    assert 't_seconds_bucket{kind="a\\"b",le="10"} 3' in lines
    assert 't_seconds_bucket{kind="a\\"b",le="+Inf"} 4' in lines
    assert 't_seconds_sum{kind="a\\"b"} 99.303' in lines
