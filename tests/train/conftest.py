"""A learnable toy log in memory, and a loader of it with exact positions."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from recsys.base import CTRModel
from recsys.config import TrainConfig
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.layers.mlp import MLPConfig
from recsys.models.ctr.deep_fm import DeepFM
from recsys.schema import Categorical, Label, Numeric, Schema
from recsys.train.click_task import ClickTask
from recsys.train.ranks import Ranks
from recsys.train.trainer import Trainer
from recsys.types import Batch

SCHEMA = Schema(
    features=(
        Categorical(name="user", num_embeddings=12),
        Categorical(name="item", num_embeddings=9),
        Numeric(name="age"),
    ),
    labels=(Label(name="click"),),
    group="user",
)


class MemoryLoader:
    """The whole contract of a training loader over rows in memory."""

    def __init__(self, rows: int, batch_size: int, seed: int = 0, shuffle: bool = True) -> None:
        random = np.random.default_rng(seed)
        self.users = random.integers(1, 12, rows, dtype=np.int32)
        self.items = random.integers(1, 9, rows, dtype=np.int32)
        self.age = random.standard_normal(rows).astype(np.float32)
        truth = np.random.default_rng(7)
        score = truth.normal(size=12)[self.users] + truth.normal(size=9)[self.items] + self.age
        self.labels = (random.random(rows) < 1 / (1 + np.exp(-score))).astype(np.float32)
        self.batch_size, self.shuffle, self.epoch, self.done = batch_size, shuffle, 0, 0

    def __len__(self) -> int:
        return -(-len(self.users) // self.batch_size)

    def batches_left(self) -> int:
        return len(self) - self.done

    def set_epoch(self, epoch: int) -> None:
        self.epoch, self.done = epoch, 0

    def state_dict(self) -> dict:
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict) -> None:
        self.epoch, self.done = state["epoch"], state["done"]

    def __iter__(self) -> Iterator[Batch]:
        order = np.arange(len(self.users))
        if self.shuffle:
            order = np.random.default_rng(self.epoch).permutation(order)
        start, self.done = self.done, self.done
        for number in range(start, len(self)):
            rows = order[number * self.batch_size : (number + 1) * self.batch_size]
            self.done = number + 1
            yield self.batch(rows)
        self.done = 0

    def batch(self, rows: np.ndarray) -> Batch:
        size = len(rows)
        return Batch(
            dense=torch.from_numpy(self.age[rows, None]),
            values=torch.from_numpy(np.concatenate([self.users[rows], self.items[rows]])),
            lengths=torch.ones(2 * size, dtype=torch.int32),
            labels=torch.from_numpy(self.labels[rows, None]),
            keys=("user", "item"),
            value_counts=(size, size),
            groups=torch.from_numpy(self.users[rows].astype(np.int64)),
        )


class Job:
    """A model, its loaders and a trainer in a folder."""

    def __init__(self, folder, *, rows: int = 400, embedding: dict | None = None, **train) -> None:
        settings = {"batch_size": 32, "log_every": 5, "num_epochs": 2, "evaluations_per_epoch": 2}
        self.config = TrainConfig(**{**settings, **train})
        self.train = MemoryLoader(rows, self.config.batch_size, shuffle=self.config.shuffle)
        self.valid = MemoryLoader(200, 64, seed=1, shuffle=False)
        config = DeepFM.Config(embedding_dim=4, mlp=MLPConfig(hidden_units=(8, 8), dropout=0.2))
        self.model: CTRModel = DeepFM(config, SCHEMA)
        self.model.reset_parameters(seed=3)
        tables = EmbeddingOptimizerConfig(**(embedding or {"kind": "adam"}))
        self.tables = self.model.embeddings.attach_optimizer(tables)
        torch.manual_seed(5)
        task = ClickTask(self.model, self.config, self.tables, Ranks.current())
        self.trainer = Trainer(task, self.tables, folder, show="none")

    def fit(self, resume: bool = False):
        return self.trainer.fit(self.train, self.valid, resume=resume)

    def state(self) -> dict:
        """Everything that training changes."""
        optimizer = self.trainer._train_step.dense.state_dict()
        return {
            **{f"model:{k}": v.clone() for k, v in self.model.state_dict().items()},
            **{f"tables:{k}": v for k, v in self.tables.state_dict().items()},
            **{f"dense:{k}": v for k, v in optimizer.items()},
        }


@pytest.fixture
def job(tmp_path) -> Callable[..., Job]:
    """Makes jobs; ``folder`` names one inside the test's own."""

    def make(folder: str = "run", **settings) -> Job:
        return Job(tmp_path / folder, **settings)

    return make


@pytest.fixture
def assert_same() -> Callable[[Job, Job], None]:
    """Two jobs ended in the same bits."""

    def check(first: Job, second: Job) -> None:
        one, two = first.state(), second.state()
        assert one.keys() == two.keys()
        for name, value in one.items():
            assert torch.equal(value, two[name]), name

    return check
