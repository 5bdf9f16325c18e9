"""Completes bundles from some of their items, and makes whole ones under rules. No download.

    python examples/complete_bundles.py
    python examples/complete_bundles.py --config configs/bundle/text_pool.yaml
    python examples/complete_bundles.py --size 5 --max-price 40 --beams 16

The data is generated: bundles have themes, and items texts, prices and categories. A part of the
bundles is held out whole; half the items of each are given, and the rest is asked. The best
reachable ranking (oracle) is known. The model stands beside what needs no training. Then held-out
bundles are completed to a size and within a price, with items of at least two categories. The
picture shows how near models come to the oracle, and what was added to what was given.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from recsys.cf_config import CFExperiment, load_any
from recsys.config import validate
from recsys.datasets.planted_bundles import PlantedBundles
from recsys.errors import ConfigError, exit_on_error
from recsys.evaluate.summary import text_table
from recsys.graph.bundle_completion import HeldOutBundles
from recsys.graph.bundles import BundleData
from recsys.serving.bundle_maker import BundleMaker, BundleRules, MadeBundle
from recsys.serving.recommender import Recommender
from recsys.train import plots
from recsys.train.run import RunOptions, run

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
BASES = [CONFIGS / name for name in ("graph/most_pop.yaml", "graph/item_knn.yaml",
                                     "bundle/text_pool.yaml")]  # fmt: skip
CACHE = Path(".data")
K = 20


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, default=CONFIGS / "bundle/clhe.yaml", help="experiment (YAML)"
    )
    parser.add_argument("--size", type=int, default=6, help="items of a made bundle")
    parser.add_argument("--max-price", type=float, default=80.0, help="of all its items")
    parser.add_argument("--diversity", type=float, default=0.5, help="how much likeness costs")
    parser.add_argument("--beams", type=int, default=8, help="bundles followed side by side")
    parser.add_argument("--show", type=int, default=4, help="bundles that are shown")
    parser.add_argument("--run-dir", type=Path, help="by default runs/<time>-completion")
    return parser.parse_args()


def experiments(path: Path) -> dict[str, CFExperiment]:
    """The baselines, on the data of the experiment, and the experiment."""
    last = load_any(path)
    if not isinstance(last, CFExperiment) or not isinstance(last.dataset.build(), PlantedBundles):
        raise ConfigError(f"{path}: expected planted bundles. For others use `recsys train`.")
    found = {}
    for base in BASES:
        experiment = load_any(base)
        assert isinstance(experiment, CFExperiment)
        found[base.stem] = experiment.model_copy(update={"dataset": last.dataset})
    return {**found, path.stem: last}


def oracle_recall(source: PlantedBundles, test: HeldOutBundles) -> float:
    """Recall of the ranking by the truth."""
    count = test.given.num_bundles
    given = [test.given.items_of(place) for place in range(count)]
    scores = source.completion_oracle(given)
    found = 0.0
    for place in range(count):
        scores[place, given[place]] = -np.inf
        asked = test.asked.items_of(place)
        best = np.argsort(-scores[place], kind="stable")[:K]
        found += np.isin(best, asked).sum() / len(asked)
    return found / count


def made_bundles(
    recommender: Recommender, test: HeldOutBundles, rules: BundleRules, count: int
) -> dict[int, tuple[MadeBundle, MadeBundle]]:
    """Of the first held-out bundles, by their place: completed freely, and under the rules."""
    maker, free = BundleMaker(recommender), BundleRules(size=rules.size)
    prices, found = maker.prices, {}
    for place in range(test.given.num_bundles):
        given = test.given.items_of(place)
        room = prices is None or rules.max_price is None or prices[given].sum() < rules.max_price
        if 2 <= len(given) < rules.size and room and len(found) < count:
            names = recommender.items.values[given].tolist()
            found[place] = (maker.make(names, free)[0], maker.make(names, rules)[0])
    return found


def print_bundle(title: str, bundle: MadeBundle, data: BundleData, asked: np.ndarray) -> None:
    """Its items with their texts; a star for those that were held out."""
    assert data.item_texts is not None
    print(f"  {title}, price {bundle.price:.2f}")
    for number, item in enumerate(bundle.items):
        mark = "  " if number < bundle.given else ("* " if item in asked else "+ ")
        print(f"    {mark}{data.item_texts[item]}")


def draw(
    path: Path,
    found: dict[str, float],
    made: dict[int, tuple[MadeBundle, MadeBundle]],
    data: BundleData,
    test: HeldOutBundles,
) -> None:
    """Recall of every model, and bundles as rows of squares."""
    assert data.item_texts is not None
    community = [int(text.partition("community ")[2].split()[0]) for text in data.item_texts]

    def paint(figure: Any) -> None:
        left, right = figure.subplots(1, 2, width_ratios=(2, 3))
        bars = left.bar(list(found), list(found.values()), color=plots.color(0))
        left.bar_label(bars, fmt="%.3f", fontsize=8)
        left.set_title(f"recall@{K} of what was held out")
        left.tick_params(axis="x", rotation=20)
        left.grid(visible=False, axis="x")
        y = 0.0
        for place, (free, ruled) in made.items():
            for name, bundle in (("free", free), ("rules", ruled)):
                y -= 1
                for x, item in enumerate(bundle.items):
                    color = plots.color(community[item])
                    inside = color if x < bundle.given else "none"
                    right.scatter(x, y, marker="s", s=90, facecolors=inside, edgecolors=color,
                                  linewidths=1.6)  # fmt: skip
                    if x >= bundle.given and item in test.asked.items_of(place):
                        right.scatter(x, y, marker="*", s=30, color=color)
                right.text(len(bundle.items), y, f"{name}, {bundle.price:.0f}", fontsize=8,
                           va="center")  # fmt: skip
            y -= 0.7
        right.set_xlim(-0.6, 10)
        right.set_ylim(y, 0)
        right.axis("off")
        right.set_title("given (filled), added (hollow), added and held out (star);\n"
                        "colours are communities, numbers prices", fontsize=9)  # fmt: skip

    plots.draw(path, paint, (11.0, 5.0))


def main() -> None:
    """Trains, judges, makes bundles, shows."""
    args = arguments()
    if not args.size >= 3 or not args.show >= 1:
        raise ConfigError(
            f"expected --size of at least 3 and --show of at least 1, got {args.size}, {args.show}."
        )
    asked_rules = {
        name: getattr(args, name) for name in ("size", "max_price", "diversity", "beams")
    }
    rules = validate(BundleRules, {**asked_rules, "most_each": args.size - 2}, (), "the flags")
    jobs = experiments(args.config)
    folder = args.run_dir or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-completion"
    *_, chosen = jobs
    source = jobs[chosen].dataset.build()
    assert isinstance(source, PlantedBundles)
    data, test = source.bundle_data(CACHE), source.completion(CACHE).test
    assert test is not None
    found, recommender = {}, None
    for name, experiment in jobs.items():
        print(f"run       {folder / name}: {experiment.model.class_path}", flush=True)
        result = run(experiment, folder / name, RunOptions())
        if result.interrupted:
            sys.exit(130)
        found[name] = result.metrics("test")[f"recall@{K}"]
        recommender = Recommender.load(result.seeds[0].directory)
    assert recommender is not None
    found["oracle"] = oracle_recall(source, test)
    rows = [[name, value] for name, value in found.items()]
    print(f"\n{text_table(['completion', f'recall@{K}'], rows)}\n")
    made = made_bundles(recommender, test, rules, args.show)
    for place, (free, ruled) in made.items():
        asked = test.asked.items_of(place)
        print(f"bundle {test.given.bundles.values[place]}: + is added, * was held out")
        print_bundle("without rules", free, data, asked)
        print_bundle("under rules", ruled, data, asked)
    print(f"\nsaved     {folder}/ (a run folder for each model)")
    if plots.available():
        draw(folder / "completion.png", found, made, data, test)
        print(f"          {folder / 'completion.png'}")


if __name__ == "__main__":
    with exit_on_error():
        main()
