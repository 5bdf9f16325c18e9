"""One training epoch of a CTR model on the peers' table: rows per CPU-second, peak memory, AUC.

The same rows, model, sizes and batch as the scripts that run FuxiCTR and DeepCTR-Torch; interleave
with them and compare rows per CPU-second. From the project's root, after the generator of those
scripts wrote `.bench/ctr/data`:

    .venv/bin/python benchmarks/ctr_train.py --model DeepFM --precision fp32
    .venv/bin/python benchmarks/ctr_train.py --model DeepFM --mode dense     # their optimizer
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch

from recsys.config import TrainConfig
from recsys.data.loader import BatchLoader, LoaderConfig
from recsys.data.prepare import prepare
from recsys.data.source import GivenSplits, Source
from recsys.embeddings.optimizer import EmbeddingOptimizerConfig
from recsys.evaluate.predictions import collect
from recsys.evaluate.summary import flat_metrics
from recsys.layers.interaction.cross_net import CrossNetConfig
from recsys.layers.mlp import MLPConfig
from recsys.models.ctr.dcn_v2 import DCNv2
from recsys.models.ctr.deep_fm import DeepFM
from recsys.schema import Categorical, Label, Numeric, Schema
from recsys.train.click_task import ClickTask
from recsys.train.ranks import Ranks
from recsys.train.trainer import Trainer


def schema(min_count: int, minmax: bool = False) -> Schema:
    how = {"scale": "minmax", "fill": 0} if minmax else {"log": True, "scale": "standardize"}
    numbers = [Numeric.model_validate({"name": f"I{i}", **how}) for i in range(1, 14)]
    ids = [Categorical(name=f"C{i}", min_count=min_count) for i in range(1, 27)]
    return Schema(features=(*numbers, *ids), labels=(Label(name="label"),))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(".bench/ctr/data"))
    parser.add_argument("--model", choices=("DeepFM", "DCNv2"), default="DeepFM")
    parser.add_argument("--mode", choices=("sparse", "dense"), default="sparse")
    parser.add_argument("--kind", default=None, help="table optimizer")
    parser.add_argument("--embedding-lr", type=float, default=None)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--minmax", action="store_true", help="scale numbers as the peers do")
    parser.add_argument("--min-count", type=int, default=1)
    parser.add_argument("--init-std", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    splits = GivenSplits(
        train=Source(files=(str(args.data / "train.parquet"),), format="parquet"),
        valid=Source(files=(str(args.data / "valid.parquet"),), format="parquet"),
    )
    prepared = prepare(schema(args.min_count, args.minmax), splits, args.data.parent / "recsys")
    mlp = MLPConfig(hidden_units=(400, 400, 400))
    model: DeepFM | DCNv2
    if args.model == "DeepFM":
        deep_fm = DeepFM.Config(embedding_dim=16, mlp=mlp, init_std=args.init_std)
        model = DeepFM(deep_fm, prepared.schema)
    else:
        cross = CrossNetConfig(num_layers=3)
        dcn = DCNv2.Config(embedding_dim=16, mlp=mlp, cross=cross, init_std=args.init_std)
        model = DCNv2(dcn, prepared.schema)
    model.reset_parameters(args.seed)
    dense = args.mode == "dense"
    kind = args.kind or ("adam" if dense else "rowwise_adagrad")
    rate = args.embedding_lr or (1e-3 if dense else EmbeddingOptimizerConfig().learning_rate)
    tables = model.embeddings.attach_optimizer(
        EmbeddingOptimizerConfig(kind=kind, mode=args.mode, learning_rate=rate)
    )
    config = TrainConfig(
        batch_size=args.batch,
        learning_rate=args.lr,
        precision=args.precision,
        log_every=1000,
        evaluations_per_epoch=1,
    )
    train = BatchLoader(
        prepared, "train", LoaderConfig(batch_size=args.batch, shuffle=True, seed=args.seed)
    )
    valid = BatchLoader(prepared, "valid", LoaderConfig(batch_size=8192))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            ClickTask(model, config, tables, Ranks.current()), tables, folder, show="none"
        )
        trainer.checkpoints.save = lambda *a, **k: None  # the peers write none in this measurement
        wall, cpu = time.perf_counter(), time.process_time()
        result = trainer.fit(train, valid)  # the peers' time holds one evaluation too
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    values = flat_metrics(collect(model, valid, prepared.schema).reports())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"RESULT recsys {args.model} {args.precision} {args.mode} {kind} lr={rate:g} "
        f"batch={args.batch}: train {result.rows / wall:.0f} samples/s (epoch {wall:.1f}s) "
        f"peak {peak:.2f} GiB cpu {cpu:.0f}s -> {result.rows / cpu:.0f} samples per CPU-s  "
        f"valid AUC {values['auc']:.4f} logloss {values['logloss']:.4f}"
    )


if __name__ == "__main__":
    main()
