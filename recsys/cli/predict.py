"""``recsys predict`` predicts the rows of a file.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path

import click

from recsys.cli.options import COLUMNS, RUN_DIR, examples, raw_rows


@click.command(
    epilog=examples(r"""
    recsys predict runs/first rows.csv -o predictions.parquet --keep request_id
    recsys predict runs/first rows.tsv.gz -o out.parquet --columns user,item,hour
""")
)
@RUN_DIR
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Parquet file to write."
)
@click.option("--keep", multiple=True, metavar="COLUMN", help="Input column to copy. Repeatable.")
@COLUMNS
@click.option("--batch-size", default=8192, show_default=True, help="Rows computed at once.")
@click.option("--num-threads", type=click.IntRange(min=1), help="Threads of torch.")
@click.option(
    "--negative-rate",
    type=float,
    help="Share of negatives kept for training; undoes the down-sampling.",
)
def predict(
    run_dir: Path,
    source: Path,
    out: Path,
    keep: tuple[str, ...],
    columns: str | None,
    batch_size: int,
    num_threads: int | None,
    negative_rate: float | None,
) -> None:
    """Predicts every row of INPUT (CSV, TSV or Parquet, any size) into a Parquet file.

    Rows come out in input order, with a column `prediction` (with several labels
    `prediction.<label>`). Ids that training did not see count as unknown; columns the model does
    not read are ignored.
    """
    from recsys.serving.predictor import Predictor

    predictor = Predictor.load(
        run_dir, num_threads=num_threads, batch_size=batch_size, negative_rate=negative_rate
    )
    nulls = predictor.encoder.state.null_values
    rows = predictor.predict_file(raw_rows(source, columns, nulls), out, keep)
    click.echo(f"{rows:,} rows predicted to {out}")
