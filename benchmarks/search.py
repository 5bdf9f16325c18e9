"""What a search finds, against one width for all tables and against random draws.

    .venv/bin/python benchmarks/search.py --config configs/sweeps/compress_movielens.yaml \
        --set train.num_epochs=8 --out .bench/search/movielens --jobs 2
    .venv/bin/python benchmarks/search.py --config ... --trials 4 --seeds 1          # a quick look

Every method searches AUC and bytes with the same number of trials, single-threaded, once a seed:

- ``global``: one width for all tables and the learning rate, drawn at random;
- ``random``: a width for every table, a scheme and its ratio, learning rate, at random;
- ``tpe``: the same space, Optuna's multivariate TPE with conditional groups;
- ``uniform``: ``tpe`` after first trials of one width each, as `recsys tune` searches by itself;
- ``evolution``: NSGA-II in generations of 8 after the same first trials;
- ``importance``, ``supernet``: ``uniform`` after more first trials from the importance of fields,
  or from the front of a trained supernet (their training is counted as time, not as trials).

All of them judge every trained model in fp32, int8 and int4, which costs no training.

A method's front is chosen by validation AUC; the figures are of the **test** split. Hypervolume is
the area between the front and the reference: AUC above ``--floor``, times log10 of how much smaller
than the full tables. It is given after all trials, and after as many CPU seconds as the quickest
method took. Studies are kept in ``--out``; the same command goes on.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from printing import machine, say, table
from recsys.train.launch import die_with_parent
from recsys.tune.halving import hypervolume
from recsys.tune.report import write_report
from recsys.tune.study import TrialRow
from recsys.tune.sweep import Sweep
from recsys.tune.tune import TuneOptions, tune

RATE = {"float": [3e-4, 3e-3], "log": True}
DTYPE = {"choice": ["fp32", "int8", "int4"]}
RATIO = {"float": [0.05, 0.8], "log": True}
TABLES = {
    "model.tables.*.embedding_dim": {"power_of_two": [1, 16]},
    "model.compression": {"one_of": {
        "full": None,
        "hash": {"scheme": {"kind": "hash", "multiplex": {"choice": [False, True]}},
                 "ratio": RATIO},
        "unified": {"scheme": {"kind": "unified"}, "ratio": RATIO},
    }},
}  # fmt: skip
SPACES: dict[str, dict[str, Any]] = {
    "global": {"model.embedding_dim": {"choice": [1, 2, 3, 4, 6, 8, 12, 16]}},
    "random": TABLES, "tpe": TABLES, "uniform": TABLES, "evolution": TABLES,
    "importance": TABLES, "supernet": TABLES,
}  # fmt: skip
PRIORS = {
    "uniform": {"uniform": 5},
    "evolution": {"uniform": 5},
    "importance": {"uniform": 5, "importance": 6},
    "supernet": {"uniform": 5, "supernet": 6},
}
SAMPLERS = {"global": "random", "random": "random", "evolution": "nsga2"}
SHARES = (0.5, 0.25, 0.1, 0.05)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one search found.

    Args:
        method: Which.
        seed: Of its draws.
        prior: CPU seconds before its first trial.
        rows: Its trials.
    """

    method: str
    seed: int
    prior: float
    rows: list[TrialRow]

    def by(self, seconds: float) -> list[TrialRow]:
        """Trials that were done by a time."""
        spent, found = self.prior, []
        for row in self.rows:
            spent += row.facts.get("cpu_seconds", 0.0)
            if spent <= seconds:
                found.append(row)
        return found

    def seconds(self) -> float:
        """Of everything."""
        return self.prior + sum(row.facts.get("cpu_seconds", 0.0) for row in self.rows)


