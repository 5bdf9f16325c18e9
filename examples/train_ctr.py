"""Trains a click model and shows what came out. Without arguments: about a minute, no download.

    python examples/train_ctr.py                                     # generated data, DeepFM
    python examples/train_ctr.py --config configs/ctr/deep_fm.yaml --set model.embedding_dim=32
    python examples/train_ctr.py --data clicks.csv --label click     # your own file
    python examples/train_ctr.py --ranks 2                           # tables sharded by TorchRec

A logistic regression (LR) is trained beside the model on the same rows, and where the data is
generated the best reachable metrics (oracle) are known: the table shows all three. The same job
without the extras is ``recsys train --config ...``.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

from recsys.config import DatasetBlock, Experiment, ModelBlock, load
from recsys.data.source import RandomSplits, Source
from recsys.datasets.click_log import ClickLog
from recsys.errors import ConfigError, exit_on_error
from recsys.evaluate.summary import metrics_table
from recsys.serving.predictor import Predictor
from recsys.train.run import RunOptions, RunResult, run

ROOT = Path(__file__).resolve().parent.parent
FORMATS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, default=ROOT / "configs/ctr/deep_fm.yaml", help="experiment (YAML)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="PLACE=VALUE", help="change one setting"
    )
    parser.add_argument(
        "--data", help="train on this CSV, TSV or Parquet file instead of the config's data set"
    )
    parser.add_argument("--label", help="the label's column in --data (0 and 1)")
    parser.add_argument("--ranks", type=int, default=1, help="local processes that share tables")
    parser.add_argument("--run-dir", type=Path, help="by default runs/<time>-<model>")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --run-dir")
    parser.add_argument("--no-baseline", action="store_true", help="leave out the LR baseline")
    parser.add_argument("--cache-dir", type=Path, default=Path(".data"), help="prepared data")
    return parser.parse_args()


def own_data(path: str, label: str | None) -> DatasetBlock:
    """A data set block for one file: inferred schema, random split."""
    kind = FORMATS.get(Path(path).suffix)
    if kind is None:
        raise ConfigError(
            f"--data {path}: expected a file ending in {', '.join(FORMATS)}. For other formats "
            "and several files write a config with recsys.datasets.click_log.ClickLog."
        )
    if label is None:
        raise ConfigError("--data needs --label: the column with 1 for a click and 0 for none.")
    source = Source.model_validate({"files": (path,), "format": kind})
    schema = ClickLog.infer(source, label)
    print("schema    inferred; read it before you trust it:")
    for feature in schema.features:
        print(f"          {feature.kind:<13}{feature.name}")
    config = ClickLog.Config(splits=RandomSplits(source=source), schema=schema)  # pyright: ignore
    return DatasetBlock.model_validate(
        {"class": "recsys.datasets.click_log.ClickLog", "config": config}
    )


def baseline_of(experiment: Experiment) -> Experiment:
    """The same job with a logistic regression."""
    model = ModelBlock.model_validate({"class": "recsys.models.ctr.lr.LR"})
    return experiment.model_copy(update={"model": model})


def print_data(result: RunResult, experiment: Experiment) -> None:
    """What was trained on."""
    assert result.prepared is not None  # as of every model of clicks
    schema, rows = result.prepared.schema, result.prepared.split_rows
    name = experiment.dataset.class_path.rpartition(".")[2]
    splits = ", ".join(f"{split} {count:,}" for split, count in rows.items())
    ids = sum(schema.num_embeddings().values())
    print(f"data      {name}: {splits} rows; ready after {result.prepare_seconds:.1f} s")
    print(
        f"          {len(schema.numeric)} numbers, {len(schema.keys)} features with ids "
        f"({ids:,} ids), {len(schema.vectors)} vectors, {schema.num_tasks} label(s)"
    )


def print_model(result: RunResult, experiment: Experiment) -> None:
    """What was trained, and how it went."""
    seed = result.seeds[0]
    held, count = seed.table_bytes, seed.num_parameters
    print(
        f"model     {experiment.model.class_path.rpartition('.')[2]}: dense {count['dense']:,} "
        f"parameters, tables {count['tables']:,}"
    )
    print(
        f"tables    {held['tables'] / 2**20:.1f} MiB, with optimizer states "
        f"{held['total'] / 2**20:.1f} MiB; backend {seed.backend}"
    )
    if seed.plan:
        print("\n".join(f"          {line}" for line in seed.plan.splitlines()))
    fit = seed.fit
    print(
        f"training  {fit.steps:,} steps, {fit.rows_per_second:,.0f} rows/s, "
        f"ended by {fit.stopped}, best at step {fit.best_step:,}"
    )


def print_metrics(result: RunResult, baseline: RunResult | None) -> None:
    """Model, baseline and oracle side by side."""
    split = "test" if result.metrics("test") else "valid"
    rows = {"model": result.metrics(split)}
    if not rows["model"]:
        return
    if baseline is not None:
        rows["LR"] = baseline.metrics(split)
    oracle = result.oracle.get(split, {})
    if oracle:
        rows["oracle"] = {name: oracle[name] for name in ("auc", "logloss")}
    print(f"\nmetrics of the {split} split\n{metrics_table(rows)}")
    if oracle:
        share = (rows["model"]["auc"] - 0.5) / (oracle["auc"] - 0.5)
        print(f"the model recovers {share:.1%} of (oracle AUC - 0.5)")


def main() -> None:
    """Runs the job."""
    args = arguments()
    experiment = load(args.config, args.set)
    if args.data:
        experiment = experiment.model_copy(update={"dataset": own_data(args.data, args.label)})
    name = experiment.model.class_path.rpartition(".")[2].lower()
    folder = args.run_dir or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    options = RunOptions(cache_dir=args.cache_dir, ranks=args.ranks, resume=args.resume)
    print(f"run       {folder} ({args.config})")
    result = run(experiment, folder, options)
    if result.interrupted:
        print(f"interrupted; go on with: {shlex.join(sys.argv)} --run-dir {folder} --resume")
        sys.exit(130)
    baseline = None
    if not args.no_baseline and name != "lr":
        print("baseline  LR on the same rows")
        there = (folder / "baseline-lr" / "config.json").exists()
        quiet = RunOptions(cache_dir=args.cache_dir, resume=there, show="none")
        baseline = run(baseline_of(experiment), folder / "baseline-lr", quiet)
    print_data(result, experiment)
    print_model(result, experiment)
    print_metrics(result, baseline)
    served = result.seeds[0].directory / "model"
    Predictor.load(served)
    print(f"\nsaved     {folder}/ (MODEL_CARD.md, plots/, metrics.jsonl, predictions.parquet)")
    print(f"          serve it: Predictor.load({str(served)!r}).predict(rows)")


if __name__ == "__main__":
    with exit_on_error():
        main()
