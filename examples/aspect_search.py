r"""Finds items that are alike in one respect, and shows what keeps respects apart. No download.

    python examples/aspect_search.py                                  # made items, four models
    python examples/aspect_search.py --item 17 --k 5
    python examples/aspect_search.py --set model.text.num_buckets=4096 \
        --set "dataset={class: recsys.datasets.scirex.SciREX, path: .data/scirex_train}"

The items are generated: what a text says of each aspect is planted, most of it of the first. Four
models are compared: retrofitting and a classifier of pairs (baselines of Ostendorff et al.), one
head for all aspects, and a head for each. The table has MAP of every aspect, and of vectors of one
aspect judged by another (off aspect: lower is better apart). The same for one model is ``recsys
train --config configs/aspect/aspect_embedding.yaml``.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from recsys.aspect_config import AspectExperiment
from recsys.aspect_model import AspectModel
from recsys.cf_config import load_any
from recsys.errors import ConfigError, DataError, exit_on_error
from recsys.evaluate.aspects import GENERIC, AspectEvaluation
from recsys.evaluate.stored_aspects import evaluate_aspect_run
from recsys.evaluate.summary import text_table
from recsys.graph.products import dense
from recsys.retrieval.index import Index
from recsys.serving.aspect_folder import aspect_vectors, load_aspects
from recsys.train import plots
from recsys.train.aspect_plots import leakage_table
from recsys.train.run import RunOptions, run

FOLDER = Path(__file__).resolve().parent.parent / "configs/aspect"
MODELS = {
    "retrofitting": ("retrofitting", ()),
    "classifier": ("pairwise_classifier", ()),
    "one head": ("aspect_embedding", ("model.heads=shared",)),
    "heads": ("aspect_embedding", ()),
}
"""Configuration file and settings of every model; the last one is shown."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="PLACE=VALUE",
        help="change one setting of all experiments; settings of `model` only of heads",
    )  # fmt: skip
    parser.add_argument("--item", help="whose neighbours are shown; by default one of test")
    parser.add_argument("--k", type=int, default=4, help="how many neighbours")
    parser.add_argument("--run-dir", type=Path, help="by default runs/<time>-aspects")
    parser.add_argument("--cache-dir", type=Path, default=Path(".data"), help="data files")
    return parser.parse_args()


def experiments(settings: list[str]) -> dict[str, AspectExperiment]:
    """What to train, by name."""
    found = {}
    for name, (file, own) in MODELS.items():
        of_heads = file == "aspect_embedding"
        wanted = [one for one in settings if of_heads or not one.startswith("model.")]
        experiment = load_any(FOLDER / f"{file}.yaml", [*wanted, *own])
        if not isinstance(experiment, AspectExperiment):
            raise ConfigError(f"{file}.yaml: expected a model of aspects.")
        found[name] = experiment
    return found


def by_aspect(found: dict[str, AspectEvaluation]) -> dict[str, list[float]]:
    """MAP of every model by aspect, the generic vector first."""
    last = list(found.values())[-1]
    rows = {GENERIC: last.leakage[-1].tolist()}
    return rows | {name: np.diag(each.leakage).tolist() for name, each in found.items()}


def print_metrics(found: dict[str, AspectEvaluation]) -> None:
    """MAP by aspect and model; the whole leakage matrix of the last."""
    last = list(found.values())[-1]
    off = {name: each.metrics[f"off_aspect.map@{last.k}"] for name, each in found.items()}
    rows = [[name, *values, off.get(name)] for name, values in by_aspect(found).items()]
    print(f"\n{text_table([f'test, map@{last.k}', *last.aspects, 'off aspect'], rows)}")
    print(f"\n{last.table()}")


