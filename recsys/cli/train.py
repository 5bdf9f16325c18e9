"""``recsys train`` trains a model from a configuration file.

Stability: caller
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recsys.cli.options import CACHE_DIR, CONFIG, SEEDS, SET, examples, settings

if TYPE_CHECKING:
    from recsys.train.run import RunResult


@click.command(
    epilog=examples(r"""
    recsys train --config configs/ctr/deep_fm.yaml
    recsys train --config configs/ctr/deep_fm.yaml --run-dir runs/wide \
        --set model.embedding_dim=32 --set train.learning_rate=3e-4
    recsys train --config configs/ctr/deep_fm.yaml --run-dir runs/wide --resume
    recsys train --config configs/ctr/deep_fm.yaml --seeds 1,2,3
    recsys train --config configs/ctr/dlrm.yaml --ranks 2
    torchrun --nproc-per-node 2 -m recsys train --config configs/ctr/dlrm.yaml
    recsys train --config configs/ctr/dlrm.yaml --ray --workers 2
    recsys train --config configs/ctr/dlrm.yaml --ray --address auto --workers 4:16 \
        --storage s3://bucket/runs/dlrm
    recsys train --config configs/ctr/lr.yaml \
        --set "dataset={class: recsys.datasets.criteo.Criteo, path: train.txt}"
""")
)
@CONFIG
@SET
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where everything is saved. By default runs/<name of the config file>.",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted run in --run-dir.")
@click.option(
    "--ranks",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Processes on this machine; more than one shards the tables with torchrec.",
)
@SEEDS
@click.option("--ray", "on_ray", is_flag=True, help="On the workers of a Ray cluster.")
@click.option("--address", help="Of the Ray cluster, or auto. By default one is started here.")
@click.option(
    "--workers",
    default="2",
    show_default=True,
    metavar="N or N:M",
    help="Ray workers; each is a rank. N:M takes as many as there is room for, also later.",
)
@click.option(
    "--storage",
    metavar="URL",
    help="Where hosts that share no disk keep checkpoints and a copy of the run, say s3://b/run.",
)
@click.option(
    "--timeout",
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long ranks wait for each other before they fail.",
)
@CACHE_DIR
def train(
    config: Path,
    overrides: tuple[str, ...],
    run_dir: Path | None,
    resume: bool,
    ranks: int,
    seeds: str | None,
    on_ray: bool,
    address: str | None,
    workers: str,
    storage: str | None,
    timeout: float,
    cache_dir: Path,
) -> None:
    """Trains a model from a configuration file.

    Prepares the data (once; later runs find it), trains with early looks at the validation split,
    and saves the best model with its metrics, plots and MODEL_CARD.md. Ctrl-C saves and stops;
    --resume goes on from there as if nothing had happened.
    """
    from recsys.cf_config import load_any
    from recsys.evaluate.summary import metrics_table
    from recsys.train.run import RunOptions, run
    from recsys.train.torchrun import is_first

    experiment = load_any(config, settings(overrides, seeds))
    folder = run_dir or Path("runs") / (experiment.name or config.stem)
    options = RunOptions(cache_dir, resume=resume, ranks=ranks, storage=storage, timeout_s=timeout)
    if on_ray:
        from recsys.train.ray_train import RayOptions, parse_workers, run_on_ray

        cluster = RayOptions(parse_workers(workers), address)
        metrics = run_on_ray(experiment, folder, options, cluster).metrics
    else:
        result = run(experiment, folder, options)
        if result.interrupted:  # the trainer has said where it is saved and how to go on
            sys.exit(130)
        if not is_first():
            return
        metrics = _over_seeds(result)
    click.echo(metrics_table(metrics))
    click.echo(f"saved in {folder}: model, metrics, plots, MODEL_CARD.md")


def _over_seeds(result: RunResult) -> dict[str, dict[str, float]]:
    """Mean of every split, and with several seeds the standard deviation."""
    lines = {}
    for split in ("valid", "test"):
        spread = result.spread(split)
        if spread:
            lines[split] = {name: value["mean"] for name, value in spread.items()}
        if spread and len(result.seeds) > 1:
            lines[f"{split} sd"] = {name: value["sd"] for name, value in spread.items()}
    return lines
