"""What a search spends its time on, and what it saves.

    CONFIG=configs/sweeps/compress_movielens.yaml
    .venv/bin/python benchmarks/search_costs.py pruning --config $CONFIG
    .venv/bin/python benchmarks/search_costs.py limits --config ...
    .venv/bin/python benchmarks/search_costs.py overhead --config ...
    .venv/bin/python benchmarks/search_costs.py workers --config ...

- ``pruning``: the same random candidates trained to the end, and with `halving`; CPU seconds and
  the front that each finds (hypervolume on the validation split).
- ``limits``: random candidates under a limit of bytes: how many are turned down and in what time,
  against what their training would have taken.
- ``overhead``: seconds of a trial outside of training, and of drawing a candidate with many
  trials behind.
- ``workers``: wall seconds of one and two workers of one thread each for the same candidates.

Wall times want a quiet machine; the others are CPU seconds.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna

from printing import machine, say, table
from recsys.tune.halving import hypervolume
from recsys.tune.samplers import make_sampler
from recsys.tune.study import Study, TrialRow
from recsys.tune.sweep import Sweep
from recsys.tune.tune import TuneOptions, tune

FEW = 30
"""More trials than these make Gaussian processes too slow to wait for."""
SPACE = {
    "model.tables.*.embedding_dim": {"power_of_two": [1, 16]},
    "train.learning_rate": {"float": [3e-4, 3e-3], "log": True},
}


def sweep_of(args: argparse.Namespace, trials: int, **more: Any) -> Sweep:
    """Random candidates around the experiment, one thread."""
    changes = {place: json.loads(value) for place, value in (s.split("=", 1) for s in args.set)}
    return Sweep.model_validate({
        "config": args.config.absolute(), "space": SPACE, "objectives": ["auc", "bytes"],
        "set": {**changes, "train.num_threads": 1}, "trials": trials,
        "sampler": {"kind": "random", "seed": args.seed}, "prior": {"uniform": 0}, **more,
    })  # fmt: skip


def searched(sweep: Sweep, folder: Path, args: argparse.Namespace, workers: int = 1) -> Study:
    """A search in a new folder."""
    options = TuneOptions(workers=workers, cache_dir=args.cache_dir, say=lambda text: None)
    return tune(sweep, sweep.experiment(Path()), folder, options)


def volume(rows: Sequence[TrialRow]) -> float:
    """Validation AUC above .7 times log10 of the bytes of the experiment's tables over those."""
    done = [row for row in rows if row.state == "complete"]
    points = [(-row.values["auc"], math.log10(row.facts["ratio"])) for row in done]
    return hypervolume(points, (-0.7, 0.0))


def spent(rows: Sequence[TrialRow], name: str = "cpu_seconds") -> float:
    """Of all trials."""
    return sum(row.facts.get(name, 0.0) for row in rows)


def pruning(args: argparse.Namespace, folder: Path) -> None:
    """The same candidates with and without halving."""
    lines = [("", "stopped early", "CPU s", "of all", "hypervolume", "best AUC")]
    whole = 0.0
    for name, pruner in (
        ("to the end", {}),
        ("halving, a half, from the 1st", {"kind": "halving", "first": 1, "reduction": 2}),
        ("halving, a half, from the 2nd", {"kind": "halving", "first": 2, "reduction": 2}),
        ("halving, a third, from the 1st", {"kind": "halving", "first": 1, "reduction": 3}),
    ):
        sweep = sweep_of(args, args.trials, pruner=pruner or {"kind": "none"})
        rows = searched(sweep, folder / name.replace(" ", "-"), args).rows()
        seconds = spent(rows)
        whole = whole or seconds
        say(f"{name}: {seconds:.0f} CPU s")
        stopped = sum(row.state == "stopped" for row in rows)
        best = max(row.values["auc"] for row in rows if row.state == "complete")
        lines.append((
            name, f"{stopped} of {args.trials}", f"{seconds:.0f}", f"{seconds / whole:.2f}",
            f"{volume(rows):.4f}", f"{best:.4f}",
        ))  # fmt: skip
    table(lines)


