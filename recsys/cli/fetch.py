"""``recsys fetch`` fetches or makes a data set.

Stability: caller
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import click

from recsys.cli.options import CACHE_DIR, SET, examples
from recsys.errors import ConfigError, did_you_mean


@click.command(
    epilog=examples(r"""
    recsys fetch movielens --set edition=1m
    recsys fetch frappe --set path=~/data/frappe
    recsys fetch my_project.data.ClickLog
""")
)
@click.argument("dataset")
@SET
@CACHE_DIR
def fetch(dataset: str, overrides: tuple[str, ...], cache_dir: Path) -> None:
    """Fetches or makes a data set, or says where to get it.

    DATASET is a file name in recsys/datasets or the import path of your own class. --set gives its
    options.
    """
    from recsys.config import DatasetBlock, validate
    from recsys.data.readers import resolve_files
    from recsys.data.source import Source

    path = dataset if "." in dataset else _dataset_path(dataset)
    built = validate(DatasetBlock, {"class": path}, overrides, f"recsys fetch {dataset}").build()
    splits = built.splits(cache_dir)
    click.echo(f"{path}\n  source: {built.homepage or 'made here'}\n  licence: {built.licence}")
    for name in ("source", "train", "valid", "test"):
        source = getattr(splits, name, None)
        for file in resolve_files(source) if isinstance(source, Source) else ():
            label = "all rows" if name == "source" else name
            click.echo(f"  {label}: {file} ({Path(file).stat().st_size:,} bytes)")
    click.echo(f"  splits: {splits.kind}")


def _dataset_path(name: str) -> str:
    """The import path of the one data set in ``recsys/datasets/<name>.py``."""
    from recsys.data.dataset import Dataset

    package = importlib.import_module("recsys.datasets")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    if name not in names:
        raise ConfigError(
            f"recsys has no data set `{name}`. {did_you_mean(name, names)} A class of your own is "
            "given by its import path."
        )
    module = importlib.import_module(f"recsys.datasets.{name}")
    classes = [
        found
        for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, Dataset) and found.__module__ == module.__name__
    ]
    return f"{classes[0].__module__}.{classes[0].__qualname__}"
