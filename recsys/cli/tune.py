"""``recsys tune`` searches embedding sizes, compression and other settings.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path

import click

from recsys.cli.options import CACHE_DIR, SET, examples


@click.command(
    epilog=examples(r"""
    recsys tune --sweep configs/sweeps/tune_movielens.yaml
    recsys tune --sweep configs/sweeps/tune_movielens.yaml --set trials=20 --set limits.bytes=100kB
    recsys tune --sweep configs/sweeps/tune_movielens.yaml --workers 2
    recsys tune --sweep configs/sweeps/tune_light_gcn.yaml
    recsys tune --sweep sweep.yaml --storage postgresql+psycopg://user@host/studies
    recsys tune --sweep sweep.yaml --ray --address auto --workers 16 --out /shared/runs/search
""")
)
@click.option("--sweep", required=True, type=click.Path(path_type=Path), help="What to search.")
@SET
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="The study; run again to go on. By default runs/<name of the sweep file>.",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Candidates trained at the same time; the cores are shared out among them.",
)
@click.option(
    "--storage",
    metavar="URL",
    help="A database that several machines share. By default a journal in --out.",
)
@click.option("--ray", "on_ray", is_flag=True, help="Workers are tasks of a Ray cluster.")
@click.option("--address", help="Of the Ray cluster, or auto. By default one is started here.")
@click.option("--keep-models", is_flag=True, help="Also of trials that are not on the front.")
@CACHE_DIR
def tune(
    sweep: Path,
    overrides: tuple[str, ...],
    out: Path | None,
    workers: int,
    storage: str | None,
    on_ray: bool,
    address: str | None,
    keep_models: bool,
    cache_dir: Path,
) -> None:
    """Searches settings of an experiment under limits of memory and time.

    Around models that predict clicks (auc, logloss, ...) and collaborative filters (ndcg@20, ...).
    Candidates that are too large are turned down before training. Writes the trials as a table, the
    front, plots, a page and best.yaml, which `recsys train` takes. Ctrl-C stops; running it again
    goes on.
    """
    from recsys.tune.report import report_text, write_report
    from recsys.tune.sweep import load_sweep
    from recsys.tune.tune import TuneOptions
    from recsys.tune.tune import tune as search

    plan = load_sweep(sweep, overrides)
    start = None
    if on_ray:
        from recsys.tune.ray_tune import on_cluster

        start = on_cluster(address)
    options = TuneOptions(
        workers=workers,
        storage=storage,
        cache_dir=cache_dir,
        keep_models=keep_models,
        say=click.echo,
        start=start,
    )
    folder = out or Path("runs") / sweep.stem
    study = search(plan, plan.experiment(sweep.parent), folder, options)
    files = write_report(study)
    click.echo(report_text(study))
    shown = [path for path in files if path.name in ("report.html", "trials.csv", "best.yaml")]
    click.echo(f"saved: {', '.join(str(path) for path in shown)}")