def limits(args: argparse.Namespace, folder: Path) -> None:
    """Candidates that are turned down from their plan."""
    lines = [("limit", "trained", "turned down", "ms each", "CPU s of training saved", "of all")]
    for ratio in (0.5, 0.25, 0.1):
        sweep = sweep_of(args, args.trials, limits={"ratio": ratio})
        start = time.process_time()
        rows = searched(sweep, folder / f"limit-{ratio}", args).rows()
        total = time.process_time() - start
        trained = [row for row in rows if row.trained]
        down = len(rows) - len(trained)
        mean = spent(trained) / len(trained)
        outside = (total - spent(trained)) / len(rows)
        saved = down * mean
        lines.append((
            f"{ratio:g} of the bytes", str(len(trained)), str(down), f"{1e3 * outside:.0f}",
            f"{saved:.0f}", f"{saved / (saved + total):.2f}",
        ))  # fmt: skip
        say(f"limit {ratio}: {down} turned down")
    table(lines)
    print("ms each: all of the search that is no training, opening it too, by candidate")


def overhead(args: argparse.Namespace, folder: Path) -> None:
    """Where the time of a trial goes, and what drawing costs."""
    start = time.perf_counter()
    study = searched(sweep_of(args, args.trials), folder / "overhead", args)
    total = time.perf_counter() - start
    rows = study.rows()
    fits = []
    for row in rows:
        found = json.loads((study.directory / row.folder / "seed-1/result.json").read_text())
        fits.append(found["fit"]["seconds"])
    inside = [row.facts["seconds"] - fit for row, fit in zip(rows, fits, strict=True)]
    between = (total - spent(rows, "seconds")) / len(rows)
    print(f"a trial: {statistics.fmean(fits):.2f} s of training steps, "
          f"{statistics.fmean(inside):.2f} s of evaluations, checkpoints and judging, "
          f"{between:.3f} s between trials (drawing, cost, journal)")  # fmt: skip
    lines = [("trials before", "random", "tpe", "gp", "nsga2")]
    for before in (FEW, 100, 300):
        cells = [str(before)]
        for kind in ("random", "tpe", "gp", "nsga2"):
            slow = kind == "gp" and before > FEW
            cells.append("-" if slow else f"{1e3 * drawing(study, kind, before):.0f} ms")
        lines.append(tuple(cells))
        say(f"drawing after {before} trials")
    print("\ndrawing one candidate (in memory)")
    table(lines)


def drawing(study: Study, kind: str, before: int) -> float:
    """CPU seconds to draw a candidate, the best of some, after so many complete trials."""
    config = study.sweep.sampler.model_copy(update={"kind": kind})
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    inner = optuna.create_study(
        directions=study.sweep.directions,
        sampler=make_sampler(config, study.space, False, 0),
    )
    done = [t for t in study.inner.get_trials(deepcopy=False) if t.values]
    for number in range(before):
        trial = done[number % len(done)]
        moved = [value * (1 + 1e-4 * (number // len(done))) for value in trial.values]
        inner.add_trial(
            optuna.create_trial(
                params=trial.params, distributions=trial.distributions, values=moved
            )
        )
    times = []
    for _ in range(1 if kind == "gp" else 3):
        start = time.process_time()
        study.space.ask(inner.ask())
        times.append(time.process_time() - start)
    return min(times)


def workers(args: argparse.Namespace, folder: Path) -> None:
    """The same candidates with one worker and with two."""
    lines = [("workers", "wall s", "against one", "sum of trials, s")]
    one = 0.0
    for count in (1, 2):
        start = time.perf_counter()
        rows = searched(
            sweep_of(args, args.trials), folder / f"workers-{count}", args, count
        ).rows()
        wall = time.perf_counter() - start
        one = one or wall
        lines.append(
            (str(count), f"{wall:.0f}", f"{one / wall:.2f}", f"{spent(rows, 'seconds'):.0f}")
        )
        say(f"{count} worker(s): {wall:.0f} s")
    table(lines)


WHAT = {"pruning": pruning, "limits": limits, "overhead": overhead, "workers": workers}


TRIALS = {"pruning": 16, "limits": 8, "overhead": 12, "workers": 12}


def main() -> None:
    """Runs one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="PLACE=JSON")
    parser.add_argument("--trials", type=int, help="candidates to train")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cache-dir", type=Path, default=Path(".data"))
    args = parser.parse_args()
    args.trials = args.trials or TRIALS[args.what]
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        WHAT[args.what](args, Path(folder))


if __name__ == "__main__":
    main()
