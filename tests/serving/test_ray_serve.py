"""The service on replicas of Ray Serve: answers by hand, and a new version taken up by itself."""

import json
import socket
import time
import urllib.request
from pathlib import Path

import pytest

from recsys.serving.artefact import save_artefact
from tests.serving.conftest import LOGITS, toy_encoder, toy_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_replicas_answer_and_take_up_a_new_version(tmp_path: Path, artefact: Path, rows) -> None:
    ray = pytest.importorskip("ray")
    serve = pytest.importorskip("ray.serve")
    from recsys.serving.ray_serve import deployment, run_on_cluster

    port = free_port()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        application = deployment(artefact, replicas=1, watch=0.2)
        run_on_cluster(application, "127.0.0.1", port, wait=False)

        def predicted() -> float:
            body = json.dumps({"rows": rows[:1]}).encode()
            url = f"http://127.0.0.1:{port}/v1/predict"
            with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as found:
                return json.load(found)["predictions"][0]

        def chance(logit: float) -> float:
            return float(1 / (1 + 2.718281828459045 ** (-logit)))

        assert predicted() == pytest.approx(chance(LOGITS[0]), rel=1e-5)
        encoder = toy_encoder()
        model = toy_model(encoder)
        model.bias.data -= 5
        save_artefact(artefact, model, encoder)
        end = time.monotonic() + 30
        while predicted() != pytest.approx(chance(LOGITS[0] - 5), rel=1e-5):
            assert time.monotonic() < end, "the new version was not taken up"
            time.sleep(0.1)
    finally:
        serve.shutdown()
        ray.shutdown()
