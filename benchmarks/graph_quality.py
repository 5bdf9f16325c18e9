"""Quality against CPU seconds of collaborative filters: trains, keeps the curves, draws them.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/graph_quality.py benchmarks/quality/gowalla.yaml
    ... --only x_sim_gcl --judge valid        # to choose epochs and settings: test is not touched
    ... --only x_sim_gcl --seeds 1,2,3
    ... --only x_sim_gcl --tune 20            # a search on validation; later runs take its best
    ... --report                              # tables and plots of all that was run
    ... --report --keep                       # and it goes into the repository

A settings file has a data set and runs: a configuration of ``configs/graph`` or ``configs/bundle``
with changes (those of ``set`` are for all runs), and the ``space`` to search for it. --tune N
searches that by `recsys.tune`, N trials for each run, and keeps the best settings and their number
of epochs in ``tuned.json``. With ``--judge valid`` a part of train validates and the curve is of
that. With ``--judge test``, the default, all of train is trained on, for the number of epochs of
the settings, and the curve is of test: what counts is its end, never its best point. With
``given_splits: true`` the data has a validation split of its own: the curve is of that, and what
counts is the test of its best point. Seconds are CPU seconds of training or fitting without
evaluation, on one thread unless --threads says otherwise. A run goes on where it was stopped; one
that is complete is left alone. Tables and plots have what ``benchmarks/quality/measured`` keeps
too; a run of another machine than most is drawn hollow, since seconds differ.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from printing import machine, processor, say, table
from recsys.cf import CFModel, EmbeddingModel
from recsys.cf_config import CFExperiment, load_any
from recsys.cf_fitted import FittedModel
from recsys.embeddings.optimizer import EmbeddingOptimizer
from recsys.errors import ConfigError, exit_on_error
from recsys.evaluate.ranking import RankingOptions, evaluate_ranking
from recsys.evaluate.stored_ranking import seen_and_relevant
from recsys.folders import write_json
from recsys.train import plots
from recsys.train.backend import attach_tables
from recsys.train.ranking_task import RankingTask, Validation
from recsys.train.ranks import Ranks
from recsys.train.seed_result import table_bytes
from recsys.train.state import seed_everything
from recsys.train.task import Judgement
from recsys.train.trainer import Trainer
from recsys.tune.sweep import Sweep
from recsys.tune.tune import TuneOptions, tune

ROOT = Path(__file__).resolve().parent.parent
KS = (10, 20)
SHOWN = ("recall@20", "ndcg@20", "recall@10", "ndcg@10", "coverage@20")


class WatchedTask(RankingTask):
    """Keeps every judgement with the CPU seconds of training before it."""

    path: Path
    record: dict[str, Any]

    def watch_into(self, path: Path, record: dict[str, Any], steps: int) -> None:
        """Begins, or goes on from a record of the same run.

        Args:
            path: Where the record is kept.
            record: What is known of the run.
            steps: Of an epoch.
        """
        self.path, self.record, self.steps = path, record, steps
        self.record.setdefault("curve", [])
        self.clock = time.process_time()

    def judge(self, valid: Validation, step: int, factor: float) -> Judgement:
        """See `Task`."""
        curve = self.record["curve"]
        trained = time.process_time() - self.clock
        before = curve[-1]["cpu_seconds"] if curve else 0.0
        start = time.process_time()
        found = super().judge(valid, step, factor)
        point = {
            "epoch": step / self.steps,
            "cpu_seconds": before + trained,
            "evaluation_cpu_seconds": time.process_time() - start,
            "metrics": {name: found.values[name] for name in SHOWN},
        }
        curve.append(point)
        write_json(self.path, self.record)
        self.clock = time.process_time()
        return found


def settings_of(path: Path) -> dict[str, Any]:
    """The file, with what every run may leave out; ``like`` names one whose runs it changes."""
    found = yaml.safe_load(path.read_text())
    if "like" in found:
        others, mine = settings_of(path.parent / found["like"])["runs"], found.get("runs", {})
        found["runs"] = {name: {**others.get(name, {}), **mine.get(name, {})}
                         for name in (*others, *(mine.keys() - others.keys()))}  # fmt: skip
    for name, run in found["runs"].items():
        run.setdefault("config", name)
        run.setdefault("set", [])
    return found


def experiment_of(
    settings: Mapping[str, Any],
    name: str,
    judge: str,
    by_hand: Sequence[str],
    tuned: Path | None = None,
) -> CFExperiment:
    """One run; a search goes before the file, what is given by hand before both."""
    run, given = settings["runs"][name], settings.get("given_splits", False)
    changes = [f"dataset={json.dumps(settings['dataset'])}", *settings.get("set", [])]
    if not given:
        valid = settings.get("valid", 0.1) if judge == "valid" else 0
        changes.append(f"dataset.split.valid={valid}")
    changes += run["set"]
    if tuned is not None and tuned.exists():
        found = json.loads(tuned.read_text())
        changes += [f"{place}={json.dumps(value)}" for place, value in found["settings"].items()]
        if judge == "test" and found["epochs"] and not given:
            changes.append(f"train.num_epochs={found['epochs']}")
    changes += by_hand
    paths = [ROOT / f"configs/{kind}/{run['config']}.yaml" for kind in ("graph", "bundle")]
    path = next((path for path in paths if path.exists()), paths[0])
    found = load_any(path, changes)
    if not isinstance(found, CFExperiment):
        raise ConfigError(f"{path} is not a collaborative filter.")
    if judge == "test" and not given:  # nothing may be chosen there
        train = found.train.model_copy(update={"early_stop_patience": None})
        found = found.model_copy(update={"train": train})
    return found


def run_one(experiment: CFExperiment, judge: str, seed: int, path: Path, given: bool) -> None:
    """Fits or trains one seed, and writes its record; ``given`` has the best on validation judged.

    Args:
        experiment: What to train.
        judge: On which split.
        seed: Of it.
        path: Of the record.
        given: Whether the data has a validation split of its own to choose by.
    """
    record: dict[str, Any] = {"complete": False}
    resume = path.exists() and (path.with_suffix("") / "checkpoints").exists()
    if resume:
        record = json.loads(path.read_text())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout.strip()  # fmt: skip
    record |= {
        "model": experiment.model.class_path.rpartition(".")[2], "seed": seed, "judge": judge,
        "threads": torch.get_num_threads(), "commit": commit, "machine": processor(),
        "experiment": experiment.model_dump(mode="json"),
    }  # fmt: skip
    dataset = experiment.dataset.build()
    splits = dataset.splits(ROOT / ".data")
    graph = dataset.graph(splits.train, ROOT / ".data", experiment.weighted)
    found = seen_and_relevant(splits, judge, experiment.evaluation.hide)
    if found is None:
        raise ConfigError(f"there is no {judge} split.")
    valid = Validation(*found, splits.given)
    seed_everything(seed)
    model = experiment.model.build(graph)
    clock = time.process_time()
    if isinstance(model, FittedModel):
        model.reset_parameters(seed)
        model.fit(say)
        fitted = time.process_time()
        record["curve"] = [judged(model, valid) | {"epoch": 0, "cpu_seconds": fitted - clock}]
    elif isinstance(model, EmbeddingModel):
        chosen_on = seen_and_relevant(splits, "valid") if given else found
        if chosen_on is None:
            raise ConfigError("given_splits: there is no validation split to choose by.")
        chosen_by = Validation(*chosen_on, splits.given)
        best = train(model, experiment, chosen_by, seed, path, record, resume)
        if given:
            record["best"] = best | judged(model, valid)
    record["complete"] = True
    write_json(path, record)


def judged(model: CFModel, valid: Validation) -> dict[str, Any]:
    """Metrics of a model, and how long they took."""
    start = time.process_time()
    options = RankingOptions(ks=KS, bootstrap_samples=0, slice_groups=0)
    model.eval()
    metrics = evaluate_ranking(model, valid.seen, valid.relevant, options, valid.given).metrics
    return {"evaluation_cpu_seconds": time.process_time() - start,
            "metrics": {name: metrics[name] for name in SHOWN}}  # fmt: skip


def train(
    model: EmbeddingModel,
    experiment: CFExperiment,
    valid: Validation,
    seed: int,
    path: Path,
    record: dict[str, Any],
    resume: bool,
) -> dict[str, Any]:
    """As `recsys train` does, with every judgement kept; loads the best, and gives its point."""
    ranks = Ranks.current()
    model.reset_parameters(seed)
    tables: EmbeddingOptimizer | None = attach_tables(model, experiment.embedding, "local")
    record["table_bytes"] = table_bytes(model, tables, ranks)
    seed_everything((seed * 1_000_003) % 2**32)
    task = WatchedTask(model, experiment.train, experiment.evaluation, tables, ranks, seed)
    loader = model.loader(experiment.sampling, experiment.train.batch_size, seed)
    trainer = Trainer(task, tables, path.with_suffix(""), "auto")
    task.watch_into(path, record, len(loader))
    result = trainer.fit(loader, valid, resume=resume)
    if result.interrupted:
        sys.exit(130)
    trainer.load_best()
    name = experiment.train.monitor
    return dict(max(record["curve"], key=lambda point: point["metrics"].get(name, 0.0)))


def search(
    settings: Mapping[str, Any], name: str, trials: int, by_hand: Sequence[str], folder: Path
) -> None:
    """Searches the space of a run on validation, and keeps what is best and for how many epochs."""
    run, experiment = settings["runs"][name], experiment_of(settings, name, "valid", by_hand)
    if not run.get("space"):
        say(f"{name}: no `space` to search")
        return
    sweep = Sweep.model_validate({
        "config": "unused.yaml", "space": run["space"], "objectives": ["ndcg@20"],
        "trials": trials, "sampler": {"startup_trials": max(5, trials // 3)},
    })  # fmt: skip
    options = TuneOptions(cache_dir=ROOT / ".data", say=say)
    study = tune(sweep, experiment, folder / "tune", options)
    best = study.front()[0]
    (result,) = (folder / "tune" / best.folder).glob("seed-*/result.json")
    fit, epochs = json.loads(result.read_text())["fit"], 0
    if fit["steps"]:
        size = best.settings.get("train.batch_size", experiment.train.batch_size)
        pairs = len(experiment.dataset.build().splits(ROOT / ".data").train)
        epochs = round(fit["best_step"] / -(-pairs // size))
    write_json(folder / "tuned.json", {
        "settings": best.settings, "epochs": epochs, "valid": best.values, "trials": trials,
        "cpu_seconds": sum(row.facts.get("cpu_seconds", 0.0) for row in study.rows()),
    })  # fmt: skip


# ------------------------------------------------------------------------------------- reports


def records_of(folder: Path, judge: str, kept: Path) -> dict[str, list[dict[str, Any]]]:
    """What was run, here and as it is kept, seeds by name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob(f"*/{judge}-*.json")):
        record = json.loads(path.read_text())
        if record.get("curve"):
            found.setdefault(path.parent.name, []).append(record)
    if kept.exists():
        for name, records in json.loads(kept.read_text()).items():
            known = {record["seed"] for record in found.get(name, ())}
            others = (r for r in records if r["judge"] == judge and r["seed"] not in known)
            found.setdefault(name, []).extend(others)
    return {name: records for name, records in found.items() if records}


