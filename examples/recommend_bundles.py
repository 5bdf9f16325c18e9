"""Recommends bundles to users, and shows what looking into bundles is good for. No download.

    python examples/recommend_bundles.py                     # baselines, and CrossCBR twice
    python examples/recommend_bundles.py --config configs/bundle/multi_cbr.yaml
    python examples/recommend_bundles.py --user 17 --k 5

The data is generated: bundles have themes, users like some of them, and a few bundles are new, so
that nobody in training took them. The best reachable ranking (oracle) is known. The model is
trained twice: as in its paper, and with ``unseen: nothing``, which ranks new bundles by what is in
them. The picture shows how near models come to the oracle, for known and for new bundles, and what
one user gets. The same job for one model is ``recsys train --config ...``, and lists are given by
``recsys recommend``.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.cf import CFModel
from recsys.cf_config import CFExperiment, load_any
from recsys.datasets.planted_bundles import PlantedBundles
from recsys.errors import ConfigError, exit_on_error
from recsys.evaluate.ranking import RankingOptions, evaluate_ranking
from recsys.evaluate.stored_ranking import seen_and_relevant
from recsys.evaluate.summary import text_table
from recsys.graph.bundles import BundleData
from recsys.graph.interactions import Interactions
from recsys.serving.recommender import Recommender
from recsys.train import plots
from recsys.train.run import RunOptions, run

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
BASES = [CONFIGS / name for name in ("graph/most_pop.yaml", "graph/ease.yaml",
                                     "bundle/light_gcn_ub.yaml")]  # fmt: skip
KINDS = ("known", "new")


class Oracle(CFModel):
    """Ranks by the true probabilities of the generated data."""

    class Config(CFModel.Config):
        """Nothing to choose."""

    data: PlantedBundles

    def scores(self, users: Tensor) -> Tensor:
        """See `CFModel`."""
        return torch.from_numpy(self.data.oracle(users.numpy())).float()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, default=CONFIGS / "bundle/cross_cbr.yaml", help="experiment (YAML)"
    )
    parser.add_argument("--user", type=int, default=0, help="whose list is shown")
    parser.add_argument("--k", type=int, default=8, help="length of the list that is shown")
    parser.add_argument("--run-dir", type=Path, help="by default runs/<time>-bundles")
    return parser.parse_args()


def experiments(path: Path) -> dict[str, CFExperiment]:
    """The baselines, on the data of the experiment, and the experiment with both settings."""
    last = load_any(path)
    if not isinstance(last, CFExperiment):
        raise ConfigError(f"{path}: expected a recommender of bundles.")
    if not isinstance(last.dataset.build(), PlantedBundles):
        raise ConfigError(f"{path}: expected planted bundles. For others use `recsys train`.")
    found = {}
    for base in BASES:
        experiment = load_any(base)
        assert isinstance(experiment, CFExperiment)
        found[base.stem] = experiment.model_copy(update={"dataset": last.dataset})
    looking = load_any(path, ["model.unseen=nothing"])
    assert isinstance(looking, CFExperiment)
    return {**found, path.stem: last, f"{path.stem}_unseen": looking}


def recall(model: CFModel, seen: Interactions, relevant: Interactions, k: int) -> list[float]:
    """Recall at k of bundles that somebody took in training, and of new ones."""
    new = (model.graph.item_degrees() == 0).numpy()[relevant.item]
    options = RankingOptions(ks=(k,), bootstrap_samples=0, slice_groups=0)
    return [
        evaluate_ranking(model, seen, relevant.take(part), options).metrics[f"recall@{k}"]
        for part in (~new, new)
    ]


def print_list(recommender: Recommender, data: BundleData, user: int, k: int) -> None:
    """What a user gets, with the contents of the bundles."""
    print(f"\nuser {user} gets")
    assert data.item_texts is not None
    for bundle, score in recommender.recommend([user], k)[0]:
        new = " (new)" if bundle in data.cold_bundles() else ""
        print(f"  bundle {bundle}{new}, score {score:.3g}")
        for item in data.bundles.items_of(int(bundle)).tolist():
            print(f"      {data.item_texts[item]}")


def communities(data: BundleData) -> np.ndarray:
    """Of every item, as its text says."""
    assert data.item_texts is not None
    return np.array([int(text.partition("community ")[2].split()[0]) for text in data.item_texts])


def rows_of(axis: Any, data: BundleData, groups: dict[str, list[int]]) -> None:
    """Bundles as rows of squares, a square for an item, its colour the community."""
    community, y = communities(data), 0.0
    for title, bundles in groups.items():
        axis.text(0, y + 0.1, title, fontweight="bold", fontsize=9)
        for bundle in bundles:
            y -= 1
            for x, item in enumerate(data.bundles.items_of(bundle).tolist()):
                axis.scatter(x + 0.4, y + 0.2, marker="s", s=70,
                             color=plots.color(int(community[item])))  # fmt: skip
            new = ", new" if bundle in data.cold_bundles() else ""
            axis.text(6.4, y, f"bundle {bundle}{new}", fontsize=8)
        y -= 1.6
    axis.set_xlim(-0.2, 10)
    axis.set_ylim(y + 1, 1)
    axis.axis("off")


def draw(
    path: Path, found: dict[str, list[float]], data: BundleData, groups: dict[str, list[int]]
) -> None:
    """Recall of known and new bundles of every model, and the lists of one user."""

    def paint(figure: Any) -> None:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for number, kind in enumerate(KINDS):
            places = np.arange(len(found)) + (number - 0.5) * 0.4
            values = [value[number] for value in found.values()]
            bars = left.bar(places, values, width=0.38, color=plots.color(number), label=kind)
            left.bar_label(bars, fmt="%.2f", fontsize=7)
        left.set_xticks(range(len(found)), list(found), rotation=15)
        left.set_title("recall@20 on test of known and of new bundles")
        left.grid(visible=False, axis="x")
        left.legend()
        rows_of(right, data, groups)
        right.set_title("what one user took and gets\n(a square is an item, colours communities)",
                        fontsize=9)  # fmt: skip

    plots.draw(path, paint, (11.0, 5.6))


def main() -> None:
    """Trains, judges, shows."""
    args = arguments()
    jobs = experiments(args.config)
    folder = args.run_dir or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-bundles"
    first, *_, chosen = jobs
    last = jobs[chosen]
    source = last.dataset.build()
    assert isinstance(source, PlantedBundles)
    data, splits = source.bundle_data(Path(".data")), source.splits(Path(".data"))
    pairs = seen_and_relevant(splits, "test", last.evaluation.hide)
    assert pairs is not None
    found, recommenders = {}, {}
    for name, experiment in jobs.items():
        print(f"run       {folder / name}: {experiment.model.class_path}", flush=True)
        result = run(experiment, folder / name, RunOptions())
        if result.interrupted:
            sys.exit(130)
        recommenders[name] = Recommender.load(result.seeds[0].directory)
        found[name] = recall(recommenders[name].model, *pairs, 20)
    oracle = Oracle(Oracle.Config(), source.graph(splits.train, Path(".data")))
    oracle.data = source
    found["oracle"] = recall(oracle.eval(), *pairs, 20)
    print(f"\n{text_table(['recall@20 on test', *KINDS], [[n, *v] for n, v in found.items()])}")
    print_list(recommenders[chosen], data, args.user, args.k)
    train = splits.train
    groups = {"took": train.item[train.user == args.user].tolist()[: args.k]}
    for name in (first, chosen):
        lists = recommenders[name].recommend([args.user], args.k)[0]
        groups[f"gets from {name}"] = [int(bundle) for bundle, _ in lists]
    print(f"\nsaved     {folder}/ (a run folder for each model)")
    if plots.available():
        draw(folder / "bundles.png", found, data, groups)
        print(f"          {folder / 'bundles.png'}")
    print(f"          serve it: Recommender.load({str(folder / chosen)!r}).recommend(ids, k)")


if __name__ == "__main__":
    with exit_on_error():
        main()
