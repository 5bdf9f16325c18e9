"""``recsys evaluate`` judges the model of a run.

Stability: caller
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from recsys.cli.options import CACHE_DIR, COLUMNS, RUN_DIR, examples, raw_rows
from recsys.errors import ConfigError


@click.command(
    epilog=examples(r"""
    recsys evaluate runs/first
    recsys evaluate runs/first --split valid --json
    recsys evaluate runs/first --data yesterday.parquet
""")
)
@RUN_DIR
@click.option("--split", type=click.Choice(["train", "valid", "test"]), help="Of the run's data.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A labelled CSV, TSV or Parquet file instead of a split.",
)
@COLUMNS
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@CACHE_DIR
def evaluate(
    run_dir: Path,
    split: str | None,
    data: Path | None,
    columns: str | None,
    as_json: bool,
    cache_dir: Path,
) -> None:
    """Judges the model of a run: AUC, logloss, calibration and more.

    Without --data on a split of the run's own data, by default test.
    """
    from recsys.data.encoder import FeatureEncoder
    from recsys.evaluate.stored import evaluate_run, evaluate_source
    from recsys.serving.folder import artefact_folder

    if data is not None and split is not None:
        raise ConfigError("--split and --data exclude each other: a split is of the run's data.")
    if data is not None:
        encoder = FeatureEncoder.load(artefact_folder(run_dir) / "encoder")
        evaluation = evaluate_source(run_dir, raw_rows(data, columns, encoder.state.null_values))
    else:
        evaluation = evaluate_run(run_dir, split or "test", cache_dir)
    if as_json:
        click.echo(json.dumps(evaluation.to_json(), indent=1))
    else:
        click.echo(f"{evaluation.name}: {evaluation.rows:,} rows\n{evaluation.table()}")
