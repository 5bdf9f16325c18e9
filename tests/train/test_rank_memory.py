"""A table that one rank's memory cannot hold, trained by three that have as little each.

As a program (``python -m tests.train.test_rank_memory RANKS``) it starts the ranks and prints what
they found as JSON. A rank trains a tiny table first, so that libraries, threads and pools are
there; what it may take from then on is capped by ``RLIMIT_DATA``, which counts private writable
memory. ``RLIMIT_AS`` is no measure: it also counts address space that nobody touches.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recsys.base import CTRModel
from recsys.config import TrainConfig
from recsys.embeddings.sharding import ShardingConfig
from recsys.errors import ShardingError
from recsys.fit_config import EmbeddingConfig
from recsys.layers.mlp import MLPConfig
from recsys.models.ctr.dlrm import DLRM
from recsys.schema import Categorical, Label, Numeric, Schema
from recsys.testing.data import random_batch
from recsys.train.backend import attach_tables, materialize
from recsys.train.click_task import ClickTask
from recsys.train.launch import launch
from recsys.train.ranks import Ranks
from recsys.train.step import TrainStep

DIM, STEPS, SIZE = 16, 3, 64
TABLE = 384 << 20  # bytes
ROWS = TABLE // (4 * DIM)
ROOM = 256 << 20  # what a rank may take: two thirds of the table, twice what its part needs
pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(sys.platform != "linux", reason="caps memory by RLIMIT_DATA"),
]


def taken() -> int:
    """Bytes that RLIMIT_DATA counts."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmData:")[2].split()[0])


def train(rows: int, memory: int | None) -> tuple[int, float]:
    """Some steps with one table.

    Returns:
        Bytes of the table that are held here, and the last loss.
    """
    schema = Schema(
        features=(Categorical(name="id", num_embeddings=rows), Numeric(name="x")),
        labels=(Label(name="click"),),
    )
    mlp = MLPConfig(hidden_units=(8,))
    with torch.device("meta"):
        model: CTRModel = DLRM(DLRM.Config(embedding_dim=DIM, bottom_mlp=mlp, top_mlp=mlp), schema)
    materialize(model, "cpu")
    config = EmbeddingConfig(sharding=ShardingConfig(placement="row_wise", rank_memory=memory))
    tables = attach_tables(model, config, "torchrec")
    model.reset_parameters(1)
    train, ranks = TrainConfig(batch_size=SIZE), Ranks.current()
    step = TrainStep(ClickTask(model, train, tables, ranks), tables, ranks)
    first, loss = Ranks.current().rank * STEPS, torch.zeros(())
    for number in range(STEPS):
        loss = step(random_batch(schema, SIZE, first + number), 1.0)
    return model.embeddings.store.table_bytes(), float(loss)


def one_rank() -> list[dict]:
    """What every rank found."""
    torch.set_num_threads(1)
    found: dict = {}
    train(100, None)
    unlimited = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (taken() + ROOM, unlimited[1]))
    try:
        try:
            found["held"], found["loss"] = train(ROWS, ROOM)
        except ShardingError as error:
            found["refused"] = str(error)
            found["held"], found["loss"] = train(ROWS, 2 * TABLE)
    except (MemoryError, RuntimeError) as error:
        found["failed"] = f"{type(error).__name__}: {error}"
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, unlimited)
    return Ranks.current().gather_objects(found)


def on(ranks: int) -> list[dict]:
    """Runs this file as a program."""
    command = [sys.executable, "-m", "tests.train.test_rank_memory", str(ranks)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_three_ranks_hold_what_one_cannot():
    found = on(3)
    assert all("refused" not in rank and "failed" not in rank for rank in found), found
    assert [rank["held"] for rank in found] == [TABLE // 3] * 3
    assert all(0.1 < rank["loss"] < 3.0 for rank in found)


@pytest.mark.slow
def test_one_rank_with_the_same_memory_is_refused_and_fails_if_it_is_not():
    """With ``rank_memory`` the plan says what is missing; without, the allocator does."""
    (found,) = on(1)
    assert f"has {ROOM:,}" in found["refused"] and "are missing" in found["refused"]
    assert "`embedding.id`" in found["refused"] and "2 ranks of this size" in found["refused"]
    assert "can't allocate memory" in found["failed"], found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(launch(one_rank, (), int(sys.argv[1]))) + "\n")
