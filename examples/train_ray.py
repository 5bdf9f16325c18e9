"""Trains a click model on Ray workers. Without arguments: two workers on this machine.

    python examples/train_ray.py
    python examples/train_ray.py --config configs/ctr/dlrm.yaml --workers 4 --address auto
    ray job submit --working-dir . -- python examples/train_ray.py --address auto --workers 8 \
        --run-dir /shared/runs/dlrm

Each worker is a rank: TorchRec shards the tables over all of them. The run folder and, where it
is relative, the data cache must lie where the workers see them. A worker that dies costs the steps
since the last checkpoint. The same without the script: ``recsys train --config ... --ray``.
"""

import argparse
from pathlib import Path

from recsys.config import load
from recsys.errors import exit_on_error
from recsys.evaluate.summary import metrics_table
from recsys.train.ray_train import RayOptions, parse_workers, run_on_ray
from recsys.train.run import RunOptions

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Reads the command line, trains, shows the plan and the metrics."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=ROOT / "configs/ctr/deep_fm.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="PLACE=VALUE")
    parser.add_argument("--workers", default="2", help="each is a rank; 2:8 takes what there is")
    parser.add_argument("--address", help="of a running cluster, or auto; by default one starts")
    parser.add_argument("--cpus-per-worker", type=float, default=1.0)
    parser.add_argument("--gpu", action="store_true", help="one GPU a worker")
    parser.add_argument("--max-failures", type=int, default=3, help="restarts of all workers")
    parser.add_argument("--storage", help="where hosts without a common disk keep the run, a URL")
    parser.add_argument("--records", help="where Ray keeps its own records, a path or URI")
    parser.add_argument("--run-dir", type=Path, help="by default runs/ray-<name of the config>")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --run-dir")
    parser.add_argument("--cache-dir", type=Path, default=Path(".data"), help="prepared data")
    args = parser.parse_args()
    folder = args.run_dir or Path("runs") / f"ray-{args.config.stem}"
    cluster = RayOptions(
        workers=parse_workers(args.workers),
        address=args.address,
        cpus_per_worker=args.cpus_per_worker,
        gpu=args.gpu,
        records=args.records,
        max_failures=args.max_failures,
    )
    options = RunOptions(args.cache_dir, resume=args.resume, storage=args.storage)
    seed = run_on_ray(load(args.config, args.set), folder, options, cluster)
    print(seed.plan)
    print(metrics_table(seed.metrics))
    print(f"{seed.fit.rows_per_second:,.0f} rows/s on {args.workers} workers; saved in {folder}")


if __name__ == "__main__":
    with exit_on_error():
        main()
