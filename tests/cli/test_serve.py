"""``recsys serve`` as a process: it answers, says what is wrong, and ends when it is told."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from recsys.serving.recommender import Recommender
from tests.cli.conftest import cli

pytest.importorskip("uvicorn")


def ask(url: str, **body: object) -> tuple[int, dict]:
    data = json.dumps(body).encode() if body else None
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=20) as found:
            return found.status, json.load(found)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_lists_over_a_socket(recommending: tuple[Path, str]) -> None:
    run_dir = recommending[0]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "recsys", "serve", str(run_dir), "--port", str(port)]
    command += ["--set", "max_k=12"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("serving ") and line.endswith(": recommend, similar\n")
        root, end = f"http://127.0.0.1:{port}", time.monotonic() + 30
        while True:
            try:
                status, _ = ask(f"{root}/ready")
                break
            except urllib.error.URLError:
                assert time.monotonic() < end
                time.sleep(0.05)
        assert status == 200
        model = Recommender.load(run_dir)
        users = model.users.values[:3].tolist()
        status, found = ask(f"{root}/v1/recommend", users=users, k=5)
        assert status == 200
        for one, expected in zip(found["lists"], model.recommend(users, 5)):
            assert one["items"] == [item for item, _ in expected]
            assert one["scores"] == pytest.approx([score for _, score in expected])
        item = found["lists"][0]["items"][0]
        _, alike = ask(f"{root}/v1/similar", items=[item], k=2, exclude=[item])
        assert alike["lists"][0]["items"] == [i for i, _ in model.similar_items([item], 2)[0]]
        history = [model.items.values[:2].tolist()]
        _, of_history = ask(f"{root}/v1/recommend", histories=history, k=3)
        expected = model.recommend_for(history, 3)[0]
        assert of_history["lists"][0]["items"] == [i for i, _ in expected]
        some = {"users": users[:1], "only": [item, -9], "exclude": [-8], "exclude_seen": False}
        _, known = ask(f"{root}/v1/recommend", **some, unknown_items="ignore")
        assert known["lists"][0]["items"] == [item]
        _, popular = ask(f"{root}/v1/recommend", users=[-1], k=1, unknown="popular")
        assert popular["lists"][0]["by_popularity"]
        for body, told in (
            ({"users": [-1]}, "not known"),
            ({"users": users, "k": 13}, "at most 12"),
            ({"users": users, "histories": [[1]]}, "expected one of"),
            ({"users": ["x"]}, "not known"),
            ({"users": [True]}, "users.0"),
            ({"users": [2**64]}, "users.0"),
            ({"histories": [[]]}, "at least one item, got none"),
            ({"users": users, "only": [-9]}, 'unknown_items=\\"ignore\\"'),
            ({"users": users, "exclude": [-9]}, "exclude: item -9 is not known"),
            ({"users": [users[0], "x"]}, "not known"),
        ):
            status, refused = ask(f"{root}/v1/recommend", **body)
            assert status == 422 and told in json.dumps(refused), refused
        assert ask(f"{root}/reload", folder=".")[0] == 404
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(30) in (0, -signal.SIGINT, 130)


def test_what_cannot_be_served_is_told(tmp_path: Path) -> None:
    result = cli("serve", tmp_path, code=2)
    assert result.stderr.startswith(f"CheckpointError: {tmp_path} has no service.json. Give")
    result = cli("serve", tmp_path, "--set", "max_kk=1", code=2)
    assert "Did you mean `max_k`?" in result.stderr
    result = cli("serve", tmp_path, "--ray", "--root", tmp_path, code=2)
    assert "--watch with --ray" in result.stderr
