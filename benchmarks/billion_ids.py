"""One field of 1,000,000,000 ids, trained and served in bounded memory.

Makes a click log once (Zipf-distributed 64-bit ids, each with a hidden effect), then trains and
serves a DLRM in a process of its own for every scheme, and prints peak memory and rows a second.

    .venv/bin/python benchmarks/billion_ids.py
    .venv/bin/python benchmarks/billion_ids.py --schemes cafe --rows 4000000 --ratio 0.01
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.config import Experiment
from recsys.hashing import hash_ints, to_buckets, to_unit
from recsys.serving.predictor import Predictor
from recsys.train.run import RunOptions, run

IDS = 1_000_000_000
ALPHA = 1.05  # exponent of the bounded Zipf distribution
DIM = 16
BLOCK = 1 << 20


def draw(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Ranks of a bounded Zipf distribution by inverting its continuous form, then as ids."""
    u = rng.random(rows)
    end = float(IDS) ** (1 - ALPHA)
    ranks = ((end - 1) * u + 1) ** (1 / (1 - ALPHA))
    return to_buckets(hash_ints(ranks.astype(np.int64), salt=7), IDS)


def make(path: Path, rows: int, seed: int) -> None:
    """A log of one big field, two small ones and a number."""
    rng = np.random.default_rng(seed)
    writer = None
    for start in range(0, rows, BLOCK):
        n = min(BLOCK, rows - start)
        ids = draw(rng, n)
        hour, place = rng.integers(0, 24, n), rng.integers(0, 200, n)
        number = rng.standard_normal(n).astype(np.float32)
        effects = to_unit(hash_ints(ids, salt=1)) * 4 - 2  # hidden, uniform in +-2
        effects += to_unit(hash_ints(place, salt=2)) * 2 - 1 + 0.3 * number
        labels = (rng.random(n) < 1 / (1 + np.exp(-(effects - 1)))).astype(np.int8)
        table = pa.table({"id": ids, "hour": hour, "place": place, "x": number, "click": labels})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=1 << 17)
    assert writer is not None
    writer.close()


def experiment(folder: Path, scheme: str, ratio: float) -> Experiment:
    """The job."""
    files = {
        split: {"files": [str(folder / f"{split}.parquet")], "format": "parquet"}
        for split in ("train", "valid")
    }
    big = {"kind": "categorical", "name": "id", "dtype": "int", "encoding": "hash",
           "num_buckets": IDS}  # fmt: skip
    schema = {
        "features": [
            big,
            {"kind": "categorical", "name": "hour", "dtype": "int"},
            {"kind": "categorical", "name": "place", "dtype": "int"},
            {"kind": "numeric", "name": "x"},
        ],
        "labels": [{"name": "click"}],
    }
    return Experiment.parse(
        {
            "dataset": {
                "class": "recsys.datasets.click_log.ClickLog",
                "splits": {"kind": "given", **files},
                "schema": schema,
            },
            "model": {
                "class": "recsys.models.ctr.dlrm.DLRM",
                "embedding_dim": DIM,
                "compression": {"scheme": {"kind": scheme}, "ratio": ratio},
            },
            "train": {
                "batch_size": 4096,
                "num_epochs": 1,
                "evaluations_per_epoch": 1,
                "bootstrap_samples": 0,
                "slices": ["hour"],
                "keep_checkpoints": 1,
            },
        }
    )


def one(folder: Path, scheme: str, ratio: float, out: Path) -> None:
    """Trains, serves and prints one line; in a process of its own, so that memory is its own."""
    result = run(experiment(folder, scheme, ratio), out, RunOptions(out / "cache", show="none"))
    trained = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seed = result.seeds[0]
    print(
        json.dumps(
            {
                "scheme": scheme,
                "auc": result.metrics("valid")["auc"],
                "table_bytes": seed.table_bytes,
                "train_rows_per_s": result.rows_per_second,
                "train_peak_bytes": trained,
            }
        )
    )


def serve(folder: Path, out: Path) -> None:
    """Loads the model in a fresh process and predicts the validation file."""
    predictor = Predictor.load(out)
    table = pq.read_table(folder / "valid.parquet").drop(["click"])
    start = time.perf_counter()
    predictor.predict(table)
    speed = table.num_rows / (time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"serve_rows_per_s": speed, "serve_peak_bytes": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--ratio", type=float, default=0.01)
    parser.add_argument("--schemes", default="unified,hash,cafe")
    parser.add_argument("--data", type=Path, default=Path(".bench/billion"))
    parser.add_argument("--step", choices=["train", "serve"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.step == "train":
        one(args.data, args.schemes, args.ratio, args.out)
        return
    if args.step == "serve":
        serve(args.data, args.out)
        return
    args.data.mkdir(parents=True, exist_ok=True)
    for split, rows, seed in (("train", args.rows, 1), ("valid", 200_000, 2)):
        path = args.data / f"{split}.parquet"
        if not path.exists() or pq.ParquetFile(path).metadata.num_rows != rows:
            make(path, rows, seed)
    full = 4 * IDS * DIM
    print(f"one field of {IDS:,} ids, width {DIM}: {full / 2**30:.1f} GiB in full")
    for scheme in args.schemes.split(","):
        with tempfile.TemporaryDirectory(dir=args.data) as folder:
            found: dict = {}
            for step in ("train", "serve"):
                command = [
                    sys.executable, __file__, "--step", step, "--schemes", scheme, "--data",
                    str(args.data), "--ratio", str(args.ratio), "--out", f"{folder}/run",
                ]  # fmt: skip
                done = subprocess.run(command, check=True, capture_output=True, text=True,
                                      env={**os.environ, "PYTHONWARNINGS": "ignore"})  # fmt: skip
                found |= json.loads(done.stdout.strip().splitlines()[-1])
            size = found["table_bytes"]["tables"]
            print(
                f"{scheme}: AUC {found['auc']:.4f}, tables {size / 2**20:,.0f} MiB, "
                f"training {found['train_rows_per_s']:,.0f} rows/s at a peak of "
                f"{found['train_peak_bytes'] / 2**30:.2f} GiB, serving "
                f"{found['serve_rows_per_s']:,.0f} rows/s at a peak of "
                f"{found['serve_peak_bytes'] / 2**30:.2f} GiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
