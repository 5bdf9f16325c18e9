"""``recsys export`` writes the model of a run for serving.

Stability: caller
"""

from __future__ import annotations

from pathlib import Path

import click

from recsys.cli.options import RUN_DIR, examples


@click.command(
    epilog=examples(r"""
    recsys export runs/first -o first.pt2
    recsys export runs/first --freeze int8 --to models/first-int8
    recsys export runs/first --freeze int4 --to first-int4.pt2
""")
)
@RUN_DIR
@click.option(
    "-o",
    "--out",
    "--to",
    "out",
    required=True,
    type=click.Path(path_type=Path),
    help=".pt2 file to write; with --freeze also a model folder.",
)
@click.option(
    "--freeze",
    "dtype",
    metavar="DTYPE",
    help="Freeze the tables, their rows in fp32, fp16, int8, int4 or int2.",
)
def export(run_dir: Path, out: Path, dtype: str | None) -> None:
    """Exports the model of a run for serving.

    To a .pt2 file: with torch.export, for runtimes without recsys. The program takes plain tensors
    (dense, values, lengths) of any batch size and gives logits; OUT.json beside it says in which
    order. It is compared with the model before it is written.

    To a folder, with --freeze: a model for Predictor and `recsys predict`, with the tables in the
    form and the dtype they are served in, and nothing that only training needs.
    """
    from recsys.embeddings.row_format import check_dtype
    from recsys.serving.export import export as export_model
    from recsys.serving.freeze import freeze_artefact

    known = None if dtype is None else check_dtype(dtype)
    if known is not None and out.suffix != ".pt2":
        frozen = freeze_artefact(run_dir, out, known)
        share = frozen.table_bytes / max(frozen.trained_bytes, 1)
        click.echo(
            f"frozen in {frozen.dtype} to {frozen.folder}: tables of {frozen.table_bytes:,} bytes, "
            f"{share:.3f} of the {frozen.trained_bytes:,} in training"
        )
        return
    path = export_model(run_dir, out, dtype=known)
    click.echo(f"exported to {path}; inputs are described in {path}.json")
