"""A service under load over loopback: requests a second, times, and a reload meanwhile.

    .venv/bin/python benchmarks/serving.py [--items 100000] [--clients 4] [--seconds 5]

A process serves (one thread of torch); this one asks from threads with connections that stay open.
The ranker is a DeepFM of random weights over user, hour, item and price. Times are those of the
asking side. At the end: malformed requests by the thousand, and reloads while requests go on.
"""

import argparse
import http.client
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from recsys.data.encoder import FeatureEncoder, FitState
from recsys.data.transforms import NumberFit
from recsys.data.vocabulary import Vocabulary
from recsys.models.ctr.deep_fm import DeepFM
from recsys.retrieval.index import Index
from recsys.retrieval.scalar_codes import ScalarCodes
from recsys.schema import Categorical, Label, Numeric, Schema
from recsys.serving.artefact import save_artefact
from recsys.serving.service_folder import save_service
from recsys.serving.vectors import Vectors

USERS, DIM, CANDIDATES = 10_000, 64, 500
ODD: list[Any] = [
    -1, 2**70, 1e308, float("nan"), "x", "\x00", [], [[]], [None], [1, "a"], {}, {"hour": []},
    {"price": {"lt": "x"}}, {"price": {"in": [{}]}}, True, [1.5] * 65, ["x"] * 9, {"user": {}},
]  # fmt: skip


def ids(name: str, count: int) -> Categorical:
    return Categorical(name=name, dtype="int", num_embeddings=count + 2)


def save_all(folder: Path, items: int) -> Path:
    """Ranker, index and vectors of users."""
    sizes = {"user": USERS, "hour": 24, "item": items}
    schema = Schema(
        features=(
            *(ids(name, count) for name, count in sizes.items()),
            Numeric(name="price", scale="standardize", fill="mean"),
        ),
        labels=(Label(name="click"),),
    )
    fit = NumberFit(count=100, mean=50.0, sd=25.0, minimum=1.0, maximum=99.0)
    known = {
        name: Vocabulary(pa.array(range(count), pa.int64()), np.full(count, 5))
        for name, count in sizes.items()
    }
    torch.manual_seed(0)
    model = DeepFM(DeepFM.Config(), schema).eval()
    encoder = FeatureEncoder(schema, FitState(numbers={"price": fit}), known)
    ranker = save_artefact(folder / "ranker", model, encoder)
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(items, DIM)).astype(np.float32)
    meta = pa.table({"price": draw.integers(1, 100, items).astype(np.float64)})
    index = Index(vectors, range(items), meta, codes=ScalarCodes(8)).save(folder / "index")
    users = Vectors(np.arange(USERS), draw.normal(size=(USERS, DIM)).astype(np.float32))
    return save_service(folder / "served", ranker, index=index, queries=users, id_column="item")


def client(port: int) -> Callable[[str, bytes], tuple[int, bytes]]:
    """Posts over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(path: str, body: bytes) -> tuple[int, bytes]:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()

    return post


def load(port: int, clients: int, seconds: float, path: str, body: Callable[[], bytes]) -> Any:
    """Times in ms and statuses of what all clients asked."""
    times: list[float] = []
    statuses: Counter[int] = Counter()
    end = time.perf_counter() + seconds

    def work() -> None:
        post = client(port)
        while time.perf_counter() < end:
            asked = body()
            start = time.perf_counter()
            statuses[post(path, asked)[0]] += 1
            times.append((time.perf_counter() - start) * 1e3)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, statuses


def report(name: str, clients: int, seconds: float, found: Any) -> None:
    times, statuses = found
    p50, p99 = np.percentile(times, [50, 99])
    rate = len(times) / seconds
    print(f"| {name} | {clients} | {rate:,.0f} | {p50:.1f} | {p99:.1f} | {dict(statuses)} |")


def malformed(port: int, good: bytes, count: int) -> Counter[int]:
    """Good requests with bytes changed, cut off or doubled, or with another value in a field."""
    draw, post, statuses = random.Random(0), client(port), Counter[int]()
    names = ["user", "query", "items", "row", "k", "candidates", "only", "where", "x", "exclude"]
    for number in range(count):
        if number % 2:
            name, value = draw.choice(names), draw.choice(ODD)
            changed = json.dumps({**json.loads(good), name: value}).encode()
            statuses[post("/v1/rank", changed)[0]] += 1
            continue
        body = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            body[draw.randrange(len(body))] = draw.choice(b'{}[]",:0-e \\\xff\x00n')
        cut = draw.randint(1, len(body))
        body = body[:cut] if draw.random() < 0.5 else body + body[cut:]
        statuses[post("/v1/rank", bytes(body))[0]] += 1
    return statuses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--malformed", type=int, default=3000)
    options = parser.parse_args()
    with socket.socket() as found, tempfile.TemporaryDirectory() as folder:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
        found.close()
        served = save_all(Path(folder), options.items)
        command = [sys.executable, "-m", "recsys", "serve", str(served), "--port", str(port)]
        command += ["--root", folder]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            assert server.stdout is not None and server.stdout.readline()
            time.sleep(2)
            measure(port, options)
            assert server.poll() is None
        finally:
            server.terminate()
            server.wait()


def measure(port: int, options: argparse.Namespace) -> None:
    draw, seconds = random.Random(0), options.seconds

    def retrieve() -> bytes:
        row = {"hour": draw.randrange(24), "user": 3}
        request = {"user": draw.randrange(USERS), "row": row, "candidates": CANDIDATES}
        return json.dumps(request).encode()

    def rank() -> bytes:
        items = draw.sample(range(options.items), CANDIDATES)
        return json.dumps({"items": items, "row": {"hour": 3, "user": 3}}).encode()

    print(
        "| request | clients | a second | p50 ms | p99 ms | statuses |\n|---|---|---|---|---|---|"
    )
    for name, body in (("rank 500 given", rank), ("retrieve 500, rank", retrieve)):
        load(port, 1, 1.0, "/v1/rank", body)
        for clients in (1, options.clients):
            found = load(port, clients, seconds, "/v1/rank", body)
            report(name, clients, seconds, found)
    stop, loads = threading.Event(), []

    def reload() -> None:
        post = client(port)
        while not stop.is_set():
            loads.append(post("/reload", b"{}")[0])

    thread = threading.Thread(target=reload)
    thread.start()
    found = load(port, options.clients, 2 * seconds, "/v1/rank", retrieve)
    stop.set()
    thread.join()
    report(f"the same, reloaded {len(loads)} times", options.clients, 2 * seconds, found)
    print(f"reloads: {dict(Counter(loads))}")
    print(f"malformed: {dict(malformed(port, retrieve(), options.malformed))}")


if __name__ == "__main__":
    main()