def keep(records: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Writes the runs, figures to five places, where the repository keeps them.

    Settings are those of the first seed: a search found them, so the settings file does not say.

    Args:
        records: By name.
        path: Its old content goes, but for those of another judge.
    """
    before = json.loads(path.read_text()) if path.exists() else {}
    judges = {record["judge"] for seeds in records.values() for record in seeds}
    found = {name: [r for r in seeds if r["judge"] not in judges] for name, seeds in before.items()}
    for name, seeds in records.items():
        kept = [{key: value for key, value in record.items()
                 if (key, value) != ("complete", True)
                 and (key != "experiment" or record is seeds[0])}
                for record in seeds]  # fmt: skip
        found[name] = found.get(name, []) + json.loads(
            json.dumps(kept), parse_float=lambda text: float(f"{float(text):.5g}")
        )
    path.parent.mkdir(exist_ok=True)
    lines = (f"{json.dumps(name)}: {json.dumps(found[name])}" for name in sorted(found))
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    say(f"kept: {path}")


def chosen(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The point that counts: the end on test, the best on validation, or the test of that."""
    if "best" in record:
        return record["best"]
    if record["judge"] == "test":
        return record["curve"][-1]
    return max(record["curve"], key=lambda point: point["metrics"]["ndcg@20"])


def report(
    records: Mapping[str, Sequence[Mapping[str, Any]]],
    path: Path,
    title: str,
    lines: Mapping[str, float],
) -> None:
    """A table by quality, and the plot of quality against CPU seconds.

    Args:
        records: By name.
        path: Of the plot.
        title: Of the plot.
        lines: What others published, by label.
    """
    rows = []
    for name, seeds in records.items():
        points = [chosen(record) for record in seeds]
        whole = all(record.get("complete", True) for record in seeds)
        cells = [name if whole else f"{name} (unfinished)"]
        for metric in SHOWN:
            values = [point["metrics"].get(metric, math.nan) for point in points]
            spread = f" +- {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.4f}{spread}")
        cells += [f"{np.mean([point['epoch'] for point in points]):.0f}",
                  f"{np.mean([point['cpu_seconds'] for point in points]):,.0f}",
                  f"{np.mean([p.get('evaluation_cpu_seconds', math.nan) for p in points]):,.1f}",
                  str(len(points))]  # fmt: skip
        rows.append(cells)
    rows.sort(key=lambda row: row[1], reverse=True)
    table([("run", *SHOWN, "epochs", "train CPU s", "judge CPU s", "seeds"), *rows])
    plots.draw(path, lambda figure: paint(figure, records, title, lines), (10.0, 6.4))
    say(f"drawn: {path}")


