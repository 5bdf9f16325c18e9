"""What each way to start two ranks costs: `recsys train --ranks`, torchrun and Ray.

    .venv/bin/python benchmarks/rank_starts.py
    .venv/bin/python benchmarks/rank_starts.py --no-ray
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/rank_starts.py --no-ray --rows 4000 \
        --batch 256 --rounds 1                                                   # a quick look

Gives the same work to each as a command, interleaved in rounds, and splits its time by the files
that a run writes: ``begin`` is from the start of the command to the job (processes, imports,
process group, cached data), ``tables`` to the printed plan, ``train`` the steps, ``evals``
evaluations and checkpoints in between, ``report`` the files and the plots, with the last
evaluation, ``end`` what comes after.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from printing import QUIET, interleaved, machine, say, spread, table
from rank_jobs import config_options, experiment_of, prepared_of


def command_of(kind: str, train: list[str]) -> list[str]:
    """The command line that starts two ranks."""
    recsys = [sys.executable, "-m", "recsys", *train]
    if kind == "ranks":
        return [*recsys, "--ranks", "2"]
    if kind == "torchrun":
        run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return [*run, "--nproc-per-node", "2", "-m", "recsys", *train]
    return [*recsys, "--ray", "--workers", "2"]


def starts(args: argparse.Namespace, folder: Path) -> None:
    """The same work by each way to start ranks."""
    experiment = experiment_of(args, f"train.batch_size={args.batch // 2}")
    cache = args.cache or folder / "cache"
    prepared_of(experiment, cache)
    config = folder / "config.json"
    experiment.save(config)
    kinds = ["ranks", "torchrun"] if args.no_ray else ["ranks", "torchrun", "ray"]
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    (folder / "r").mkdir()
    environment = {**os.environ, **QUIET, "RAY_TMPDIR": str(folder / "r")}
    for number, (round_, kind) in enumerate(interleaved(kinds, args.rounds)):
        run = folder / f"start-{number}"
        train = ["train", "--config", str(config), "--cache-dir", str(cache), "--run-dir", str(run)]
        began, clock = time.time(), time.perf_counter()
        done = subprocess.run(
            command_of(kind, train), env=environment, capture_output=True, text=True
        )
        total = time.perf_counter() - clock
        if done.returncode:
            raise SystemExit(f"{kind} failed:\n{done.stderr[-3000:]}")
        result = json.loads((run / "result.json").read_text())
        seconds, plan = result["seconds"], (run / "plan.json").stat().st_mtime
        job = (run / "environment.json").stat().st_mtime
        one = {"whole": total, "begin": job - began, "tables": plan - job}
        one |= {"train": seconds["train"], "report": seconds["report"]}
        one["evals"] = seconds["fit"] - seconds["train"] - one["tables"]
        one["end"] = total - one["begin"] - seconds["fit"] - seconds["report"]
        one["rate"] = result["rows_per_second"]
        one["auc"] = result["metrics"]["valid"]["auc"]
        found[kind].append(one)
        say(
            f"round {round_ + 1} of {args.rounds}, {kind}: {total:.1f} s, {one['rate']:,.0f} rows/s"
        )
    print(
        f"\ntwo ranks, {args.rows:,} rows an epoch, batch {args.batch // 2:,} a rank, "
        f"{args.rounds} rounds; seconds, median (range)"
    )
    parts = ("begin", "tables", "train", "evals", "report", "end", "whole")
    lines: list[tuple[str, ...]] = [("start", "rows/s", *parts)]
    for kind in kinds:
        values = [spread([one[part] for one in found[kind]], ".1f") for part in parts]
        lines.append((kind, spread([one["rate"] for one in found[kind]], ",.0f"), *values))
    table(lines)
    lines = [("against torchrun", "rows/s", "whole", "all but train", "AUC equal")]
    for kind in kinds:
        pairs = list(zip(found[kind], found["torchrun"]))
        rest = [(a["whole"] - a["train"]) - (b["whole"] - b["train"]) for a, b in pairs]
        lines.append(
            (
                kind,
                spread([a["rate"] / b["rate"] for a, b in pairs], ".2f") + "x",
                spread([a["whole"] / b["whole"] for a, b in pairs], ".2f") + "x",
                spread(rest, "+.1f") + " s",
                str(all(a["auc"] == b["auc"] for a, b in pairs)),
            )
        )
    print()
    table(lines)


def parse() -> argparse.Namespace:
    parser = config_options("Ways to start two ranks.", rounds=5)
    parser.add_argument("--batch", type=int, default=4096, help="rows, over both ranks")
    parser.add_argument("--no-ray", action="store_true")
    return parser.parse_args()


def main() -> None:
    args = parse()
    os.environ.update(QUIET)
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="rk-") as folder:  # short: Ray's sockets lie in it
        starts(args, Path(folder))


if __name__ == "__main__":
    main()
