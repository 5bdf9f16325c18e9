"""``recsys compress`` compares the schemes of compression under budgets.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path

import click

from recsys.cli.options import CACHE_DIR, CONFIG, SEEDS, SET, examples, settings
from recsys.errors import ConfigError


@click.command(
    epilog=examples(r"""
    recsys compress --config configs/ctr/dcn_v2.yaml --budget 0.1,0.01
    recsys compress --config configs/ctr/dcn_v2.yaml --budget 0.1 \
        --schemes "hash, unified, {kind: hash, multiplex: true}" --seeds 1,2,3
    recsys compress --config configs/ctr/dcn_v2.yaml --dtypes fp32,int8,int4 --jobs 2
    recsys compress --config configs/graph/light_gcn.yaml --budget 0.5,0.25 --dtypes fp32,int4
""")
)
@CONFIG
@SET
@click.option(
    "--budget",
    default="0.5,0.25,0.1,0.01,0.001",
    show_default=True,
    metavar="R,R,...",
    help="Shares of the full tables' bytes.",
)
@click.option(
    "--schemes", default="all", show_default=True, help="`all`, or kinds and {kind: ...} by commas."
)
@click.option(
    "--dtypes", default="fp32", show_default=True, help="How each trained model is frozen as well."
)
@SEEDS
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Trainings at the same time; the cores are shared out among them.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Results; run again to go on. By default runs/compress-<name of the config file>.",
)
@CACHE_DIR
def compress(
    config: Path,
    overrides: tuple[str, ...],
    budget: str,
    schemes: str,
    dtypes: str,
    seeds: str | None,
    jobs: int,
    out: Path | None,
    cache_dir: Path,
) -> None:
    """Says what is lost when the embedding tables must fit in so many bytes.

    Trains every scheme at every budget it can reach, beside the full tables, and writes a table, a
    plot of AUC against real bytes with the Pareto front, and a recommendation. Collaborative
    filters are compared by train.monitor, with schemes of one training. Ctrl-C stops; running it
    again goes on with what is missing.
    """
    from recsys.tune.compression import CompareOptions, compare, parse_dtypes, parse_schemes
    from recsys.tune.compression_report import report_text, write_report
    from recsys.tune.experiment_kinds import load_searched

    experiment = load_searched(config, settings(overrides, seeds))
    try:
        budgets = tuple(float(part) for part in budget.split(","))
    except ValueError:
        raise ConfigError(f"--budget {budget}: expected numbers by commas, say 0.1,0.01.") from None
    options = CompareOptions(budgets, parse_dtypes(dtypes), jobs, cache_dir, click.echo)
    folder = out or Path("runs") / f"compress-{experiment.name or config.stem}"
    comparison = compare(experiment, parse_schemes(schemes), folder, options)
    files = write_report(comparison, budgets)
    click.echo(report_text(comparison, budgets))
    click.echo(f"saved: {', '.join(str(path) for path in files)}")
