"""What a training step and a frozen lookup cost with compressed tables, against plain ones.

One model, one batch stream, all schemes interleaved in one process: quote the ratios.

    .venv/bin/python benchmarks/compression_step.py
    .venv/bin/python benchmarks/compression_step.py --schemes "hash, unified" --threads 1
"""

import argparse
import statistics
import time

import numpy as np
import torch

from recsys.config import TrainConfig
from recsys.embeddings.compression.plan import CompressionConfig
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.errors import RecsysError
from recsys.layers.mlp import MLPConfig
from recsys.models.ctr.dcn_v2 import DCNv2
from recsys.schema import Categorical, Label, Numeric, Schema
from recsys.serving.freeze import freeze_model
from recsys.train.click_task import ClickTask
from recsys.train.ranks import Ranks
from recsys.train.step import TrainStep
from recsys.tune.compression import parse_schemes
from recsys.types import Batch

ROWS = [
    int(n)
    for n in (
        1460, 583, 800_000, 300_000, 305, 24, 12_517, 633, 3, 93_145, 5683, 700_000, 3194, 27,
        14_992, 500_000, 10, 5652, 2173, 4, 600_000, 18, 15, 286_181, 105, 142_572,
    )
]  # fmt: skip


def schema() -> Schema:
    """Cardinalities of Criteo, the largest cut: 3.5 million ids in 26 fields."""
    numbers = [Numeric(name=f"I{i}") for i in range(13)]
    ids = [Categorical(name=f"C{i}", num_embeddings=rows + 2) for i, rows in enumerate(ROWS)]
    return Schema(features=(*numbers, *ids), labels=(Label(name="label"),))


def batches(count: int, size: int) -> list[Batch]:
    """Zipf-distributed ids."""
    rng, keys = np.random.default_rng(0), tuple(f"C{i}" for i in range(len(ROWS)))
    found = []
    for _ in range(count):
        ids = [np.exp(rng.random(size) * np.log(rows)).astype(np.int32) + 1 for rows in ROWS]
        values = torch.from_numpy(np.concatenate(ids))
        found.append(
            Batch(
                dense=torch.from_numpy(rng.standard_normal((size, 13)).astype(np.float32)),
                values=values,
                lengths=torch.ones(len(values), dtype=torch.int32),
                labels=torch.from_numpy(rng.integers(0, 2, (size, 1)).astype(np.float32)),
                keys=keys,
                value_counts=(size,) * len(keys),
            )
        )
    return found


class Candidate:
    """One way to hold the tables, with what trains it."""

    def __init__(self, name: str, compression: CompressionConfig | None, size: int) -> None:
        self.name, self.seconds = name, []
        config = DCNv2.Config(
            embedding_dim=16, compression=compression, mlp=MLPConfig(hidden_units=(400, 400, 400))
        )
        self.model = DCNv2(config, schema())
        self.model.reset_parameters(1)
        self.tables = self.model.embeddings.attach_optimizer(EmbeddingOptimizerConfig())
        train, ranks = TrainConfig(batch_size=size), Ranks.current()
        self.step = TrainStep(ClickTask(self.model, train, self.tables, ranks), self.tables, ranks)
        self.model.train()

    def run(self, rows: list[Batch]) -> None:
        """Trains on some batches and keeps the time of each step."""
        for batch in rows:
            start = time.perf_counter()
            self.step(batch, 1.0)
            self.seconds.append(time.perf_counter() - start)


def frozen_speed(candidate: Candidate, dtype: str, batch: Batch) -> float:
    """Rows looked up a second in the frozen tables, all features of a row together."""
    frozen = freeze_model(candidate.model, dtype)  # type: ignore[arg-type]
    times = []
    with torch.inference_mode():
        for _ in range(12):
            start = time.perf_counter()
            frozen.embeddings(batch)
            times.append(time.perf_counter() - start)
    return batch.batch_size / statistics.median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemes", default="all")
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtypes", default="fp32,fp16,int8,int4", help="of the frozen lookups")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = batches(args.steps, args.batch_size)
    plain = Candidate("full", None, args.batch_size)
    print(f"{'scheme':<34}{'step ms':>9}{'against plain':>15}  frozen lookups, rows/s")
    for name, scheme in {"full": None, **parse_schemes(args.schemes)}.items():
        try:
            compression = None
            if scheme is not None:
                try:
                    values = {"scheme": scheme, "ratio": args.ratio}
                    one = Candidate(name, CompressionConfig.model_validate(values), args.batch_size)
                except RecsysError:
                    compression = CompressionConfig.model_validate({"scheme": scheme})
                    one = Candidate(name, compression, args.batch_size)
            else:
                one = Candidate(name, None, args.batch_size)
        except RecsysError as error:
            print(f"{name:<34}{'-':>9}  {str(error)[:80]}")
            continue
        plain.seconds.clear()
        plain.run(rows[:2])
        one.run(rows[:2])  # warm
        plain.seconds.clear()
        one.seconds.clear()
        ratios = []
        for _ in range(args.rounds):
            plain.run(rows)
            one.run(rows)
            a, b = (statistics.median(c.seconds[-args.steps :]) for c in (one, plain))
            ratios.append(a / b)
        speeds = []
        for dtype in args.dtypes.split(","):
            try:
                speeds.append(f"{dtype} {frozen_speed(one, dtype, rows[0]):,.0f}")
            except RecsysError:
                speeds.append(f"{dtype} refused")
        step = statistics.median(one.seconds) * 1e3
        print(f"{name:<34}{step:9.1f}{statistics.median(ratios):14.2f}x  {', '.join(speeds)}",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
