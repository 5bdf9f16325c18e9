"""``recsys fetch`` fetches or makes a data set.

Stability: caller
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recsys.cli.options import CACHE_DIR, SET, examples
from recsys.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from recsys.config import AnyDatasetBlock
    from recsys.data.any_dataset import AnyDataset
    from recsys.data.dataset import Dataset
    from recsys.graph.aspect_dataset import AspectDataset
    from recsys.graph.bundle_dataset import BundleDataset
    from recsys.graph.concept_dataset import ConceptDataset
    from recsys.graph.dataset import InteractionDataset
    from recsys.graph.node_dataset import NodeDataset

    _Kind = tuple[type[AnyDatasetBlock[Any]], Callable[[str, Any, Path], None]]


@click.command(
    epilog=examples(r"""
    recsys fetch movielens --set edition=1m
    recsys fetch frappe --set path=~/data/frappe
    recsys fetch planted_communities --set num_users=500
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
    from recsys.config import validate

    path = dataset if "." in dataset else _dataset_path(dataset)
    block, tell = _kind(path)
    built = validate(block, {"class": path}, overrides, f"recsys fetch {dataset}").build()
    tell(path, built, cache_dir)


def _kind(path: str) -> _Kind:
    """The block that reads a data set, and what tells of it; a wrong path is for logs' block."""
    from recsys.cf_config import InteractionDatasetBlock
    from recsys.config import DatasetBlock
    from recsys.node_config import NodeDatasetBlock
    from recsys.set_config import AspectDatasetBlock, BundleDatasetBlock, ConceptDatasetBlock

    kinds = (
        (BundleDatasetBlock, _bundles),
        (ConceptDatasetBlock, _concepts),
        (InteractionDatasetBlock, _interactions),
        (AspectDatasetBlock, _aspects),
        (NodeDatasetBlock, _nodes),
    )
    return next((kind for kind in kinds if _is_a(path, kind[0].base)), (DatasetBlock, _log))


def _is_a(path: str, base: type) -> bool:
    """Whether a path names a concrete subclass; one that is wrong is told by its block."""
    from recsys.config import resolve_class

    try:
        resolve_class(path, base)
    except ConfigError:
        return False
    return True


def _log(path: str, built: Dataset, cache_dir: Path) -> None:
    """Files and splits of a log of clicks."""
    from recsys.data.readers import resolve_files
    from recsys.data.source import Source

    splits = built.splits(cache_dir)
    _origin(path, built)
    for name in ("source", "train", "valid", "test"):
        source = getattr(splits, name, None)
        for file in resolve_files(source) if isinstance(source, Source) else ():
            label = "all rows" if name == "source" else name
            click.echo(f"  {label}: {file} ({Path(file).stat().st_size:,} bytes)")
    click.echo(f"  splits: {splits.kind}")


def _interactions(path: str, built: InteractionDataset, cache_dir: Path) -> None:
    """Users, items and splits of interactions, and what was left out."""
    splits, knowledge = built.splits(cache_dir), built.knowledge(cache_dir)
    train = splits.train
    _origin(path, built)
    click.echo(f"  {train.num_users:,} users, {train.num_items:,} items")
    for name, part in splits.items():
        click.echo(f"  {name}: {len(part):,} interactions")
    if knowledge is not None:
        click.echo(
            f"  knowledge: {len(knowledge):,} triples, {len(knowledge.entities):,} entities, "
            f"{len(knowledge.relations):,} relations"
        )
    _report({**splits.report, **({} if knowledge is None else knowledge.report)})


def _nodes(path: str, built: NodeDataset, cache_dir: Path) -> None:
    """Nodes, edges and splits of a graph with classes, and what was left out."""
    nodes = built.nodes(cache_dir)
    _origin(path, built)
    counts = ", ".join(f"{count:,} {name}" for name, count in nodes.counts.items())
    click.echo(f"  {counts}; {nodes.num_edges:,} edges; {len(nodes.classes)} classes")
    for name, split in nodes.splits.items():
        click.echo(f"  {name}: {len(split):,} {nodes.target}")
    _report(nodes.report)


def _bundles(path: str, built: BundleDataset, cache_dir: Path) -> None:
    """Users, bundles, items and splits, and what was left out."""
    data = built.bundle_data(cache_dir)
    _origin(path, built)
    click.echo(
        f"  {data.num_users:,} users, {data.num_bundles:,} bundles, {data.num_items:,} items; "
        f"{len(data.bundles.item):,} items of bundles"
    )
    for name, part in data.user_bundle.items():
        click.echo(f"  {name}: {len(part):,} users' bundles")
    if data.user_item is not None:
        click.echo(f"  {len(data.user_item):,} users' items")
    _report(data.report)


def _aspects(path: str, built: AspectDataset, cache_dir: Path) -> None:
    """Items by split, and what is known of every aspect."""
    table = built.table(cache_dir)
    _origin(path, built)
    for split in ("train", "valid", "test"):
        click.echo(f"  {split}: {len(table.members(split)):,} items")
    _report(table.report)


def _concepts(path: str, built: ConceptDataset, cache_dir: Path) -> None:
    """Queries, items, concepts and splits, and what was left out."""
    found = built.matches(cache_dir)
    _origin(path, built)
    click.echo(
        f"  {len(found.queries):,} queries, {len(found.items):,} items, {len(found.concepts):,} "
        "concepts"
    )
    for name, part in found.relevance.items():
        click.echo(f"  {name}: {len(part):,} relevant pairs")
    _report(found.report)


def _origin(path: str, built: AnyDataset) -> None:
    click.echo(f"{path}\n  source: {built.homepage or 'made here'}\n  licence: {built.licence}")


def _report(report: Mapping[str, int]) -> None:
    for name, count in report.items():
        if count:
            click.echo(f"  {name.replace('_', ' ')}: {count:,}")


def _dataset_path(name: str) -> str:
    """The import path of the one data set in ``recsys/datasets/<name>.py``."""
    from recsys.data.any_dataset import AnyDataset

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
        if issubclass(found, AnyDataset) and found.__module__ == module.__name__
    ]
    return f"{classes[0].__module__}.{classes[0].__qualname__}"
