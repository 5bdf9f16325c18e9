"""What several commands share: options, the form of their examples, and how options are read.

Stability: internal
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from recsys.data.source import Source

CACHE_DIR = click.option(
    "--cache-dir",
    default=".data",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where data is fetched to and prepared.",
)
COLUMNS = click.option(
    "--columns", metavar="A,B,...", help="Column names of a file without a header line."
)
CONFIG = click.option(
    "--config", required=True, type=click.Path(path_type=Path), help="Experiment (YAML)."
)
RUN_DIR = click.argument("run_dir", type=click.Path(path_type=Path))
SEEDS = click.option("--seeds", metavar="N,N,...", help="One training each; reports mean and sd.")
SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PLACE=VALUE",
    help="Change one setting, for example train.batch_size=1024. The value is YAML. Repeatable.",
)


def examples(text: str) -> str:
    """Help text that click leaves as it is written.

    Args:
        text: Commands, a line each; indented as one likes.
    """
    return "\b\nExamples:\n" + textwrap.indent(textwrap.dedent(text).strip("\n"), "  ")


def settings(overrides: tuple[str, ...], seeds: str | None) -> list[str]:
    """All changes to a configuration file, in the form of ``--set``.

    Args:
        overrides: Of ``--set``.
        seeds: Of ``--seeds``; they win.
    """
    return [*overrides, *([f"seeds=[{seeds}]"] if seeds else [])]


def raw_rows(path: Path, columns: str | None, null_values: tuple[str, ...]) -> Source:
    """A file of raw rows, read like the training files.

    Args:
        path: CSV, TSV or Parquet.
        columns: Of ``--columns``.
        null_values: What meant a missing value in training.
    """
    from recsys.serving.predictor import source_of

    names = tuple(name.strip() for name in columns.split(",")) if columns else None
    return source_of(path, columns=names, null_values=null_values or ("",))
