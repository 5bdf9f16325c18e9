"""The service over HTTP, without a network: state, limits, reload while requests go on."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi.testclient import TestClient

from recsys.retrieval.index import Index
from recsys.retrieval.versions import VersionedIndex
from recsys.serving.artefact import save_artefact
from recsys.serving.http_app import make_app
from recsys.serving.limits import ServingLimits
from recsys.serving.operations import OPERATIONS
from recsys.serving.service import Service
from tests.serving.conftest import toy_encoder, toy_model


@pytest.fixture
def client(tmp_path: Path, artefact: Path):
    service = Service(limits=ServingLimits(max_body_bytes=2000))
    with TestClient(make_app(service, root=tmp_path), raise_server_exceptions=False) as client:
        yield client


def loaded(client: TestClient) -> TestClient:
    assert client.post("/reload", json={"folder": "run"}).status_code == 200
    return client


def test_ready_when_something_is_loaded(client: TestClient) -> None:
    assert client.get("/health").json()["status"] == "alive"
    assert client.get("/ready").status_code == 503
    asked = client.post("/v1/predict", json={"rows": [{}]})
    assert asked.status_code == 503 and asked.headers["retry-after"] == "1"
    found = loaded(client).get("/ready").json()
    assert found["operations"] == ["predict"] and found["artefact"].startswith("run@")


def test_predictions_and_metrics(client: TestClient, rows: list[dict], expected) -> None:
    loaded(client)
    found = client.post("/v1/predict", json={"rows": rows})
    assert found.json()["predictions"] == pytest.approx(expected.tolist())
    assert found.headers["content-type"] == "application/json"
    client.post("/v1/predict", content=b"{")
    text = client.get("/metrics").text
    assert 'recsys_requests_total{operation="predict",status="200"} 1' in text
    assert 'recsys_requests_total{operation="predict",status="400"} 1' in text
    assert "recsys_ready 1" in text and 'recsys_loads_total{result="loaded"} 1' in text


def test_long_bodies_are_not_read(client: TestClient) -> None:
    loaded(client)
    assert client.post("/v1/predict", content=b"x" * 2001).status_code == 413

    def endless():
        for _ in range(10_000):
            yield b"x" * 1000

    assert client.post("/v1/predict", content=endless()).status_code == 413
    assert client.get("/ready").status_code == 200


def test_hundreds_of_malformed_requests(client: TestClient, rows: list[dict]) -> None:
    loaded(client)
    good = json.dumps({"rows": rows[:1]}).encode()
    bodies = [good[:end] for end in range(len(good))]
    bodies += [good[:at] + bytes([byte]) + good[at + 1 :] for at in range(0, len(good), 3)
               for byte in (0, 34, 93, 125, 255)]  # fmt: skip
    for name in ("predict", "search", "nothing"):
        for body in bodies[:: 1 if name == "predict" else 17]:
            found = client.post(f"/v1/{name}", content=body)
            assert found.status_code in (200, 400, 404, 422), (name, body, found.text)
            assert found.status_code == 200 or found.json()["error"]
    found = [client.get("/v1/predict"), client.put("/reload"), client.get("/a"), client.delete("/")]
    assert [one.status_code for one in found] == [405, 405, 404, 404]
    assert "Known: POST /v1/predict" in found[0].json()["error"]
    assert client.post("/v1/predict", content=good).status_code == 200


@pytest.mark.parametrize(
    "body",
    [b'{"folder": "../x"}', b'{"folder": "/etc"}', b'{"folder": 3}', b"{", b'{"class": "os"}',
     b'{"folder": "none"}', b'{"folder": ""}', b'{"folder": "a\\u0000b"}', b"null", b"[]"],
)  # fmt: skip
def test_bad_reloads_change_nothing(client: TestClient, body: bytes) -> None:
    before = loaded(client).get("/ready").json()
    found = client.post("/reload", content=body)
    assert found.status_code == 422, found.text
    assert client.get("/ready").json() == before


def test_reload_is_off_without_a_root(artefact: Path) -> None:
    service = Service()
    service.load(artefact)
    with TestClient(make_app(service)) as client:
        assert client.post("/reload").status_code == 404


def test_reload_while_requests_go_on(client: TestClient, tmp_path: Path, rows) -> None:
    encoder = toy_encoder()
    for number in range(3):
        model = toy_model(encoder)
        model.bias.data += number
        save_artefact(tmp_path / f"v{number}", model, encoder)
    loaded(client)
    stop, body = threading.Event(), json.dumps({"rows": rows[:1]})

    def keep_asking() -> list[int]:
        found = []
        while not stop.is_set():
            found.append(client.post("/v1/predict", content=body).status_code)
        return found

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(keep_asking) for _ in range(3)]
        names = [
            client.post("/reload", json={"folder": f"v{number}"}).json()["artefact"][:2]
            for number in range(3)
        ]
        stop.set()
        statuses = [status for future in asking for status in future.result()]
    assert names == ["v0", "v1", "v2"] and set(statuses) == {200}
    assert client.post("/reload").json()["artefact"].startswith("v2@")


def test_two_versions_during_a_migration(client: TestClient, tmp_path: Path) -> None:
    """Queries name their version; those of the old one are answered from the old index."""
    old = Index([[1, 0], [0, 1]], ["a", "b"], version="v1")
    new = Index([[0, 1, 0], [1, 0, 0]], ["a", "b"], version="v2")
    old.save(tmp_path / "old")
    VersionedIndex([old, new]).save(tmp_path / "both")
    asked = {"queries": [[5, 1]], "k": 1, "version": "v1"}
    moved = {"queries": [[5, 1, 0]], "k": 1, "version": "v2"}
    assert client.post("/reload", json={"folder": "old"}).status_code == 200
    assert client.post("/v1/search", json=asked).json()["lists"][0]["items"] == ["a"]
    refused = client.post("/v1/search", json=moved)
    assert refused.status_code == 422 and "'v2', the index of 'v1'" in refused.json()["error"]
    assert client.post("/reload", json={"folder": "both"}).status_code == 200
    assert client.post("/v1/search", json=asked).json()["lists"][0]["items"] == ["a"]
    assert client.post("/v1/search", json=moved).json()["lists"][0]["items"] == ["b"]
    unnamed = client.post("/v1/search", json={"queries": [[5, 1]]})
    assert unnamed.status_code == 422 and "Known: v1, v2." in unnamed.json()["error"]


def test_the_schema_names_every_request(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {f"/v1/{name}" for name in OPERATIONS} | {"/health", "/ready", "/metrics"} <= set(paths)
    body = paths["/v1/rank"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "candidates" in body["properties"] and "$defs" not in body