def search(method: str, seed: int, args: argparse.Namespace) -> Outcome:
    """One search, or what is left of it."""
    kind = SAMPLERS.get(method, "tpe")
    changes = dict(item.split("=", 1) for item in args.set)
    sweep = Sweep.model_validate({
        "config": args.config.absolute(),
        "set": {**{k: json.loads(v) for k, v in changes.items()}, "train.num_threads": 1},
        "space": {**SPACES[method], "train.learning_rate": RATE, "serve.dtype": DTYPE},
        "objectives": ["auc", "bytes"], "trials": args.trials,
        "sampler": {"kind": kind, "seed": seed, "startup_trials": min(10, args.trials // 3),
                    "population": 8},
        "prior": {"uniform": 0, **PRIORS.get(method, {})},
    })  # fmt: skip
    folder = args.out / f"{method}-{seed}"
    noted = folder / "prior-seconds"
    start, first = time.process_time(), []

    def line(text: str) -> None:
        if text.startswith("[") and not first:
            first.append(time.process_time() - start)

    study = tune(
        sweep, sweep.experiment(Path()), folder, TuneOptions(cache_dir=args.cache_dir, say=line)
    )
    rows = [row for row in study.rows() if row.folder]
    if not noted.exists():
        before = max(0.0, (first or [0.0])[0] - rows[0].facts.get("cpu_seconds", 0.0))
        noted.write_text(str(before))
    write_report(study)
    return Outcome(method, seed, float(noted.read_text()), rows)


def front_of(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Best by validation AUC, from small to large."""
    found: list[TrialRow] = []
    done = [row for row in rows if row.state == "complete"]
    for row in sorted(done, key=lambda row: (row.facts["bytes"], -row.values["auc"])):
        if not found or row.values["auc"] > found[-1].values["auc"]:
            found.append(row)
    return found


def volume(rows: Sequence[TrialRow], full: float, floor: float) -> float:
    """Of the front on the test split."""
    points = [
        (-row.facts["test"]["auc"], math.log10(row.facts["bytes"] / full)) for row in front_of(rows)
    ]
    return hypervolume(points, (-floor, 0.0))


def cell(values: Sequence[float], form: str = ".4f") -> str:
    """Mean and standard deviation."""
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):{form}} +- {sd:{form}}"


def report(outcomes: Sequence[Outcome], floor: float) -> None:
    """Prints the tables."""
    full = statistics.median(
        row.facts["bytes"] / row.facts["ratio"] for o in outcomes for row in o.rows
        if row.facts.get("ratio")
    )  # fmt: skip
    shortest = min(outcome.seconds() for outcome in outcomes)
    methods = list(dict.fromkeys(outcome.method for outcome in outcomes))
    heads = ["method", "hypervolume", f"after {shortest:.0f} s", "CPU seconds", "trials"]
    lines = [(*heads, *(f"AUC at {share:g}" for share in SHARES))]
    for method in methods:
        mine = [outcome for outcome in outcomes if outcome.method == method]
        best = []
        for share in SHARES:
            found = []
            for outcome in mine:
                inside = [r for r in front_of(outcome.rows) if r.facts["bytes"] <= share * full]
                if inside:
                    found.append(inside[-1].facts["test"]["auc"])
            best.append(cell(found) if found else "-")
        lines.append(
            (method, cell([volume(o.rows, full, floor) for o in mine]),
             cell([volume(o.by(shortest), full, floor) for o in mine]),
             cell([o.seconds() for o in mine], ".0f"),
             cell([float(sum(r.trained for r in o.rows)) for o in mine], ".0f"), *best)
        )  # fmt: skip
    print(f"\nfull tables {full:,.0f} bytes, AUC above {floor}, mean +- sd of the seeds\n")
    table(lines)
    print("\nwhat was chosen, first seed")
    for method in methods:
        outcome = next(o for o in outcomes if o.method == method)
        for share in SHARES:
            inside = [r for r in front_of(outcome.rows) if r.facts["bytes"] <= share * full]
            if inside:
                print(f"  {method} at {share:g}: {chosen(inside[-1])}")


def chosen(row: TrialRow) -> str:
    """A trial in a line."""
    widths = [str(v) for k, v in row.settings.items() if k.endswith(".embedding_dim")]
    scheme = row.settings.get("model.compression") or {}
    kind = scheme.get("scheme", {}).get("kind", "full")
    ratio = f" at {scheme['ratio']:.2f}" if "ratio" in scheme else ""
    return (
        f"test AUC {row.facts['test']['auc']:.4f}, {row.facts['bytes']:,} bytes, {row.dtype}, "
        f"{kind}{ratio}, widths {' '.join(widths)}, rate {row.settings['train.learning_rate']:.1e}"
    )


def main() -> None:
    """Runs what is missing, prints all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="PLACE=JSON")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(SPACES))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=1, help="searches at the same time")
    parser.add_argument("--floor", type=float, default=0.7, help="AUC that counts as nothing")
    parser.add_argument("--cache-dir", type=Path, default=Path(".data"))
    args = parser.parse_args()
    print(machine(), flush=True)
    todo = [(m, int(s)) for s in args.seeds.split(",") for m in args.methods.split(",")]
    context = multiprocessing.get_context("spawn")
    outcomes = []
    with concurrent.futures.ProcessPoolExecutor(
        args.jobs, mp_context=context, initializer=die_with_parent
    ) as pool:
        running = {pool.submit(search, *one, args): one for one in todo}
        for future in concurrent.futures.as_completed(running):
            outcomes.append(future.result())
            done = outcomes[-1]
            say(f"{done.method}, seed {done.seed}: {done.seconds():.0f} CPU seconds")
    order = list(SPACES)
    report(sorted(outcomes, key=lambda o: (order.index(o.method), o.seed)), args.floor)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
