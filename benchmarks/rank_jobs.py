"""The jobs that the benchmarks of several ranks train: a config's, and one table.

Imported by its bare name, as `printing` is.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from printing import say
from recsys.base import CTRModel
from recsys.config import Experiment, TrainConfig, load
from recsys.data.prepare import prepare
from recsys.data.prepared import Prepared
from recsys.embeddings.backend import Backend
from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.embeddings.sharding import ShardingConfig
from recsys.fit_config import EmbeddingConfig
from recsys.layers.mlp import MLPConfig
from recsys.models.ctr.dlrm import DLRM
from recsys.schema import Categorical, Label, Numeric, Schema
from recsys.testing.data import random_batch
from recsys.train.backend import attach_tables, is_meta, materialize
from recsys.train.click_task import ClickTask
from recsys.train.ranks import Ranks
from recsys.train.state import seed_everything
from recsys.train.step import TrainStep
from recsys.types import Batch

DIM, SIZE = 16, 256  # width of the one table; rows of its batches


def config_options(description: str, rounds: int) -> argparse.ArgumentParser:
    """The options of every benchmark that trains a config.

    Args:
        description: Of the benchmark.
        rounds: Where no number is given.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, default=Path("configs/ctr/dlrm.yaml"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=V")
    parser.add_argument("--rows", type=int, default=400_000, help="of training")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--cache", type=Path, help="keep the made data here for the next call")
    return parser


def experiment_of(args: argparse.Namespace, *more: str) -> Experiment:
    """The config with a benchmark's sizes; ``--set`` has the last word.

    Args:
        args: With `config_options`.
        more: Overrides of the benchmark.
    """
    small = max(1, min(args.rows // 10, 20_000))
    sizes = [f"dataset.num_rows={args.rows}", f"dataset.valid_rows={small}"]
    sizes += [f"dataset.test_rows={small}", "train.num_threads=1", "train.bootstrap_samples=0"]
    return load(args.config, [*sizes, *more, *args.overrides])


def prepared_of(experiment: Experiment, cache: Path) -> Prepared:
    """The data, made before anything is timed."""
    dataset = experiment.dataset.build()
    start = time.perf_counter()
    splits = dataset.splits(cache)
    found = prepare(dataset.schema(), splits, cache / "prepared", experiment.prepare)
    say(f"data ready after {time.perf_counter() - start:.0f} s")
    return found


def build(
    make: Callable[[], CTRModel], config: EmbeddingConfig, backend: Backend, seed: int
) -> tuple[CTRModel, EmbeddingOptimizer | None]:
    """A model on its tables' backend, as the training job builds it."""
    seed_everything(seed)
    if backend == "torchrec":
        with torch.device("meta"):
            model = make()
    else:
        model = make()
        model.reset_parameters(seed)
    bare = is_meta(model)
    if bare:
        materialize(model, "cpu")
    tables = attach_tables(model, config, backend)
    if bare:
        model.reset_parameters(seed)
    return model, tables


def one_table(rows: int, backend: Backend, rank_memory: int | None = None) -> TrainStep:
    """A DLRM of one table of width `DIM`, row-wise, and one number.

    Args:
        rows: Of the table.
        backend: Of the table.
        rank_memory: Bytes that the plan may use of a rank, None for what it finds.
    """
    mlp = MLPConfig(hidden_units=(32,))
    config = DLRM.Config(embedding_dim=DIM, bottom_mlp=mlp, top_mlp=mlp)
    sharding = ShardingConfig(placement="row_wise", rank_memory=rank_memory)
    embedding = EmbeddingConfig(sharding=sharding)
    model, tables = build(lambda: DLRM(config, _schema(rows)), embedding, backend, 1)
    train, ranks = TrainConfig(batch_size=SIZE), Ranks.current()
    return TrainStep(ClickTask(model, train, tables, ranks), tables, ranks)


def one_table_batches(rows: int, count: int) -> list[Batch]:
    """Random batches for `one_table`, others on every rank."""
    first = Ranks.current().rank * count
    return [random_batch(_schema(rows), SIZE, first + number) for number in range(count)]


def _schema(rows: int) -> Schema:
    return Schema(
        features=(Categorical(name="id", num_embeddings=rows), Numeric(name="x")),
        labels=(Label(name="click"),),
    )