def paint(
    figure: Any,
    records: Mapping[str, Sequence[Mapping[str, Any]]],
    title: str,
    lines: Mapping[str, float],
) -> None:
    """Recall@20 against CPU seconds: a curve for what is trained, a point for what is fitted.

    Where the curve is of validation, its test is a point too.
    """
    axis = figure.subplots()
    ends, machines = [], Counter(seeds[0].get("machine") for seeds in records.values())
    here = machines.most_common(1)[0][0] if machines else None
    for number, (name, seeds) in enumerate(sorted(records.items())):
        curve = seeds[0]["curve"]
        x = [max(point["cpu_seconds"], 1.0) for point in curve]
        y = [point["metrics"]["recall@20"] for point in curve]
        color, dashed = plots.color(number % 8), number >= 8
        hollow = {} if seeds[0].get("machine") == here else {"markerfacecolor": "none"}
        tested = len(curve) > 1 and "best" in seeds[0]
        if len(curve) > 1:
            axis.plot(
                x, y, marker=".", color=color, linestyle="--" if dashed else "-",
                linewidth=1.4, alpha=0.3 if tested else 1.0,
            )  # fmt: skip
        if tested:
            x = [seeds[0]["best"]["cpu_seconds"]]
            y = [seeds[0]["best"]["metrics"]["recall@20"]]
        if tested or len(curve) == 1:
            axis.plot(x, y, marker="D", color=color, linestyle="none", markersize=6, **hollow)
        ends.append((y[-1], x[-1], f"{name} {y[-1]:.4f}".replace("0.", "."), color))
    for name, value in lines.items():
        axis.axhline(value, color="0.6", linewidth=0.8, linestyle=":")
        axis.annotate(f"published: {name}", (1.1, value), fontsize=7, color="0.4", va="bottom")
    values = [*(end[0] for end in ends), *lines.values()]
    best = max(values)
    low, high = max(min(values), 0.5 * best) - 0.02 * best, 1.03 * best
    axis.set_ylim(low, high)  # what is far below has a label only
    ends.sort()
    for place, (y, x, text, color) in zip(spread([end[0] for end in ends], low, high), ends):
        line = {"arrowstyle": "-", "color": color, "lw": 0.4} if y >= low else None
        axis.annotate(
            text, (x, max(y, low)), xytext=(1.01, place), textcoords=("axes fraction", "data"),
            fontsize=8, color=color, va="center", arrowprops=line,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_xlabel("CPU seconds of training or fitting (log)")
    axis.set_ylabel("recall@20")
    axis.set_title(title)
    figure.get_layout_engine().set(rect=(0, 0, 0.86, 1))


def spread(values: Sequence[float], low: float, high: float) -> list[float]:
    """Places of labels near rising values, within the limits and none upon another."""
    gap = min(0.03, 1 / max(1, len(values))) * (high - low)
    places: list[float] = []
    for value in values:
        places.append(max(value, low, places[-1] + gap if places else low))
    most = high
    for number in reversed(range(len(places))):
        places[number] = min(places[number], most)
        most = places[number] - gap
    return places


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", type=Path, help="YAML: dataset and runs")
    parser.add_argument("--only", help="names of runs, comma between them; default all")
    parser.add_argument("--judge", choices=("valid", "test"), default="test", help="which split")
    parser.add_argument("--seeds", default="1", help="comma between them")
    parser.add_argument("--tune", type=int, help="search first, so many trials for each run")
    parser.add_argument("--set", action="append", default=[], help="goes before FILE and a search")
    parser.add_argument("--label", default="", help="added to the names of the runs")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--out", type=Path, default=Path(".bench/quality"), help="results")
    parser.add_argument("--report", action="store_true", help="only tables and plots")
    parser.add_argument("--keep", action="store_true", help="write all of it beside FILE")
    return parser.parse_args()


def main() -> None:
    """Runs what is missing, then reports."""
    args = arguments()
    torch.set_num_threads(args.threads)
    settings = settings_of(args.settings)
    folder = args.out / args.settings.stem
    names = args.only.split(",") if args.only else list(settings["runs"])
    if unknown := set(names) - set(settings["runs"]):
        raise ConfigError(f"--only: no run {sorted(unknown)} in {args.settings}.")
    for name in names if args.tune else ():
        search(settings, name, args.tune, args.set, folder / name)
    for name in () if args.report or args.tune else names:
        for seed in map(int, args.seeds.split(",")):
            path = folder / f"{name}{args.label}" / f"{args.judge}-{seed}.json"
            if path.exists() and json.loads(path.read_text())["complete"]:
                continue
            say(f"{name}{args.label}, seed {seed}")
            path.parent.mkdir(parents=True, exist_ok=True)
            tuned = folder / name / "tuned.json"
            experiment = experiment_of(settings, name, args.judge, args.set, tuned)
            given = settings.get("given_splits", False) and args.judge == "test"
            run_one(experiment, args.judge, seed, path, given)
    print(machine())
    title = f"{args.settings.stem}: {args.judge}"
    if settings.get("given_splits", False) and args.judge == "test":
        title = f"{args.settings.stem}, seed 1: test (diamonds), and validation on the way (curves)"
    lines = settings.get("published", {}) if args.judge == "test" else {}
    kept = args.settings.parent / "measured" / f"{args.settings.stem}.json"
    records = records_of(folder, args.judge, kept)
    report(records, folder / f"{args.judge}.png", title, lines)
    if args.keep:
        keep(records, kept)


if __name__ == "__main__":
    with exit_on_error():
        main()
