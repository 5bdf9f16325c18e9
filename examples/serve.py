"""Retrieval, then ranking, behind one address. No download, no training, some seconds.

    python examples/serve.py                       # asks the classes, with no server
    python examples/serve.py --port 8000           # the same over HTTP, until you stop it
    recsys serve runs/example_serve --port 8000    # the same by the command line

Items have vectors, a price and an hour at which people want them. The index knows the vectors, the
ranker (a logistic regression with weights set by hand, so that you can see what it does) knows
price and hour. One call finds the 200 nearest of 20,000 items and orders them by the ranker.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from recsys.data.encoder import FeatureEncoder, FitState
from recsys.data.transforms import NumberFit
from recsys.data.vocabulary import Vocabulary
from recsys.errors import exit_on_error
from recsys.models.ctr.lr import LR
from recsys.retrieval.index import Index
from recsys.retrieval.scalar_codes import ScalarCodes
from recsys.schema import Categorical, Label, Numeric, Schema
from recsys.serving.artefact import save_artefact
from recsys.serving.http_app import make_app, run_server
from recsys.serving.service import Service
from recsys.serving.service_folder import save_service
from recsys.serving.vectors import Vectors

ITEMS, USERS, DIM = 20_000, 100, 32


def save_ranker(folder: Path) -> Path:
    """Likes evenings, and cheap items."""
    schema = Schema(
        features=(
            Categorical(name="hour", dtype="int", num_embeddings=25),
            Numeric(name="price", scale="standardize", fill="mean"),
        ),
        labels=(Label(name="click"),),
    )
    hours = Vocabulary(pa.array(range(23), pa.int64()), np.arange(23, 0, -1))
    fit = NumberFit(count=100, mean=50.0, sd=25.0, minimum=1.0, maximum=99.0)
    encoder = FeatureEncoder(schema, FitState(numbers={"price": fit}), {"hour": hours})
    model = LR(LR.Config(), schema)
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    evening = torch.tensor([0.0, 0.0] + [float(hour >= 18) for hour in range(23)])
    state["embeddings.linear.hour.weight"] = evening[:, None]
    state["linear.weight"] = torch.tensor([[-0.8]])
    model.load_state_dict(state)
    return save_artefact(folder, model, encoder)


def save_all(folder: Path) -> Path:
    """Ranker, index and vectors of users as one folder."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(ITEMS, DIM)).astype(np.float32)
    meta = pa.table({"price": random.integers(1, 100, ITEMS).astype(np.float64)})
    index = Index(vectors, range(ITEMS), meta, codes=ScalarCodes(8), version="v1")
    values = random.normal(size=(USERS, DIM)).astype(np.float32)
    users = Vectors(np.arange(USERS), values, version="v1")  # as the index: else it is refused
    parts = folder.parent / f"{folder.name}_parts"
    ranker = save_ranker(parts / "ranker")
    return save_service(folder, ranker, index=index.save(parts / "index"), queries=users)


def ask(service: Service, **request: object) -> dict:
    """Asks as a server would, and prints what came."""
    start = time.perf_counter()
    answer = service.answer("rank", json.dumps(request).encode())
    took = (time.perf_counter() - start) * 1e3
    print(f"\n{json.dumps(request)}\n  {answer.status} in {took:.1f} ms")
    found = json.loads(answer.body)
    if answer.status == 200:
        for item, chance in zip(found["lists"][0]["items"], found["lists"][0]["scores"]):
            print(f"  item {item:>6}  {chance:.3f}")
    else:
        print(f"  {found['error']}")
    return found


def main() -> None:
    """Makes the folder, then asks or serves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/example_serve"))
    parser.add_argument("--port", type=int, help="serve over HTTP at this port of 127.0.0.1")
    options = parser.parse_args()
    folder = save_all(options.folder)
    service = Service()
    print(f"serving {service.load(folder)}: {', '.join(service.operations)}")
    question = {"user": 7, "row": {"hour": 20}, "k": 3, "candidates": 200}
    if options.port is not None:
        print(f"curl localhost:{options.port}/v1/rank -d '{json.dumps(question)}'", flush=True)
        run_server(make_app(service, watch=2.0), "127.0.0.1", options.port)
        return
    with service:
        ask(service, **question)
        ask(service, **{**question, "row": {"hour": 9}})
        ask(service, **question, where={"price": {"ge": 90}})
        ask(service, **{**question, "row": {"huor": 20}})
    print(f"\n{service.metrics.text()}")
    print(f"kept in {folder}; now: recsys serve {folder}")


if __name__ == "__main__":
    with exit_on_error(debug="--debug" in sys.argv):
        main()