def print_neighbours(model: AspectModel, wanted: str | None, k: int) -> None:
    """What is near one item in every aspect, and by the generic vector; what they share."""
    table = model.table
    number = int(table.members("test")[0])
    if wanted is not None:
        ids = [str(value) for value in table.items.values.tolist()]
        if wanted not in ids:
            raise DataError(f"item {wanted!r} is not known. Items are like {ids[0]!r}.")
        number = ids.index(wanted)
    item = table.items.values[number]
    print(f"\nitem {item}: {table.labels_of(number)}\n  {table.texts[number][:160]}")
    generic = dense(model.generic())
    for aspect in (*model.aspects, GENERIC):
        vectors = generic if aspect == GENERIC else aspect_vectors(model, aspect).values
        hits = Index(vectors, table.items.values).search(vectors[number], k, exclude=[item])[0]
        print(f"\nnearest by {'the vectors of ' if aspect != GENERIC else ''}{aspect}")
        rows = []
        for found, score in zip(hits.ids, hits.scores):
            other = int(table.items.numbers([found])[0])
            mine, theirs = table.labels_of(number), table.labels_of(other)
            shared = [", ".join(sorted(set(mine.get(a, ())) & set(theirs.get(a, ())))) or "-"
                      for a in model.aspects]  # fmt: skip
            rows.append([str(found), float(score), *shared])
        columns = ["item", "cosine", *(f"shared {aspect}" for aspect in model.aspects)]
        print(text_table(columns, rows))


def draw(path: Path, model: AspectModel, found: dict[str, AspectEvaluation]) -> None:
    """MAP of the models, the leakage matrix, and items on maps of three kinds of vectors."""
    last = list(found.values())[-1]

    def paint(figure: Any) -> None:
        upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.05))
        left, right = upper.subplots(1, 2, width_ratios=(1.5, 1))
        paint_bars(left, by_aspect(found), last)
        leakage_table(right, last)
        first, second = model.aspects[0], model.aspects[-1]
        sources = {
            f"generic, by labels of {first}": dense(model.generic()),
            f"vectors of {first}, by labels of {first}": model.vectors(first).numpy(),
            f"vectors of {second}, by labels of {first}": model.vectors(second).numpy(),
        }
        for axis, (title, vectors) in zip(lower.subplots(1, 3), sources.items()):
            paint_map(axis, title, vectors, model, first)

    plots.draw(path, paint, (11, 8))


def paint_bars(axis: Any, rows: dict[str, list[float]], last: AspectEvaluation) -> None:
    """One group of bars for every aspect."""
    width = 0.8 / len(rows)
    for place, (name, values) in enumerate(rows.items()):
        at = np.arange(len(values)) + (place - (len(rows) - 1) / 2) * width
        color = "#b8bcc4" if name == GENERIC else plots.color(place)
        axis.bar(at, values, width * 0.92, label=name, color=color)
    axis.set_xticks(range(len(last.aspects)), last.aspects)
    axis.set_title(f"MAP@{last.k} on test, items never seen")
    axis.grid(visible=False, axis="x")
    axis.legend(ncols=2, fontsize=8)


def paint_map(axis: Any, title: str, vectors: np.ndarray, model: AspectModel, aspect: str) -> None:
    """Items of the most frequent labels along the two widest directions of their vectors."""
    item, label = model.table.labels_in(aspect)
    frequent = np.argsort(-np.bincount(label), kind="stable")[:5]
    chosen = np.unique(item[np.isin(label, frequent)])
    rows = vectors[chosen] - vectors[chosen].mean(0)
    flat = rows @ np.linalg.svd(rows, full_matrices=False)[2][:2].T
    for number, one in enumerate(frequent):
        inside = np.isin(chosen, item[label == one])
        axis.scatter(*flat[inside].T, s=14, alpha=0.75, color=plots.color(number),
                     label=model.table.labels[one])  # fmt: skip
    axis.set_title(title, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.legend(fontsize=7, loc="best")


def main() -> None:
    """Runs the jobs."""
    args = arguments()
    folder = args.run_dir or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-aspects"
    folders, found = {}, {}
    for name, experiment in experiments(args.set).items():
        place = folder / name.replace(" ", "_")
        print(f"run       {place}: {experiment.model.class_path}", flush=True)
        result = run(experiment, place, RunOptions(cache_dir=args.cache_dir))
        if result.interrupted:
            print(f"interrupted; go on with: recsys train --config {place}/config.json "
                  f"--run-dir {place} --resume")  # fmt: skip
            sys.exit(130)
        folders[name] = result.seeds[0].directory
        found[name] = evaluate_aspect_run(folders[name])
    print_metrics(found)
    last = list(folders.values())[-1]
    model = load_aspects(last)
    print_neighbours(model, args.item, args.k)
    print(f"\nsaved     {folder}/ (a run folder for each model)")
    if plots.available():
        draw(folder / "aspects.png", model, found)
        print(f"          {folder / 'aspects.png'}")
    print(f"          use it: aspect_vectors(load_aspects({str(last)!r}), {model.aspects[0]!r})")


if __name__ == "__main__":
    with exit_on_error():
        main()
