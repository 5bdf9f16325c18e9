"""Trains collaborative filters and shows who gets what, and why. Without arguments: no download.

    python examples/train_graph.py                                       # MostPop, EASE, LightGCN
    python examples/train_graph.py --config configs/graph/light_gcn.yaml --set model.num_layers=2
    python examples/train_graph.py --user 17 --k 5

The data is generated and has planted communities, so the best reachable ranking (oracle) is known:
the table shows where each model is between what is popular and that. The same job for one model is
``recsys train --config ...``, and lists are given by ``recsys recommend``.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recsys.cf import CFModel
from recsys.cf_config import CFExperiment, load_any
from recsys.datasets.planted_communities import PlantedCommunities
from recsys.errors import ConfigError, exit_on_error
from recsys.evaluate.ranking import RankingEvaluation, evaluate_ranking
from recsys.evaluate.significance import compare, comparison_table
from recsys.evaluate.stored_ranking import evaluate_ranking_run, options_of, seen_and_relevant
from recsys.evaluate.summary import text_table
from recsys.graph.interaction_graph import InteractionGraph
from recsys.serving.recommender import Recommender
from recsys.train import plots
from recsys.train.run import RunOptions, run

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = [ROOT / "configs/graph" / f"{name}.yaml" for name in ("most_pop", "ease", "light_gcn")]


class Oracle(CFModel):
    """Ranks by the true probabilities of the generated data."""

    class Config(CFModel.Config):
        """Nothing to choose."""

    data: PlantedCommunities

    def scores(self, users: Tensor) -> Tensor:
        """See `CFModel`."""
        return torch.from_numpy(self.data.oracle(users.numpy())).float()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, action="append", help="experiment (YAML); repeatable, best last"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="PLACE=VALUE",
        help="change one setting of the last experiment",
    )  # fmt: skip
    parser.add_argument("--user", help="whose list is shown; by default the first user's")
    parser.add_argument("--k", type=int, default=5, help="length of the list")
    parser.add_argument("--run-dir", type=Path, help="by default runs/<time>-graph")
    parser.add_argument("--cache-dir", type=Path, default=Path(".data"), help="data files")
    return parser.parse_args()


def experiments(args: argparse.Namespace) -> dict[str, CFExperiment]:
    """What to train, by the name of the configuration file."""
    found = {}
    paths = args.config or CONFIGS
    for path in paths:
        experiment = load_any(path, args.set if path == paths[-1] else ())
        if not isinstance(experiment, CFExperiment):
            raise ConfigError(f"{path}: expected a collaborative filter. See train_ctr.py.")
        found[path.stem] = experiment
    return found


def oracle_of(experiment: CFExperiment, cache: Path) -> RankingEvaluation | None:
    """How good the true probabilities are on test, where they are known."""
    data = experiment.dataset.build()
    if not isinstance(data, PlantedCommunities):
        return None
    splits = data.splits(cache)
    pairs = seen_and_relevant(splits, "test", experiment.evaluation.hide)
    if pairs is None:
        return None
    model = Oracle(Oracle.Config(), InteractionGraph.of(splits.train))
    model.data = data
    return evaluate_ranking(model.eval(), *pairs, options_of(experiment.evaluation))


def print_metrics(found: dict[str, RankingEvaluation], k: int) -> None:
    """Means over users with their bootstrap intervals."""
    rows = []
    for name, evaluation in found.items():
        cells: list[Any] = [name]
        for metric in (f"recall@{k}", f"ndcg@{k}"):
            interval = evaluation.intervals[metric]
            cells += [evaluation.metrics[metric], f"{interval.low:.3f} to {interval.high:.3f}"]
        rows.append([*cells, evaluation.metrics[f"coverage@{k}"]])
    columns = ["test", f"recall@{k}", "95 %", f"ndcg@{k}", "95 %", f"coverage@{k}"]
    print(f"\n{text_table(columns, rows)}")


def print_comparison(found: dict[str, RankingEvaluation], names: list[str], k: int) -> None:
    """Whether the last model is better than each of the others, user by user."""
    for name in names[:-1]:
        rows = compare(found[name].per_user, found[names[-1]].per_user, [f"recall@{k}"])
        print(f"\nbase {name}, other {names[-1]}\n{comparison_table(rows)}")


def print_lists(folders: dict[str, Path], user: str | None, k: int) -> None:
    """One user's lists, and why the best item of each is in it."""
    for name, folder in folders.items():
        recommender = Recommender.load(folder)
        ids = recommender.users
        wanted = ids.values[0] if user is None else user
        if ids.values.dtype.kind in "iu" and user is not None:
            wanted = int(user)
        found = recommender.recommend([wanted], k)[0]
        print(f"\n{name}: user {wanted} gets " + ", ".join(f"{i} ({s:.3g})" for i, s in found))
        try:
            text = recommender.explain(wanted, found[0][0], k=3).text()
        except ConfigError:
            text = "no reasons: the scores are no sum over what the user has seen"
        print("\n".join(f"  {line}" for line in text.splitlines()))


def draw(path: Path, found: dict[str, RankingEvaluation], k: int) -> None:
    """Recall of every model with its interval."""

    def bars(figure: Any) -> None:
        axis, metric = figure.subplots(), f"recall@{k}"
        for place, (name, evaluation) in enumerate(found.items()):
            value, interval = evaluation.metrics[metric], evaluation.intervals[metric]
            error = [[value - interval.low], [interval.high - value]]
            axis.bar(place, value, yerr=error, color=plots.color(1 if name != "oracle" else 0),
                     width=0.6, capsize=4)  # fmt: skip
        axis.set_xticks(range(len(found)), list(found))
        axis.set_title(f"{metric} on test, 95 % over users")
        axis.grid(visible=False, axis="x")

    plots.draw(path, bars, (6.4, 4.0))


def main() -> None:
    """Runs the jobs."""
    args = arguments()
    jobs = experiments(args)
    folder = args.run_dir or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-graph"
    folders, found = {}, {}
    for name, experiment in jobs.items():
        print(f"run       {folder / name}: {experiment.model.class_path}", flush=True)
        result = run(experiment, folder / name, RunOptions(cache_dir=args.cache_dir))
        if result.interrupted:
            print(f"interrupted; go on with: recsys train --config {folder / name}/config.yaml "
                  f"--run-dir {folder / name} --resume")  # fmt: skip
            sys.exit(130)
        folders[name] = result.seeds[0].directory
        found[name] = evaluate_ranking_run(folders[name], "test", args.cache_dir)
    last = list(jobs.values())[-1]
    oracle = oracle_of(last, args.cache_dir)
    k = max(last.evaluation.ks)
    print_metrics(found if oracle is None else {**found, "oracle": oracle}, k)
    print_comparison(found, list(jobs), k)
    print_lists(folders, args.user, args.k)
    print(f"\nsaved     {folder}/ (a run folder for each model)")
    if plots.available():
        draw(folder / "recall.png", found if oracle is None else {**found, "oracle": oracle}, k)
        print(f"          {folder / 'recall.png'}")
    print(f"          serve it: Recommender.load({str(list(folders.values())[-1])!r})"
          ".recommend(ids, k)")  # fmt: skip


if __name__ == "__main__":
    with exit_on_error():
        main()
